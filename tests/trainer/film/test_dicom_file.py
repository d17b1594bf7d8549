"""What is intact in a DICOM is read, whatever its writer got wrong; what was cut is not."""

from __future__ import annotations

import io
import struct

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from tests.support import hostile, lossless
from tests.support.paths import SHARED
from trainer.errors import FilmError, FilmRefused
from trainer.film import dicom, refusals, rules

CASES = SHARED / "cases" / "dicom"

#: The last delimiter of compressed pixels.
DELIMITER = bytes.fromhex("feff dde0 0000 0000")

TWELVE = {"BitsStored": 12, "HighBit": 11}


def film(data: bytes, *accept: str) -> np.ndarray:
    rules.hush()
    return np.asarray(dicom.read(data, refusals.Accepted(accept), None))


def code(data: bytes) -> str:
    """The code of the error that a file comes to."""
    with pytest.raises(FilmError) as raised:
        film(data)
    assert not isinstance(raised.value, FilmRefused)
    assert "ValueError" not in str(raised.value)
    return raised.value.code


def gray() -> np.ndarray:
    return hostile.picture(64, 80)


def frames() -> dict[str, tuple[bytes, str]]:
    """A codestream of `gray` of each kind, and a transfer syntax."""
    image = Image.fromarray(gray())
    made = {
        "JPEG": (hostile.encoded(image, "JPEG", quality=95), uid.JPEGBaseline8Bit),
        "progressive JPEG": (
            hostile.encoded(image, "JPEG", quality=95, progressive=True),
            uid.JPEGBaseline8Bit,
        ),
        "JPEG with restarts": (
            hostile.encoded(image, "JPEG", quality=95, restart_marker_blocks=3),
            uid.JPEGBaseline8Bit,
        ),
        "lossless JPEG": (lossless.jpeg(gray(), 8), uid.JPEGLosslessSV1),
    }
    for name, syntax in (("JPEG-LS", uid.JPEGLSLossless), ("JPEG 2000", uid.JPEG2000Lossless)):
        dataset = pydicom.dcmread(io.BytesIO(hostile.compressed(gray(), syntax)))
        frame = pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)
        made[name] = frame.rstrip(b"\0"), syntax
    return made


KINDS = ("JPEG", "progressive JPEG", "JPEG with restarts", "lossless JPEG", "JPEG-LS", "JPEG 2000")


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_after_the_end_of_a_codestream_are_no_part_of_it(kind: str) -> None:
    frame, syntax = frames()[kind]
    want = film(hostile.encapsulating(frame, gray(), syntax))
    for after in (b"\n", b"\r\n", b"\xff\xd9", b"\0\xff\n\0", b"more than that " * 9, frame):
        data = hostile.encapsulating(frame + after, gray(), syntax)
        assert np.array_equal(film(data), want), after


@pytest.mark.parametrize("kind", KINDS)
def test_a_codestream_that_was_cut_is_truncated_whatever_follows(kind: str) -> None:
    frame, syntax = frames()[kind]
    for length in (len(frame) * 2 // 3, len(frame) - 3):
        for after in (b"", b"\n", b"\0\0"):
            data = hostile.encapsulating(frame[:length] + after, gray(), syntax)
            assert code(data) == "truncated", (length, after)


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_jpeg_that_was_cut_and_given_an_end_is_truncated(samples: int, share: float) -> None:
    """Its library makes up what is missing, and says nothing."""
    pixels = gray() if samples == 1 else np.repeat(gray()[..., None], 3, -1)
    frame = hostile.encoded(Image.fromarray(pixels), "JPEG", quality=95)
    cut = frame[: round(share * len(frame))] + b"\xff\xd9"
    tags = {} if samples == 1 else {"PhotometricInterpretation": "YBR_FULL_422"}
    film(hostile.encapsulating(frame, pixels, uid.JPEGBaseline8Bit, **tags))
    assert code(hostile.encapsulating(cut, pixels, uid.JPEGBaseline8Bit, **tags)) == "truncated"


@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless])
def test_compressed_pixels_may_lack_their_last_delimiter_and_no_more(syntax: str) -> None:
    data = hostile.compressed(gray(), syntax)
    want = film(data)
    assert data.endswith(DELIMITER)
    for cut in range(1, len(DELIMITER) + 1):
        assert np.array_equal(film(data[:-cut]), want), cut
    for cut in (len(DELIMITER) + 1, len(DELIMITER) + 2, 40, 400):
        assert code(data[:-cut]) == "truncated", cut


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian])
def test_a_film_that_is_not_compressed_lacks_nothing_at_its_end(syntax: str) -> None:
    data = hostile.dicom(gray(), syntax)
    for cut in range(1, len(DELIMITER) + 1):
        assert code(data[:-cut]) == "truncated", cut
    for cut in range(gray().size, gray().size + 13):  # within the header of the pixels
        assert code(data[:-cut]) in ("truncated", "corrupt"), cut


def with_icon(syntax: str) -> tuple[bytes, int]:
    """A film with an icon and with something behind it, and where the icon's sequence begins."""
    icon = Dataset()
    for keyword, value in (("Rows", 16), ("Columns", 16), ("BitsAllocated", 8),
                           ("BitsStored", 8), ("HighBit", 7), ("SamplesPerPixel", 1),
                           ("PixelRepresentation", 0)):  # fmt: skip
        setattr(icon, keyword, value)
    icon.PhotometricInterpretation = "MONOCHROME2"
    icon.PixelData = bytes(range(256))
    icon["PixelData"].VR = "OB"
    tags = {"IconImageSequence": Sequence([icon]), "PresentationLUTShape": "IDENTITY"}
    data = hostile.dicom(gray(), syntax, **tags)
    return data, data.index(b"\x88\0\0\x02")


