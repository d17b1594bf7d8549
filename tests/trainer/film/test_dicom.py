"""DICOM films: their gray is what the standard says, and what is refused is named by its tag."""

from __future__ import annotations

import random
import re
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.sequence import Sequence

from tests.support import hostile
from tests.support.paths import SHARED
from trainer.data import cache
from trainer.data import dataset as datasets
from trainer.errors import FilmError, FilmRefused
from trainer.film import content, dicom, rules
from trainer.film.refusals import Accepted

DATA = SHARED / "data" / "dicom"

#: Files that come with pydicom: other writers, other transfer syntaxes, other mistakes.
PACKAGED = Path(pydicom.__file__).parent / "data" / "test_files"

EVERYTHING = tuple(rules.REFUSALS)

TWELVE = {"BitsStored": 12, "HighBit": 11}


def deep() -> np.ndarray:
    """`picture()` with twelve bits and values of its own, `uint16`."""
    return np.rint(hostile.picture() * 13.7 + 120).astype(np.uint16)


def shrunk(gray: np.ndarray, size: int = 64) -> np.ndarray:
    """Gray from 0 to 1 at full size, shrunk in floating point to the rule's size, 0 to 255."""
    whole = Image.fromarray(np.clip(gray * 255, 0, 255).astype(np.float32))
    return np.asarray(whole.resize((size, size), Image.Resampling.BILINEAR))


def reference(
    data: bytes | Path, low: float | None = None, high: float | None = None
) -> np.ndarray:
    """What pydicom's own modality and VOI functions make of a file, shrunk in floating point."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(
            data if isinstance(data, Path) else pydicom.filebase.DicomBytesIO(data)
        )
        stored = dataset.pixel_array
        scaled = apply_modality_lut(stored, dataset)
        shown = apply_voi_lut(scaled, dataset).astype(float)
    if "VOILUTSequence" in dataset:
        ends = (0.0, 2.0 ** dataset.VOILUTSequence[0].LUTDescriptor[2] - 1)
    elif "WindowWidth" in dataset:
        # pydicom maps the window to the range that the scaled values can have.
        bits = dataset.BitsStored
        ends = (
            (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1)
            if dataset.PixelRepresentation
            else (0.0, 2.0**bits - 1)
        )
        slope, intercept = (
            float(dataset.get("RescaleSlope", 1)),
            float(dataset.get("RescaleIntercept", 0)),
        )
        if "RescaleSlope" in dataset:
            ends = (ends[0] * slope + intercept, ends[1] * slope + intercept)
    elif dataset.BitsStored <= 8:
        ends = (0.0, 2.0**dataset.BitsStored - 1)
    else:
        ends = (shown.min(), shown.max())
    low, high = ends if low is None or high is None else (low, high)
    gray = (shown - low) / (high - low)
    return shrunk(1 - gray if dataset.PhotometricInterpretation == "MONOCHROME1" else gray)


def lut(first: int, entries: list[int], bits: int = 16, **more: Any) -> Sequence:
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [len(entries), first, bits], entries
    item["LUTDescriptor"].VR = "SS" if first < 0 else "US"
    item["LUTData"].VR = "US"
    if "ModalityLUTType" in more:
        item.ModalityLUTType = more["ModalityLUTType"]
    return Sequence([item])


CURVE = [round(65_535 * (i / 4095) ** 0.6) for i in range(4096)]

RENDERINGS: dict[str, dict[str, Any]] = {
    "no window": {},
    "a window": {"WindowCenter": "1700", "WindowWidth": "1500"},
    "the first of two windows": {"WindowCenter": ["900", "3000"], "WindowWidth": ["2000", "10"]},
    "a rescaled window": {
        "RescaleSlope": "0.5", "RescaleIntercept": "-400",
        "WindowCenter": "300", "WindowWidth": "900",
    },
    "an exact window": {
        "VOILUTFunction": "LINEAR_EXACT", "WindowCenter": "1700", "WindowWidth": "1500",
    },
    "a sigmoid window": {
        "VOILUTFunction": "SIGMOID", "WindowCenter": "1700", "WindowWidth": "1500",
    },
    "a VOI LUT before a window": {
        "VOILUTSequence": lut(0, CURVE), "WindowCenter": "10", "WindowWidth": "20",
    },
    "a VOI LUT that starts late": {"VOILUTSequence": lut(700, CURVE[:2000])},
    "a modality LUT": {"ModalityLUTSequence": lut(0, CURVE, ModalityLUTType="US")},
}  # fmt: skip


@pytest.mark.parametrize("inverted", [False, True], ids=["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize("name", RENDERINGS)
def test_gray_is_what_the_reference_makes_of_it(name: str, inverted: bool) -> None:
    kind = {"PhotometricInterpretation": "MONOCHROME1" if inverted else "MONOCHROME2"}
    data = hostile.dicom(deep(), **TWELVE, **kind, **RENDERINGS[name])
    apart = np.abs(rules.decode(data, 64) - reference(data))
    assert apart.max() <= 1.01
    assert apart.mean() < 0.4


def test_a_signed_film_with_a_signed_table_is_what_the_reference_makes_of_it() -> None:
    signed = deep().astype(np.int16) - 2048
    data = hostile.dicom(signed, **TWELVE, VOILUTSequence=lut(-2048, CURVE))
    assert np.abs(rules.decode(data, 64) - reference(data)).max() <= 1.01


def test_eight_bits_in_big_endian_words_are_what_the_reference_makes_of_them() -> None:
    made = hostile.dataset(hostile.picture(201, 241), uid.ExplicitVRBigEndian)
    padded = np.frombuffer(made.PixelData + b"\0", "<u2")
    made.PixelData = padded.astype(">u2").tobytes()
    made["PixelData"].VR = "OW"
    data = hostile.written(made)
    assert np.abs(rules.decode(data, 64) - reference(data)).max() <= 1.01
    assert np.abs(rules.decode(data, 64) - shrunk(hostile.picture(201, 241) / 255)).max() <= 1.01


def test_a_table_in_big_endian_words_is_that_in_little_endian_ones() -> None:
    little = hostile.dicom(deep(), **TWELVE, VOILUTSequence=lut(0, CURVE))
    table = lut(0, CURVE)
    table[0].add_new("LUTData", "OW", np.array(CURVE, ">u2").tobytes())
    big = hostile.dicom(deep(), uid.ExplicitVRBigEndian, **TWELVE, VOILUTSequence=table)
    assert np.array_equal(rules.decode(big, 64), rules.decode(little, 64))


def _packaged() -> list[Path]:
    """Gray images among pydicom's own files."""
    found = []
    for path in sorted(PACKAGED.glob("*.dcm")):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                dataset = pydicom.dcmread(path, stop_before_pixels=True)
        except (pydicom.errors.InvalidDicomError, EOFError, NotImplementedError):
            continue
        wanted = (
            dataset.get("PhotometricInterpretation") in ("MONOCHROME1", "MONOCHROME2")
            and dataset.get("BitsAllocated") in (8, 16)
            and int(dataset.get("NumberOfFrames") or 1) == 1
            and "PixelPaddingValue" not in dataset
            and "truncated" not in path.name
        )
        if wanted:
            found.append(path)
    return found


