"""Films whose every text, and whose every file's and folder's name, is a token of its own."""

from __future__ import annotations

import functools
import gzip
import io
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pydicom.config
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import tag_for_keyword

from tests.support import hostile
from tests.support.tokens import Tokens
from tests.worker import spots
from trainer.film import dicom

#: DICOM's text elements of every kind of value; the coded ones by which a film is told from others
#: are those of a chest film, and are said in a refusal.
TEXTS = (
    "InstitutionName", "ReferringPhysicianName", "StationName", "StudyDescription",
    "SeriesDescription", "InstitutionalDepartmentName", "PerformingPhysicianName", "OperatorsName",
    "ManufacturerModelName", "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate",
    "PatientSex", "PatientAge", "OtherPatientNames", "PatientAddress", "PatientComments",
    "EthnicGroup", "Occupation", "AdditionalPatientHistory", "AccessionNumber", "StudyID",
    "StudyDate", "StudyTime", "ImageComments", "ProtocolName", "RequestedProcedureDescription",
    "DeviceSerialNumber", "PatientOrientation", "Laterality", "AcquisitionDeviceProcessingCode",
)  # fmt: skip
NUMBERS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")


#: Texts of the file's meta group.
META = (
    "SourceApplicationEntityTitle", "SendingApplicationEntityTitle",
    "ReceivingApplicationEntityTitle", "ImplementationVersionName",
)  # fmt: skip

#: Kinds of coded values, and of texts.
CODED = ("AE", "AS", "CS", "DA", "DT", "LO", "SH", "TM", "UC", "UR")


@functools.cache
def _not_looked_at() -> tuple[tuple[str, str], ...]:
    """(keyword, VR) of all elements of such values that reading a film does not look at."""
    kinds = {*CODED, "UI", "IS", "DS"}
    # Character sets say how texts are read; curves and overlays have many numbers each.
    left_out = {*dicom.KEYWORDS, "SpecificCharacterSet"}
    return tuple(
        (keyword, vr)
        for tag, (vr, _, _, _, keyword) in sorted(DicomDictionary.items())
        if vr in kinds and keyword not in left_out and 0x0008 <= tag >> 16 < 0x7FE0
    )


