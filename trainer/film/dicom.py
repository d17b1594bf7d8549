"""DICOM: one chest radiograph becomes eight-bit gray, or is refused by the tag that says why.

Read are CR, DX and secondary captures in every transfer syntax that chest films come in. Nothing
that identifies a patient is ever part of a message: only coded values are repeated (modality, body
part, view, …). Importing this module takes a third of a second, so `trainer.film.rules` does that
when it meets the first DICOM.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from trainer.film import decoders  # noqa: F401 (before pydicom, which it loads without GDCM)

# isort: split

import pydicom
import pydicom.config
import pydicom.uid
from PIL import Image
from pydicom.dataset import Dataset

from trainer.errors import FilmError, FilmRefused
from trainer.film import dicom_file, dicom_pixels
from trainer.film.codestream import corrupt
from trainer.film.refusals import Accepted, check_size, refuse, shown
from trainer.film.tags import named

# What pydicom would log and warn about may hold values of any tag. The values are checked here.
logging.getLogger("pydicom").setLevel(logging.CRITICAL)
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE

#: Everything that is looked at; everything else in a file is skipped unread.
KEYWORDS = (
    "SOPClassUID", "Modality", "PresentationIntentType", "BodyPartExamined",
    "AnatomicRegionSequence", "ViewPosition", "ViewCodeSequence", "PatientOrientation",
    "PatientID", "IssuerOfPatientID", "StudyInstanceUID", "AccessionNumber", "BurnedInAnnotation",
    "DirectoryRecordSequence", "EncapsulatedDocument", "ContentSequence", *dicom_pixels.KEYWORDS,
)  # fmt: skip

#: Those that say whose a film is.
_IDENTITY = ("PatientID", "IssuerOfPatientID", "StudyInstanceUID", "AccessionNumber")

#: Characters of a tag's value: two identifiers of at most 64 make the longest that is valid.
_LONGEST = 1024

#: Modalities of radiographs. OT and SC name nothing, so the other tags decide.
_RADIOGRAPHS = frozenset({"CR", "DX", "RG", "OT", "SC", ""})

#: Others (PS3.3, section C.7.3.1.1.1), for messages.
_MODALITIES = frozenset((
    "AR", "AU", "BDUS", "BI", "BMD", "CT", "DG", "DOC", "ECG", "EPS", "ES", "FID", "GM", "HC",
    "HD", "IO", "IVOCT", "IVUS", "KER", "KO", "LEN", "LS", "MG", "MR", "NM", "OAM", "OCT", "OP",
    "OPM", "OPT", "OPV", "PLAN", "PR", "PT", "PX", "REG", "RESP", "RF", "RTDOSE", "RTIMAGE",
    "RTPLAN", "RTRECORD", "RTSTRUCT", "RWV", "SEG", "SM", "SMR", "SR", "SRF", "TG", "US", "XA",
    "XC",
))  # fmt: skip

#: SOP classes that may hold a radiograph (PS3.4, annex B.5).
_STORAGE = "1.2.840.10008.5.1.4.1.1."
_RADIOGRAPH_CLASSES = frozenset(
    _STORAGE + suffix
    for suffix in ("1", "1.1", "1.1.1", "7", "7.1", "7.2", "7.3", "7.4")
)  # fmt: skip
_FOR_PROCESSING_CLASS = _STORAGE + "1.1.1"

#: SOP classes without an image: by the start of the UID, and what they are.
_NO_PIXELS = (
    (_STORAGE + "88", "a structured report or a selection of objects"),
    (_STORAGE + "11", "a presentation state"),
    (_STORAGE + "104", "an encapsulated document (PDF, CDA, STL)"),
    (_STORAGE + "9", "a waveform"),
    (_STORAGE + "66", "raw data, a segmentation or a registration"),
    (_STORAGE + "481", "a radiotherapy object"),
)
_DIRECTORY = "1.2.840.10008.1.3.10"

#: Words of a chest film's body part, and words beside them that make it another one.
_CHEST_WORDS = frozenset((
    "CHEST", "THORAX", "TORAX", "THX", "LUNG", "LUNGS",
    "PULMONARY", "CXR", "POUMON", "POUMONS", "PULMON", "LUNGE",
))  # fmt: skip
_OTHER_WORDS = frozenset((
    "ABDOMEN", "PELVIS", "SPINE", "RIB", "RIBS", "RIBCAGE",
    "NECK", "STERNUM", "CLAVICLE", "HEAD",
))  # fmt: skip

#: Words of other body parts, for messages.
_BODY_PARTS = frozenset((
    "ANKLE", "ARM", "BREAST", "CSPINE", "ELBOW", "EXTREMITY", "FEMUR", "FINGER", "FOOT", "FOREARM",
    "HAND", "HEART", "HIP", "HUMERUS", "JAW", "KNEE", "LEG", "LSPINE", "SHOULDER", "SINUS", "SKULL",
    "TEETH", "TOE", "TSPINE", "WHOLEBODY", "WRIST",
))  # fmt: skip

#: Codes of the chest in AnatomicRegionSequence (SNOMED CT; SNOMED RT before 2018; CID 4031).
_CHEST_CODES = frozenset((
    "816094009", "51185008", "T-D3000", "39607008", "T-28000", "43799004", "T-D3200",
))  # fmt: skip

#: Words of a ViewPosition that is not frontal. LLD and RLD (decubitus) are frontal.
_LATERAL_WORDS = frozenset((
    "LL", "RL", "LAT", "LLAT", "RLAT", "LATERAL", "LAO", "RAO", "LPO", "RPO",
    "LLO", "RLO", "OBL", "OBLIQUE", "SWIMMERS",
))  # fmt: skip

#: Codes of CID 4010 in ViewCodeSequence that are not frontal (SNOMED CT; SNOMED RT before 2018).
_LATERAL_CODES = frozenset((
    "399312000", "R-10208", "399160007", "R-10204", "399352003", "R-10228", "260427002",
    "R-40783", "399067008", "R-102CD", "399099002", "R-10230", "399135007", "R-10220",
    "399173006", "R-10236", "399184004", "R-10238", "399006002", "R-10212", "399368009",
    "R-10226", "399260004", "R-10224", "399182000", "R-102C1", "399059000", "R-10216",
    "399356000", "R-40985", "399198007", "R-10232", "399236003", "R-10234", "399038007",
    "R-10210",
))  # fmt: skip


def read(data: bytes, accept: Accepted, tags: dict[str, str] | None) -> Image.Image:
    """A radiograph as eight-bit gray, 255 brightest, at its own size.

    Raises FilmRefused and FilmError as `trainer.film.rules.decode` does, and fills `tags` as it
    does.
    """
    try:
        dataset = dicom_file.read(data, KEYWORDS)
        # What pydicom has looked at once it keeps as what it made of it; pixels want what is there.
        described = Dataset(dict(dataset.items()))
        described.set_original_encoding(*dataset.original_encoding, dataset.original_character_set)
        if tags is not None:
            tags.update(_identity(described))
        _refuse_other(described, accept)
        _refuse_several(dataset, accept)
        rows, columns = dicom_pixels.shape(dataset)
        check_size(columns, rows, accept)
        return dicom_pixels.gray(dataset, rows, columns, accept)
    except (FilmError, MemoryError):
        raise
    except BaseException as error:
        # The readers raise nearly anything for a damaged file, and what they say may repeat values.
        # Those written in Rust panic, which is no Exception; but an interrupt is none of theirs.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise corrupt("the DICOM cannot be read: it contradicts itself") from None


def size(data: bytes) -> tuple[int, int]:
    """Width and height of a film that `read` has read."""
    rows, columns = dicom_pixels.shape(dicom_file.read(data, ("Rows", "Columns")))
    return columns, rows


def identity(file: BinaryIO) -> dict[str, str]:
    """What a file says of `patient`, `study` and `accession`, as `trainer.film.rules.decode` has
    it, in the clear; nothing of it where that cannot be read. Pixels are not looked at."""
    found: dict[str, str] = {}
    with contextlib.suppress(Exception):  # whatever is wrong with it shows when it is decoded
        found |= _identity(dicom_file.read_header(file, _IDENTITY))
    return found


def _identity(dataset: Dataset) -> Iterator[tuple[str, str]]:
    patient, issuer = _text(dataset, "PatientID"), _text(dataset, "IssuerOfPatientID")
    if patient:
        # A backslash cannot be part of either value (PS3.5, section 6.2).
        yield "patient", f"{patient}\\{issuer}" if issuer else patient
    for name, keyword in (("study", "StudyInstanceUID"), ("accession", "AccessionNumber")):
        value = _text(dataset, keyword)
        if value:
            yield name, value


def _refuse_other(dataset: Dataset, accept: Accepted) -> None:
    """Raise FilmRefused or FilmError for what is no single frontal chest film."""
    sop_class = _text(dataset, "SOPClassUID")
    _refuse_without_pixels(dataset, sop_class)
    _refuse_other_kind(dataset, sop_class, accept)
    _refuse_other_part(dataset, accept)
    _refuse_other_view(dataset, accept)
    intent = _text(dataset, "PresentationIntentType").upper()
    if intent == "FOR PROCESSING":
        found = f"{named('PresentationIntentType')} is FOR PROCESSING: raw detector data"
        refuse("for_processing", found, accept)
    if sop_class == _FOR_PROCESSING_CLASS:
        found = f"{named('SOPClassUID')} is an X-ray image for processing: raw detector data"
        refuse("for_processing", found, accept)
    if _text(dataset, "BurnedInAnnotation").upper() == "YES":
        found = f"{named('BurnedInAnnotation')} is YES: text is burned into the pixels"
        refuse("burned_in", found, accept)


def _refuse_several(dataset: Dataset, accept: Accepted) -> None:
    frames = dicom_pixels.frames(dataset)
    if frames > 1:
        found = f"{named('NumberOfFrames')} is {shown(frames)}: more than one picture"
        refuse("multi_frame", found, accept)


def _refuse_without_pixels(dataset: Dataset, sop_class: str) -> None:
    if sop_class == _DIRECTORY or "DirectoryRecordSequence" in dataset:
        raise FilmRefused(
            "dicomdir",
            f"{named('SOPClassUID')} is a media storage directory: an index of films; score the "
            "files beside it",
        )
    if any(keyword in dataset for keyword in dicom_pixels.PIXEL_KEYWORDS):
        return
    what = next(
        (
            name
            for prefix, name in _NO_PIXELS
            if sop_class == prefix or sop_class.startswith(prefix + ".")
        ),
        "",
    )
    for keyword in ("EncapsulatedDocument", "ContentSequence"):
        if keyword in dataset and not what:
            raise FilmRefused(
                "no_pixels", f"{named(keyword)} is a document: it holds no image; leave it out"
            )
    if what:
        raise FilmRefused(
            "no_pixels", f"{named('SOPClassUID')} is {what}: it holds no image; leave it out"
        )
    raise FilmError(
        "truncated",
        f"{named('PixelData')} is absent or cut short; export it again from where it came from",
    )


def _refuse_other_kind(dataset: Dataset, sop_class: str, accept: Accepted) -> None:
    modality = _text(dataset, "Modality").upper()
    if modality not in _RADIOGRAPHS:
        shown = _shown(modality, _MODALITIES)
        found = f"{named('Modality')} is {shown}: not a radiograph (CR, DX)"
        refuse("modality", found, accept)
    if sop_class.startswith(_STORAGE) and sop_class not in _RADIOGRAPH_CLASSES:
        name = pydicom.uid.UID(sop_class).name
        shown = "none of the standard's" if name == sop_class else name
        refuse("modality", f"{named('SOPClassUID')} is {shown}: not a radiograph", accept)


def _refuse_other_part(dataset: Dataset, accept: Accepted) -> None:
    part = _text(dataset, "BodyPartExamined").upper()
    words = set(re.findall(r"[A-Z]+", part))
    if words and (words & _OTHER_WORDS or not words & _CHEST_WORDS):
        shown = _shown(part, _CHEST_WORDS | _OTHER_WORDS | _BODY_PARTS)
        found = f"{named('BodyPartExamined')} is {shown}: not the chest"
        refuse("body_part", found, accept)
    if words:
        return
    for code in _codes(dataset, "AnatomicRegionSequence"):
        if code and code not in _CHEST_CODES:
            found = f"{named('AnatomicRegionSequence')} has a code that is not the chest's"
            refuse("body_part", found, accept)


def _refuse_other_view(dataset: Dataset, accept: Accepted) -> None:
    view = _text(dataset, "ViewPosition").upper()
    words = set(re.findall(r"[A-Z]+", view))
    if words & _LATERAL_WORDS:
        shown = _shown(view, _LATERAL_WORDS)
        found = f"{named('ViewPosition')} is {shown}: not a frontal view"
        refuse("lateral", found, accept)
    for code in _codes(dataset, "ViewCodeSequence"):
        if code in _LATERAL_CODES:
            found = f"{named('ViewCodeSequence')} is {code}: not a frontal view"
            refuse("lateral", found, accept)
    directions = _text(dataset, "PatientOrientation").upper().replace("\\", "/")
    # Rows that run to the front or the back of the patient, columns to the head or the feet.
    if not words and re.fullmatch(r"[AP][A-Z]*/[FH][A-Z]*", directions):
        found = f"{named('PatientOrientation')} says that it is seen from the side"
        refuse("lateral", found, accept)


def _codes(dataset: Dataset, keyword: str) -> Iterator[str]:
    items = dataset.get(keyword)
    if isinstance(items, pydicom.Sequence):
        for item in items:
            yield _text(item, "CodeValue")


def _text(dataset: Dataset, keyword: str) -> str:
    """A value as text, several joined by backslashes as they are stored; empty where absent.

    A damaged file may hold any amount: of that, what is more than _LONGEST is left out.
    """
    value: Any = dataset.get(keyword)
    if value is None:
        return ""
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    if not isinstance(value, str) and hasattr(value, "__iter__"):
        value = "\\".join(str(part) for part in value)
    return str(value).strip("\0 \t\r\n")[:_LONGEST]


def _shown(value: str, known: frozenset[str]) -> str:
    """The words of a value that are known here, for a message: others may name people."""
    words = [word for word in re.findall(r"[A-Z0-9]+", value) if word in known]
    return " ".join(words) or "something else"