SYNTAXES = (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian)


@pytest.mark.parametrize("short", [1, 2, 8, 12, 256, 268, 300])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_lengths_of_an_icon_that_are_too_short_hide_no_film(syntax: str, short: int) -> None:
    data, at = with_icon(syntax)
    want = film(data)
    place = at + (8 if syntax == uid.ExplicitVRLittleEndian else 4)
    length = struct.unpack_from("<I", data, place)[0]
    of_item = struct.unpack_from("<I", data, place + 8)[0]
    sequence = bytearray(data)
    sequence[place : place + 4] = struct.pack("<I", length - short)
    assert np.array_equal(film(bytes(sequence)), want)
    both = bytearray(sequence)
    both[place + 8 : place + 12] = struct.pack("<I", of_item - short)
    assert np.array_equal(film(bytes(both)), want)
    item = bytearray(data)  # a sequence without a length, whose item's is too short
    item[place : place + 4] = b"\xff" * 4
    item[place + 8 : place + 12] = struct.pack("<I", of_item - short)
    end = place + 4 + length
    item[end:end] = DELIMITER
    assert np.array_equal(film(bytes(item)), want)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_film_that_was_cut_behind_an_icon_is_truncated(syntax: str) -> None:
    data, at = with_icon(syntax)
    place = at + (8 if syntax == uid.ExplicitVRLittleEndian else 4)
    short = bytearray(data)
    short[place : place + 4] = struct.pack("<I", 100)
    assert code(bytes(short[:-1000])) == "truncated"


def test_a_sequence_that_touches_pixels_is_not_given_up() -> None:
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [256, 0, 16], list(range(0, 65_536, 256))
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    data = bytearray(hostile.dicom(gray(), VOILUTSequence=Sequence([item])))
    place = data.index(b"\x28\0\x10\x30") + 8
    data[place : place + 4] = struct.pack("<I", struct.unpack_from("<I", data, place)[0] - 20)
    with pytest.raises(FilmError):
        film(bytes(data))


def test_a_hostile_chain_of_elements_is_given_up_soon() -> None:
    data, at = with_icon(uid.ImplicitVRLittleEndian)
    chain = b"".join(struct.pack("<HHI", 0x0089, n, 0) for n in range(1 << 14))
    start = data[: at + 4] + struct.pack("<I", 2) + bytes(2)
    with pytest.raises(FilmError):
        film(start + chain * 2 + b"\1")


def test_a_codestream_knows_best_how_many_samples_a_pixel_has() -> None:
    """Gray in three components, or in one where three are promised, is the same gray."""
    window = {"WindowCenter": "100", "WindowWidth": "90"}
    image = Image.fromarray(gray())
    promised = np.repeat(gray()[..., None], 3, -1)
    one = hostile.encoded(image, "JPEG", quality=95)
    three = hostile.encoded(image.convert("RGB"), "JPEG", quality=95)
    for tags in ({}, window, {"PhotometricInterpretation": "MONOCHROME1"}):
        want = film(hostile.encapsulating(one, gray(), uid.JPEGBaseline8Bit, **tags))
        shown = film(hostile.encapsulating(three, gray(), uid.JPEGBaseline8Bit, **tags))
        assert np.abs(shown.astype(int) - want).max() <= 6
        tags = {"PhotometricInterpretation": "MONOCHROME2", **tags}
        both = hostile.encapsulating(three, promised, uid.JPEGBaseline8Bit, **tags)
        assert np.array_equal(film(both), shown)
        plain = film(hostile.dicom(gray(), **tags))
        assert np.array_equal(film(hostile.dicom(promised, **tags)), plain)
    for photometric in ("YBR_FULL_422", "RGB"):
        tags = {"PhotometricInterpretation": photometric}
        data = hostile.encapsulating(one, promised, uid.JPEGBaseline8Bit, **tags)
        assert np.array_equal(film(data), np.asarray(Image.open(io.BytesIO(one))))
    coloured = hostile.encoded(hostile.photograph().resize((80, 64)), "JPEG")
    with pytest.raises(FilmRefused, match="colour"):
        film(hostile.encapsulating(coloured, gray(), uid.JPEGBaseline8Bit))
    deep = hostile.encapsulating(three, gray().astype(np.uint16), uid.JPEGBaseline8Bit, **TWELVE)
    with pytest.raises(FilmError, match="SamplesPerPixel"):
        film(deep)


@pytest.mark.parametrize("share", [0.0, 0.004, 0.05])
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.RLELossless])
def test_a_small_coloured_marker_is_no_reason_as_in_a_png(syntax: str, share: float) -> None:
    """More than one pixel in a hundred is."""
    rgb = np.repeat(hostile.picture(200, 240)[..., None], 3, -1)
    side = round((share * 200 * 240) ** 0.5)
    rgb[10 : 10 + side, 10 : 10 + side] = 255, 0, 0
    data = hostile.compressed(rgb, syntax) if syntax == uid.RLELossless else hostile.dicom(rgb)
    if share > 0.01:
        with pytest.raises(FilmRefused, match="colour"):
            film(data)
    else:
        assert np.array_equal(film(data), np.asarray(Image.fromarray(rgb).convert("L")))


@pytest.mark.skipif(not CASES.is_dir(), reason=f"{CASES} is not here")
@pytest.mark.parametrize("name", ["jpeg_newline_after_end", "jpeg_end_twice"])
def test_a_case_from_the_field_is_its_right_film(name: str) -> None:
    shown = film((CASES / f"{name}.dcm").read_bytes()).astype(int)
    assert np.abs(shown - np.load(CASES / f"{name}.want.npy")).max() <= 2