class Films:
    """Makes such films; what a file is called is of one kind, what is in it `text`."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens
        self._made = 0

    def _pixels(self, sick: bool) -> Image.Image:
        self._made += 1
        return spots.film(np.random.default_rng([7, self._made]), sick)

    def _text(self, what: str) -> str:
        return self.tokens.word("text", what)

    def png(self, sick: bool = False) -> bytes:
        """A PNG with texts of both kinds, and EXIF."""
        info = PngInfo()
        info.add_text("Author", self._text("PNG tEXt"))
        info.add_itxt("Description", self._text("PNG iTXt"), zip=True)
        return hostile.encoded(self._pixels(sick), "PNG", pnginfo=info, exif=self._exif())

    def jpeg(self, sick: bool = False) -> bytes:
        """A JPEG with a comment and EXIF."""
        comment = self._text("JPEG comment")
        return hostile.encoded(
            self._pixels(sick), "JPEG", quality=95, comment=comment, exif=self._exif()
        )

    def _exif(self) -> Image.Exif:
        exif = Image.Exif()
        for tag, name in ((0x010E, "ImageDescription"), (0x013B, "Artist"), (0x8298, "Copyright")):
            exif[tag] = self._text(f"EXIF {name}")
        exif[0x9C9C] = self._text("EXIF XPComment").encode("utf-16-le")
        return exif

    def dicom(self, sick: bool = False, pixels: Any = None, **tags: Any) -> bytes:
        """A DICOM chest film with a text in each of `TEXTS`, also in a sequence and its own tag."""
        if pixels is None:
            pixels = np.asarray(self._pixels(sick))
        texts: dict[str, Any] = {name: self._text(f"DICOM {name}") for name in TEXTS}
        numbers = {n: f"1.2.{self.tokens.number('text', f'DICOM {n}')}" for n in NUMBERS}
        with unchecked():
            made = hostile.dataset(pixels, **{**texts, **numbers, **tags})
            inner = pydicom.Dataset()
            inner.PatientID = self._text("DICOM PatientID in a sequence")
            made.OtherPatientIDsSequence = pydicom.Sequence([inner])
            made.add_new(0x00090010, "LO", self._text("DICOM creator of a private tag"))
            made.add_new(0x00091001, "UT", self._text("DICOM private tag"))
            made.add_new(0x00091002, "SQ", [self.coded(depth=1)])
            self._fill(made)
            return hostile.written(made)

    def _fill(self, made: pydicom.FileDataset) -> None:
        """Coded values of every kind into all elements of the standard that are not looked at, and
        into the file's meta group."""
        values: dict[str, Any] = {vr: self._text(f"DICOM {vr}") for vr in CODED}
        values |= {vr: f"1.2.{self.tokens.number('text', 'DICOM UI')}" for vr in ("UI",)}
        values |= {vr: self.tokens.number("text", f"DICOM {vr}") for vr in ("IS", "DS")}
        for keyword, vr in _not_looked_at():
            if keyword not in made:
                made.add_new(tag_for_keyword(keyword), vr, values[vr])
        made.ProcedureCodeSequence = pydicom.Sequence([self.coded()])
        made.RequestAttributesSequence = pydicom.Sequence([self.coded()])
        for keyword in META:
            setattr(made.file_meta, keyword, self._text(f"DICOM {keyword}"))
        made.file_meta.ImplementationClassUID = values["UI"]
        made.file_meta.PrivateInformationCreatorUID = values["UI"]
        made.file_meta.PrivateInformation = self._text("DICOM PrivateInformation").encode()

    def coded(self, depth: int = 3) -> pydicom.Dataset:
        """An item of a code sequence, with others in it."""
        item = pydicom.Dataset()
        for keyword in ("CodeValue", "CodingSchemeDesignator", "CodingSchemeVersion",
                        "CodeMeaning", "LongCodeValue", "ContextIdentifier"):  # fmt: skip
            setattr(item, keyword, self._text(f"DICOM {keyword}, {depth} deep"))
        if depth:
            item.EquivalentCodeSequence = pydicom.Sequence([self.coded(depth - 1)])
        return item

    def named(self, kind: str, data: bytes, ending: str) -> tuple[str, bytes]:
        """A film with the name of a file in a folder, both tokens."""
        folder = self.tokens.word(kind, "folder")
        return f"{folder}/{self.tokens.word(kind, 'file')}_1{ending}", data

    def mixed(self, image: str, dicom: str) -> list[tuple[str, bytes]]:
        """Films of each kind, and broken and refused ones; their names are of these kinds."""
        named, cut = self.named, 700
        return [
            named(image, self.png(), ".png"),
            named(image, self.jpeg(sick=True), ".jpeg"),
            named(image, self.jpeg()[:cut], ".jpg"),
            named(image, self.png()[: cut * 2], ".png"),
            named(image, f"{self._text('text file')} has pneumonia\n".encode() * 9, ".txt"),
            named(image, b"\1" + self._text("unknown file").encode() + b"\0" * 99, ".bin"),
            named(image, b"", ".png"),
            named(dicom, self.dicom(), ".dcm"),
            named(dicom, self.dicom(sick=True), ""),
            named(dicom, self.dicom(ViewPosition="LL"), ".dcm"),
            named(dicom, self.dicom(Modality="CT"), ""),
            named(dicom, self.dicom()[:1200], ".dcm"),
            named(dicom, self.dicom(Rows=None), ".dcm"),
            named(dicom, f"<html>{self._text('web page')}</html>".encode(), ".dcm"),
        ]

    def large(self, kind: str) -> list[tuple[str, bytes]]:
        """DICOM films of some MiB of text: an archive of them has points inside, amid such text."""
        rng = np.random.default_rng(5)
        made = []
        for _ in range(4):
            text = "".join(self._text("long text") + rng.bytes(20).hex() for _ in range(40))
            lines = "".join(text + rng.bytes(500).hex() for _ in range(600))
            made.append(self.named(kind, self.dicom(TextValue=lines), ""))
        return made


@contextmanager
def unchecked() -> Iterator[None]:
    """Any text may stand in any element, as in files that people have."""
    settings = pydicom.config.settings
    before = settings.reading_validation_mode, settings.writing_validation_mode
    settings.reading_validation_mode = pydicom.config.IGNORE
    settings.writing_validation_mode = pydicom.config.IGNORE
    try:
        yield
    finally:
        settings.reading_validation_mode, settings.writing_validation_mode = before


def write(folder: Path, films: list[tuple[str, bytes]]) -> Path:
    """Write films into a folder."""
    for name, data in films:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def write_zip(path: Path, films: list[tuple[str, bytes]], comment: str) -> Path:
    """Write films into a zip."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = comment.encode()
        for name, data in films:
            archive.writestr(name, data)
    return path


def write_tar_gz(path: Path, films: list[tuple[str, bytes]], comment: str) -> Path:
    """Write films into a tar.gz whose header names the file that it was."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in films:
            member = tarfile.TarInfo(name)
            member.size, member.uname, member.gname = len(data), comment, comment
            archive.addfile(member, io.BytesIO(data))
    with path.open("wb") as file, gzip.GzipFile(f"{comment}.tar", "wb", fileobj=file) as packed:
        packed.write(buffer.getvalue())
    return path