@pytest.mark.parametrize("path", _packaged(), ids=lambda path: path.name)
def test_files_of_other_writers_agree_with_the_reference(path: Path) -> None:
    try:
        expected = reference(path)
    except (AttributeError, RuntimeError) as error:
        pytest.skip(f"the reference does not read it: {error}")
    # Not by the rule, which refuses those of few grays.
    gray = dicom.read(path.read_bytes(), Accepted(EVERYTHING), None)
    apart = np.abs(np.asarray(gray.resize((64, 64), Image.Resampling.BILINEAR)) - expected)
    assert apart.mean() < 0.6


@pytest.mark.parametrize("path", sorted(PACKAGED.glob("*")), ids=lambda path: path.name)
def test_any_file_of_another_writer_gives_pixels_or_a_film_error(
    path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if path.is_file():
        try:
            rules.decode(path.read_bytes(), 64, accept=EVERYTHING)
        except FilmError as error:
            assert error.code in (
                "truncated", "corrupt", "unsupported_pixels", "no_pixels", "dicomdir",
                "not_an_image", "nested_archive", "blank",
            )  # fmt: skip
        assert capfd.readouterr() == ("", "")


def test_padding_is_black_and_has_no_part_in_the_range() -> None:
    film_values = deep()
    film_values[:, :40] = 0
    film_values[:30] = 4095
    tags = {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 0}
    made = hostile.dicom(film_values, **TWELVE, **tags, PhotometricInterpretation="MONOCHROME1")
    pixels = rules.decode(made, 64)
    assert pixels[20:, :8].max() == 0
    inside = film_values[30:, 40:].astype(float)
    inside = (4095 - inside) / (4095 - inside.min())
    expected = np.zeros(film_values.shape)
    expected[30:, 40:] = inside
    assert np.abs(pixels - shrunk(expected)).mean() < 1


def test_identifiers_are_given_apart_and_also_of_what_is_refused() -> None:
    for tags in ({}, {"Modality": "CT"}):
        found: dict[str, str] = {}
        data = hostile.dicom(**tags, IssuerOfPatientID="CLINIC")
        try:
            rules.decode(data, 64, tags=found)
        except FilmRefused:
            assert tags
        assert found == {
            "patient": hostile.PATIENT["PatientID"] + "\\CLINIC",
            "study": hostile.PATIENT["StudyInstanceUID"],
            "accession": hostile.PATIENT["AccessionNumber"],
        }
    found = {}
    rules.decode(hostile.dicom(AccessionNumber="", PatientID=None), 64, tags=found)
    assert list(found) == ["study"]


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"Modality": "CT"}, r"Modality \(0008,0060\) is CT"),
        ({"BodyPartExamined": "RIBCAGE"}, r"BodyPartExamined \(0018,0015\) is RIBCAGE"),
        ({"ViewPosition": "LL"}, r"ViewPosition \(0018,5101\) is LL"),
        ({"NumberOfFrames": 12}, r"NumberOfFrames \(0028,0008\) is 12"),
        ({"BurnedInAnnotation": "YES"}, r"BurnedInAnnotation \(0028,0301\) is YES"),
        ({"PresentationIntentType": "FOR PROCESSING"}, r"PresentationIntentType \(0008,0068\) is"),
    ],
)
def test_a_refusal_names_its_tag_and_what_to_accept(tags: dict[str, Any], message: str) -> None:
    with pytest.raises(FilmRefused, match=message) as raised:
        rules.decode(hostile.dicom(**tags), 64)
    code = raised.value.code
    assert str(raised.value).endswith(f"`pneumoq score --accept {code}` scores it all the same")


