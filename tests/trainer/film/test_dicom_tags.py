"""Tags that touch pixels: read where they can mean one thing only, else refused by their name."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence

from tests.support import hostile, lossless, toolkits
from tests.support.hostile import put
from trainer.errors import FilmError, FilmRefused
from trainer.film import codestream, decoders, dicom, refusals

TWELVE = {"BitsStored": 12, "HighBit": 11}
WINDOW = {"WindowCenter": "1700.5", "WindowWidth": "1500"}
CURVE = np.rint(65_535 * (np.arange(4096) / 4095) ** 0.6).astype("<u2")


def deep() -> np.ndarray:
    return np.rint(hostile.picture(64, 80) * 13.7 + 120).astype(np.uint16)


def made(pixels: np.ndarray | None = None, syntax: str = uid.ExplicitVRLittleEndian, **tags: Any):
    pixels = deep() if pixels is None else pixels
    return hostile.dataset(pixels, syntax, **{**TWELVE, **tags})


def film(dataset: FileDataset, *accept: str) -> np.ndarray:
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return np.asarray(dicom.read(buffer.getvalue(), refusals.Accepted(accept), None))


def lut(
    count: int | None, first: int, bits: int = 16, data: bytes | None = None, vr: str = "US"
) -> Sequence:
    """A sequence of one table; nothing in its descriptor where `count` is None."""
    item = Dataset()
    words = b"" if count is None else np.array([count & 0xFFFF, first & 0xFFFF, bits], "<u2")
    put(item, "LUTDescriptor", vr, bytes(memoryview(words)))
    put(item, "LUTData", "OW", CURVE[:count].tobytes() if data is None else data)
    return Sequence([item])


READ: dict[str, dict[str, tuple[str, bytes]]] = {
    "a decimal comma": {"WindowCenter": ("DS", b"1700,5"), "WindowWidth": ("DS", b"1500,0")},
    "blanks, zeros and line ends": {"WindowCenter": ("DS", b" 1700.5\r\n\0 ")},
    "an exponent and a sign": {"WindowCenter": ("DS", b"+17.005E2 ")},
    "a double": {"WindowCenter": ("FD", np.array([1700.5]).tobytes())},
    "a float": {"WindowWidth": ("FL", np.array([1500], "<f4").tobytes())},
    "another VR of text": {"WindowCenter": ("LO", b"1700.5"), "WindowWidth": ("SH", b"1500")},
    "an unknown VR": {"WindowCenter": ("UN", b"1700.5"), "BitsStored": ("UN", b"\x0c\0")},
    "binary where text belongs": {"WindowWidth": ("US", b"\xdc\x05")},
    "text where words belong": {"BitsStored": ("IS", b"12"), "Rows": ("IS", b"64")},
    "long words": {"Rows": ("UL", b"\x40\0\0\0"), "Columns": ("SL", b"\x50\0\0\0")},
    "the same value twice": {"Rows": ("US", b"\x40\0\x40\0"), "RescaleSlope": ("DS", b"1\\1.0 ")},
    "a blank in a code": {"VOILUTFunction": ("CS", b"linear")},
    "one centre too many": {"WindowCenter": ("DS", b"1700.5\\9 ")},
    "an empty first window": {
        "WindowCenter": ("DS", b"\\1700.5 "),
        "WindowWidth": ("DS", b"\\1500 "),
    },
    "a window that is not set before one that is": {
        "WindowCenter": ("DS", b"0\\1700.5"),
        "WindowWidth": ("DS", b"0\\1500"),
    },
    "empty tags": {
        "RescaleSlope": ("DS", b""),
        "PixelPaddingValue": ("US", b""),
        "VOILUTFunction": ("CS", b""),
        "PresentationLUTShape": ("CS", b""),
        "NumberOfFrames": ("IS", b""),
    },
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_what_can_mean_one_thing_only_is_read(name: str) -> None:
    dataset = made(**WINDOW)
    want = film(dataset)
    for keyword, (vr, value) in READ[name].items():
        put(dataset, keyword, vr, value)
    assert np.array_equal(film(dataset), want)


REFUSED: dict[str, list[tuple[str, bytes]]] = {
    "SamplesPerPixel": [("US", b"\1\0\3\0")],
    "PhotometricInterpretation": [("CS", b"MONOCHROME1\\MONOCHROME2 ")],
    "NumberOfFrames": [("IS", b"one "), ("IS", b"1.5 ")],
    "Rows": [("US", b"\x40\0\x41\0"), ("LO", b"many")],
    "Columns": [("US", b"\x50\0\x51\0"), ("FL", b"\0\0\xc0\x7f")],
    "BitsAllocated": [("US", b"\x10\0\x08\0")],
    "BitsStored": [("US", b"\x0c\0\x0d\0"), ("LO", b"twelve")],
    "HighBit": [("US", b"\x0b\0\x0f\0")],
    "PixelRepresentation": [("US", b"\2\0"), ("US", b"\0\0\1\0")],
    "PixelPaddingValue": [("US", b"\1\0\2\0"), ("UL", b"\0\0\1\0"), ("LO", b"none")],
    "PixelPaddingRangeLimit": [("US", b"\1\0\2\0"), ("DS", b"1.5 ")],
    "RescaleIntercept": [("DS", b"1\\2 "), ("DS", b"1.000,5 "), ("DS", b"none")],
    "RescaleSlope": [("DS", b"1\\2 "), ("DS", b"1;5 "), ("DS", b"NaN "), ("DS", b"1e999 ")],
    "WindowCenter": [("DS", b"1 024 "), ("DS", b"1,024,5 "), ("DS", b"\xff\xfe"), ("DS", b"")],
    "WindowWidth": [("DS", b"wide"), ("DS", b"0 "), ("DS", b"-5"), ("DS", b"0.5 "), ("DS", b"")],
    "VOILUTFunction": [("CS", b"CUBIC "), ("CS", b"LINEAR\\SIGMOID ")],
    "VOILUTSequence": [("UT", b"none")],
    "ModalityLUTSequence": [("UT", b"none")],
}  # fmt: skip


@pytest.mark.parametrize(
    ("keyword", "vr", "value"),
    [(keyword, *case) for keyword, cases in REFUSED.items() for case in cases],
    ids=[f"{keyword}-{i}" for keyword, cases in REFUSED.items() for i, _ in enumerate(cases)],
)
def test_what_is_there_and_cannot_be_read_is_refused_by_its_name(
    keyword: str, vr: str, value: bytes
) -> None:
    dataset = made(**WINDOW, PixelPaddingValue=0)
    put(dataset, keyword, vr, value)
    with pytest.raises(FilmError, match=keyword) as raised:
        film(dataset)
    assert raised.value.code in ("corrupt", "unsupported_pixels")


@pytest.mark.parametrize(
    ("keyword", "value", "harmless"),
    [("RescaleIntercept", "-400", "0"), ("RescaleSlope", "2", "1")],
)
def test_half_of_a_rescale_is_refused_where_it_matters(
    keyword: str, value: str, harmless: str
) -> None:
    with pytest.raises(FilmError, match=keyword) as raised:
        film(made(**WINDOW, **{keyword: value}))
    assert raised.value.code == "corrupt"
    assert np.array_equal(film(made(**WINDOW, **{keyword: harmless})), film(made(**WINDOW)))
    assert np.array_equal(film(made(**{keyword: value})), film(made()))


@pytest.mark.parametrize("value", [b"\2\0", b"\0\0\1\0"])
def test_how_colours_lie_that_is_there_and_cannot_be_read_is_refused_by_its_name(
    value: bytes,
) -> None:
    dataset = hostile.dataset(np.repeat(hostile.picture(64, 80)[..., None], 3, -1))
    put(dataset, "PlanarConfiguration", "US", value)
    with pytest.raises(FilmError, match="PlanarConfiguration"):
        film(dataset)
    for keyword, vr, read in (("PlanarConfiguration", "IS", b"0 "), ("Rows", "LO", b"64")):
        put(dataset, keyword, vr, read)
    assert np.array_equal(film(dataset), hostile.picture(64, 80))


def test_an_empty_table_gives_way_to_what_is_beside_it() -> None:
    want = film(made(**WINDOW, RescaleSlope="2", RescaleIntercept="5"))
    for keyword in ("VOILUTSequence", "ModalityLUTSequence"):
        for empty in (lut(None, 0, data=b""), Sequence([Dataset()]), Sequence()):
            dataset = made(**WINDOW, RescaleSlope="2", RescaleIntercept="5", **{keyword: empty})
            assert np.array_equal(film(dataset), want)


def test_an_empty_table_without_anything_beside_it_is_refused() -> None:
    for keyword in ("VOILUTSequence", "ModalityLUTSequence"):
        for empty in (lut(None, 0, data=b""), Sequence([Dataset()])):
            with pytest.raises(FilmError, match="LUTDescriptor"):
                film(made(**{keyword: empty}))


@pytest.mark.parametrize(
    ("table", "named"),
    [
        (lut(4096, 0, data=b"\0" * 100), "LUTData"),
        (lut(4096, 0, data=b""), "LUTData"),
        (lut(None, 0), "LUTDescriptor"),
        (lut(4096, 0, bits=0), "LUTDescriptor"),
        (lut(4096, 0, bits=17), "LUTDescriptor"),
    ],
)
def test_a_table_that_lacks_something_is_refused_also_beside_a_window(
    table: Sequence, named: str
) -> None:
    with pytest.raises(FilmError, match=named):
        film(made(**WINDOW, VOILUTSequence=table))


@pytest.mark.parametrize("used", range(8, 17))
def test_a_table_reaches_white_by_the_bits_that_its_entries_use(used: int) -> None:
    narrow = np.rint(np.linspace(0, (1 << used) - 1, 4096)).astype("<u2")
    shown = film(made(VOILUTSequence=lut(4096, 0, data=narrow.tobytes())))
    want = narrow[deep()] / ((1 << used) - 1) * 255
    assert np.abs(shown - want).max() <= 0.5 + 1e-6
    assert shown.max() > 200


@pytest.mark.parametrize("said", ["US", "SS", None])
@pytest.mark.parametrize("signed", [False, True])
def test_a_table_begins_where_there_are_values(signed: bool, said: str | None) -> None:
    """Also where the VR of its first value is wrong, or implicit VR leaves it open."""
    pixels = deep().astype(np.int16) - 2048 if signed else deep()
    syntax = uid.ImplicitVRLittleEndian if said is None else uid.ExplicitVRLittleEndian
    intercept = 0 if signed else -2048
    table = lut(4096, -2048, vr=said or "US")
    dataset = made(pixels, syntax, RescaleSlope="1", RescaleIntercept=str(intercept))
    if said is None:
        for keyword in ("LUTDescriptor", "LUTData"):
            put(table[0], keyword, None, table[0].get_item(keyword).value)
    dataset.VOILUTSequence = table
    want = CURVE[pixels.astype(int) + intercept + 2048] / 65_535 * 255
    assert np.abs(film(dataset) - want).max() <= 0.5 + 1e-6


@pytest.mark.parametrize(
    ("bits", "signed", "vr", "sent", "padded"),
    [
        (16, False, "SS", -1, 65_535),
        (16, False, "US", 65_535, 65_535),
        (16, True, "US", 63_536, -2000),
        (16, True, "SS", -2000, -2000),
        (12, True, "US", 0xF830, -2000),
        (12, True, "US", 0x830, -2000),
        (12, True, "SS", -2000, -2000),
        (12, False, "US", 4095, 4095),
        (8, False, "SS", -1, 255),
    ],
)
def test_padding_is_compared_by_its_bits(
    bits: int, signed: bool, vr: str, sent: int, padded: int
) -> None:
    kind = np.uint8 if bits == 8 else np.int16 if signed else np.uint16
    pixels = np.full((64, 64), 100, kind)
    pixels[10:20], pixels[30:40] = 50, padded
    tags = {"BitsStored": bits, "HighBit": bits - 1}
    inverted = {"PhotometricInterpretation": "MONOCHROME1"}
    dataset = made(pixels, **tags, **inverted, WindowCenter="60", WindowWidth="100")
    put(dataset, "PixelPaddingValue", vr, (sent & 0xFFFF).to_bytes(2, "little"))
    shown = film(dataset)
    assert (shown[30:40] == 0).all()
    assert shown[10, 0] > shown[0, 0]


def test_padding_that_no_value_can_be_is_that_of_whole_words() -> None:
    """Of twelve bits unsigned, -1 is no value: white stays white, words of all ones are padding."""
    pixels = deep()
    pixels[:8], pixels[8:16] = 4095, 0xFFFF
    dataset = made(pixels, WindowCenter="2048", WindowWidth="4096")
    put(dataset, "PixelPaddingValue", "SS", b"\xff\xff")
    shown = film(dataset)
    assert (shown[:8] == 255).all()
    assert (shown[8:16] == 0).all()


@pytest.mark.parametrize(
    ("photometric", "shape", "certain"),
    [
        ("MONOCHROME1", "INVERSE", True),
        ("MONOCHROME2", "IDENTITY", True),
        ("MONOCHROME1", "IDENTITY", True),  # written by many that mean MONOCHROME1
        ("MONOCHROME2", "INVERSE", False),
        ("MONOCHROME2", "LIN OD", False),
        ("MONOCHROME1", "LIN OD", False),
    ],
)
def test_photometric_interpretation_says_which_end_is_black_or_the_film_is_refused(
    photometric: str, shape: str, certain: bool
) -> None:
    kind = {"PhotometricInterpretation": photometric}
    want = film(made(**WINDOW, **kind))
    dataset = made(**WINDOW, **kind, PresentationLUTShape=shape)
    if not certain:
        with pytest.raises(FilmRefused, match="PresentationLUTShape") as raised:
            film(dataset)
        assert raised.value.code == "polarity"
    assert np.array_equal(film(dataset, "polarity"), want)


def test_a_codestream_must_agree_with_its_data_set() -> None:
    signed = (deep().astype(np.int16) - 2048) >> 4
    good = pydicom.dcmread(io.BytesIO(hostile.compressed(signed, uid.JPEG2000Lossless, **TWELVE)))
    film(good)
    good.PixelRepresentation = 0
    with pytest.raises(FilmError, match="PixelRepresentation"):
        film(good)
    other = pydicom.dcmread(io.BytesIO(hostile.compressed(deep(), uid.JPEG2000Lossless, **TWELVE)))
    other.file_meta.TransferSyntaxUID = uid.JPEGLSLossless
    with pytest.raises(FilmError, match="JPEG 2000"):
        film(other)


@pytest.mark.parametrize("whole_numbers", [False, True], ids=["9-7", "5-3"])
def test_a_lossy_film_is_not_wrapped_where_it_overshoots(
    whole_numbers: bool, tmp_path: Path
) -> None:
    """OpenJPEG may go beyond twelve bits where a codestream has sixteen: that stays white."""
    from openjpeg import utils

    sharp = np.where(hostile.picture(64, 80) > 128, 4095, 0).astype(np.uint16)
    toolkits.need("opj_compress")
    options = ("-r", "12") if whole_numbers else ("-I", "-r", "12")
    frame = toolkits.jpeg_2000(sharp, 16, tmp_path, *options)
    made_of = utils.decode(frame)
    assert made_of.max() > 4095
    window = {"WindowCenter": "2048", "WindowWidth": "4096"}
    data = hostile.encapsulating(frame, sharp, uid.JPEG2000, **TWELVE, **window)
    shown = np.asarray(dicom.read(data, refusals.Accepted(), None))
    want = np.clip(made_of.astype(float), 0, 4095) / 4095 * 255
    assert np.abs(shown - want).max() <= 0.5 + 1e-6


def test_gdcm_is_loaded_for_the_films_that_need_it_alone() -> None:
    program = (
        "import sys\n"
        "from trainer.film import dicom, refusals\n"
        "dicom.read(sys.stdin.buffer.read(), refusals.Accepted(), None)\n"
        "print(sorted(m for m in sys.modules if 'gdcm' in m and not m.startswith('pydicom')))\n"
    )
    for syntax in (uid.JPEG2000Lossless, uid.RLELossless):
        data = hostile.compressed(deep(), syntax, **TWELVE)
        done = subprocess.run([sys.executable, "-c", program], input=data, capture_output=True)
        assert done.stdout.decode().strip() == "[]", done.stderr.decode()[-300:]


def test_a_lossless_jpeg_is_what_was_encoded_and_a_damaged_one_is_told_without_a_word(
    capfd: pytest.CaptureFixture[str],
) -> None:
    frame = lossless.jpeg(deep(), 16)
    data = hostile.encapsulating(frame, deep(), uid.JPEGLosslessSV1, **TWELVE, **WINDOW)
    want = film(made(**WINDOW))
    assert np.array_equal(np.asarray(dicom.read(data, refusals.Accepted(), None)), want)
    at = data.index(frame) + len(frame) // 2
    damaged = data[:at] + b"\xff\xd9" * 8 + data[at + 16 :]
    with pytest.raises(FilmError) as raised:
        dicom.read(damaged, refusals.Accepted(), None)
    assert raised.value.code in ("corrupt", "truncated")
    assert capfd.readouterr() == ("", "")
    header = codestream.header(frame)
    assert header is not None
    assert np.array_equal(decoders.samples(frame, header), deep())