def coded(keyword: str, value: str) -> dict[str, Any]:
    """A sequence of one code, whose meaning is a person's name."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", "SMITH^JOHN"
    return {keyword: Sequence([item])}


@pytest.mark.parametrize(
    "tags",
    [
        {"Modality": "SMITHJOHN"},
        {"BodyPartExamined": "SMITHJOHN HAND"},
        {"ViewPosition": "LL SMITHJOHN"},
        {"ViewPosition": None, "PatientOrientation": ["ASMITHJOHN", "FSMITHJOHN"]},
        {"BodyPartExamined": None} | coded("AnatomicRegionSequence", "SMITHJOHN"),
        {"ViewPosition": None} | coded("ViewCodeSequence", "399173006"),
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.19450131"},
        {"PhotometricInterpretation": "SMITHJOHN"},
        {"PresentationLUTShape": "SMITHJOHN"},
        {"VOILUTFunction": "SMITHJOHN", "WindowCenter": 10, "WindowWidth": 10},
    ],
    ids=lambda tags: list(tags)[-1],
)
def test_no_text_of_the_file_is_in_what_is_said_of_it(tags: dict[str, Any]) -> None:
    with pytest.raises((FilmRefused, FilmError)) as raised:
        rules.decode(hostile.dicom(**tags), 64)
    assert not re.search("SMITH|JOHN|19450131", str(raised.value))


@pytest.mark.parametrize("part", ["CHEST", "THORAX", "LUNG", "chest pa", "CHEST_AP", "", None])
@pytest.mark.parametrize("view", ["PA", "AP", "AP LLD", "", None])
def test_frontal_chest_films_are_scored_however_they_are_named(
    part: str | None, view: str | None
) -> None:
    data = hostile.dicom(BodyPartExamined=part, ViewPosition=view)
    assert rules.decode(data, 64).shape == (64, 64)


FORMS = {
    "explicit": hostile.dicom(),
    "implicit": hostile.dicom(deep(), uid.ImplicitVRLittleEndian, **TWELVE),
    "deflated": hostile.dicom(syntax=uid.DeflatedExplicitVRLittleEndian),
    "rle": hostile.compressed(deep(), uid.RLELossless, **TWELVE),
    "jpeg2000": hostile.compressed(deep(), uid.JPEG2000Lossless, **TWELVE),
    "jpeg": hostile.encapsulating(
        hostile.encoded(Image.fromarray(hostile.picture()), "JPEG"),
        hostile.picture(),
        uid.JPEGBaseline8Bit,
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_dicom_cut_anywhere_is_never_scored(form: str) -> None:
    whole = FORMS[form]
    rules.decode(whole, 64)
    for end in range(1, len(whole) - 2, max(1, len(whole) // 60)):
        with pytest.raises(FilmError) as raised:
            rules.decode(whole[:end], 64)
        assert raised.value.code in ("truncated", "corrupt", "not_an_image"), end


@pytest.mark.parametrize("form", FORMS)
def test_damaged_headers_end_in_pixels_or_a_film_error_and_soon(form: str) -> None:
    rng = random.Random(form)
    header = FORMS[form].index(b"DICM") + 700
    for _ in range(120):
        damaged = bytearray(FORMS[form])
        for _ in range(rng.choice((1, 2, 8))):
            damaged[rng.randrange(128, header)] = rng.choice((0, 1, 0xFF, rng.randrange(256)))
        started = time.monotonic()
        try:
            rules.decode(bytes(damaged), 64)
        except FilmError as error:
            assert not any(value in str(error) for value in hostile.PATIENT.values())
        assert time.monotonic() - started < 10


def test_random_bytes_are_not_taken_for_dicom() -> None:
    rng = np.random.default_rng(3)
    for start in (
        b"\x08\x00",
        b"\x02\x00",
        b"\x08\x00\x05\x00CS\x0a\x00",
        b"\x08\x00\x16\x00\x10\0\0\0",
    ):
        for _ in range(3000):
            assert content.kind(start + rng.integers(0, 256, 600, np.uint8).tobytes()) == ""


def test_nothing_that_identifies_is_in_a_message_about_a_document() -> None:
    text = b"Zebedee Secretive, MRN-7781234: pneumonia of the left lower lobe\n" * 40
    with pytest.raises(FilmError) as raised:
        rules.decode(text, 64)
    assert "Zebedee" not in str(raised.value)
    assert "7781234" not in str(raised.value)


def test_dicom_and_deep_films_can_be_trained_on_whatever_they_are_called(tmp_path: Path) -> None:
    deeper = Image.fromarray(deep())
    for label in ("NORMAL", "PNEUMONIA"):
        (tmp_path / label).mkdir()
        for i in range(8):
            seeded = hostile.picture(seed=i + 10 * (label == "NORMAL"))
            (tmp_path / label / f"patient{label}{i}").write_bytes(hostile.dicom(seeded))
        (tmp_path / label / "patient90.dcm").write_bytes(
            hostile.encoded(deeper, "PNG") + label.encode()
        )
        (tmp_path / label / "patient91.txt").write_bytes(
            hostile.encoded(deeper, "TIFF") + label.encode()
        )
    (tmp_path / "NORMAL" / "patient92.dcm").write_bytes(hostile.dicom(ViewPosition="LL"))
    found, made = cache.decode(datasets.read(tmp_path), tmp_path / "pixels", size=64)
    assert [(file.path, file.code) for file in found.left_out] == [
        ("NORMAL/patient92.dcm", "lateral")
    ]
    assert len(made.row) == 20


@pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is not here")
@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("nih_dx_chest.dcm", ""),
        ("cr_chest_monochrome1_jpeg2000_15bit.dcm", ""),
        ("cr_extremity_monochrome1_jpeg2000_lossless_10bit.dcm", "body_part"),
        ("nih_dx_ribcage.dcm", "body_part"),
        ("nih_ct_chest.dcm", "modality"),
        ("us_jpeg_lossless.dcm", "modality"),
        ("html_saved_as.dcm", "not_an_image"),
    ],
)
def test_real_files_are_scored_or_refused_for_the_right_reason(name: str, code: str) -> None:
    data = (DATA / name).read_bytes()
    if code:
        with pytest.raises(FilmError) as raised:
            rules.decode(data, 64)
        assert raised.value.code == code
        assert isinstance(raised.value, FilmRefused) == (code != "not_an_image")
        if code == "not_an_image":
            assert "web page" in str(raised.value)
            return
    apart = np.abs(rules.decode(data, 64, accept=EVERYTHING) - reference(DATA / name))
    assert apart.mean() < 0.5


@pytest.mark.parametrize(
    ("keyword", "name"),
    [
        ("PatientID", "patient"),
        ("IssuerOfPatientID", "patient"),
        ("StudyInstanceUID", "study"),
        ("AccessionNumber", "accession"),
    ],
)
def test_a_tag_is_cut_where_it_is_read(keyword: str, name: str) -> None:
    """A damaged file may hold any amount where a few characters belong."""
    for value in ("1" * 130_000, ["1"] * 65_000):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom would not write it without saying so
            film = hostile.dicom(syntax=uid.ImplicitVRLittleEndian, **{keyword: value})
        tags: dict[str, str] = {}
        rules.decode(film, 64, tags=tags)
        assert 1_000 < len(tags[name]) < 3_000
