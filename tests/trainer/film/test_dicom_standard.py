"""DICOM films are what the standard says, whoever wrote them and in whatever transfer syntax.

The right film is computed by `standard`, from the array that was encoded; of lossy compression from
what DCMTK and OpenJPEG decode.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import uid

from tests.support import hostile, soak, toolkits
from tests.support.paths import SHARED
from tests.trainer.film import standard
from trainer.errors import FilmError
from trainer.film import dicom, refusals

CASES = SHARED / "cases" / "dicom"

#: A product that is exactly between two levels may be rounded either way.
HALF = 0.5 + 1e-6


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """An array of stored values, and how its words hold them."""

    values: np.ndarray
    bits: int
    signed: bool
    allocated: int
    high_bit: int
    #: Whether the bits above the stored ones hold an overlay.
    overlay: bool

    @property
    def words(self) -> np.ndarray:
        """`uint8` or `uint16`, as they lie in an uncompressed file."""
        kind = np.uint8 if self.allocated == 8 else np.uint16
        shift = self.high_bit + 1 - self.bits
        words = (self.values & ((1 << self.bits) - 1)) << shift
        if self.overlay:
            words[5:20, 7:30] |= 1 << (self.high_bit + 1)
        elif self.signed and not shift:
            words = self.values  # the sign goes on above the stored bits
        return (words & ((1 << self.allocated) - 1)).astype(kind)

    @property
    def tags(self) -> dict[str, int]:
        """What the data set says of them."""
        return {
            "BitsAllocated": self.allocated,
            "BitsStored": self.bits,
            "HighBit": self.high_bit,
            "PixelRepresentation": int(self.signed),
        }

    def dataset(self, syntax: str = uid.ExplicitVRLittleEndian) -> pydicom.FileDataset:
        """An uncompressed film of them."""
        return hostile.dataset(self.words, syntax, **self.tags)

    def __str__(self) -> str:
        sign = "signed" if self.signed else "unsigned"
        overlay = ", overlay" if self.overlay else ""
        return f"{self.bits} of {self.allocated} bits, {sign}, high bit {self.high_bit}{overlay}"


def every_layout() -> list[Pixels]:
    """Of each number of stored bits all layouts."""
    found = []
    for bits in range(8, 17):
        for signed in (False, True):
            values = hostile.picture(40, 48, seed=bits).astype(np.int64) * ((1 << bits) - 1) // 255
            values[0, :2] = 0, (1 << bits) - 1
            values -= (1 << (bits - 1)) * signed
            for allocated in (8, 16) if bits == 8 else (16,):
                for high_bit in sorted({bits - 1, allocated - 1}):
                    for overlay in (False, True)[: 1 + (high_bit < allocated - 1)]:
                        layout: dict[str, Any] = {"allocated": allocated, "high_bit": high_bit}
                        found.append(
                            Pixels(
                                values=values, bits=bits, signed=signed, overlay=overlay, **layout
                            )
                        )
    return found


Written = Callable[[Pixels, Path], pydicom.FileDataset]


def natively(syntax: str) -> Written:
    return lambda pixels, _: pixels.dataset(syntax)


def by(program: str, *options: str) -> Written:
    def write(pixels: Pixels, folder: Path) -> pydicom.FileDataset:
        toolkits.need(program)
        plain = hostile.written(pixels.dataset())
        return pydicom.dcmread(
            io.BytesIO(toolkits.converted(plain, folder, program, *options)), force=True
        )

    return write


def by_library(syntax: str) -> Written:
    def write(pixels: Pixels, _: Path) -> pydicom.FileDataset:
        made = pixels.dataset()
        made.compress(syntax, generate_instance_uid=False)
        return made

    return write


def around(encode: Callable[[Pixels, Path], bytes], syntax: str) -> Written:
    def write(pixels: Pixels, folder: Path) -> pydicom.FileDataset:
        frame = encode(pixels, folder)
        return pydicom.dcmread(
            io.BytesIO(hostile.encapsulating(frame, pixels.words, syntax, **pixels.tags))
        )

    return write


def whole_words_by_openjpeg(pixels: Pixels, folder: Path) -> bytes:
    toolkits.need("opj_compress")
    return toolkits.jpeg_2000(pixels.words, pixels.allocated, folder)


def stored_bits_by_openjpeg(pixels: Pixels, folder: Path) -> bytes:
    toolkits.need("opj_compress")
    kind = f"{'i' if pixels.signed else 'u'}{1 if pixels.bits == 8 else 2}"
    return toolkits.jpeg_2000(pixels.values.astype(kind), pixels.bits, folder)


def whole_words_by_charls(pixels: Pixels, _: Path) -> bytes:
    import jpeg_ls

    words = pixels.words
    encoded = jpeg_ls.encode_pixel_data(
        words.tobytes(),
        rows=words.shape[0],
        columns=words.shape[1],
        samples_per_pixel=1,
        bits_allocated=pixels.allocated,
        bits_stored=pixels.allocated,
        lossy_error=0,
        interleave_mode=0,
    )
    return bytes(encoded)


WRITERS: dict[str, Written] = {
    "implicit": natively(uid.ImplicitVRLittleEndian),
    "explicit": natively(uid.ExplicitVRLittleEndian),
    "big endian": natively(uid.ExplicitVRBigEndian),
    "deflated": natively(uid.DeflatedExplicitVRLittleEndian),
    "RLE by DCMTK": by("dcmcrle"),
    "RLE by GDCM": by("gdcmconv", "--rle"),
    "RLE by pylibjpeg": by_library(uid.RLELossless),
    "lossless JPEG by DCMTK": by("dcmcjpeg", "+e1"),
    "lossless JPEG by DCMTK, predictor 4": by("dcmcjpeg", "+el", "+sv", "4"),
    "lossless JPEG by GDCM": by("gdcmconv", "--jpeg"),
    "JPEG-LS by DCMTK": by("dcmcjpls"),
    "JPEG-LS by GDCM": by("gdcmconv", "--jpegls"),
    "JPEG-LS by CharLS, whole words": around(whole_words_by_charls, uid.JPEGLSLossless),
    "JPEG 2000 by GDCM": by("gdcmconv", "--j2k"),
    "JPEG 2000 by OpenJPEG, whole words": around(whole_words_by_openjpeg, uid.JPEG2000Lossless),
    "JPEG 2000 by OpenJPEG, stored bits": around(stored_bits_by_openjpeg, uid.JPEG2000Lossless),
    "JPEG 2000 by pylibjpeg": by_library(uid.JPEG2000Lossless),
}

#: By writer, the layouts that it makes other pixels of, or nothing: there is no truth.
NOT_WRITTEN: dict[str, Callable[[Pixels], bool]] = {
    # GDCM writes HighBit as BitsStored - 1 and leaves words as they are, or cuts their upper bits.
    **dict.fromkeys(
        ("RLE by GDCM", "lossless JPEG by GDCM", "JPEG-LS by GDCM", "JPEG 2000 by GDCM"),
        lambda pixels: pixels.high_bit != pixels.bits - 1,
    ),
    # It keeps the lowest bits of words whose highest are stored.
    "JPEG 2000 by pylibjpeg": lambda pixels: pixels.high_bit != pixels.bits - 1,
    # It writes half of what it should.
    "RLE by pylibjpeg": lambda pixels: pixels.bits == 8 and pixels.allocated == 16,
}


def film(dataset: pydicom.FileDataset) -> np.ndarray:
    """Our film at its own size."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a decimal comma is none of pydicom's
        dataset.save_as(buffer)
    read = dicom.read(buffer.getvalue(), refusals.Accepted(), None)
    return np.asarray(read, np.float64)


def variants(pixels: Pixels, number: int) -> Iterator[standard.Rendering]:
    """Some renderings of the grid, others for each number, with each polarity and padding."""
    every = list(standard.grid(bits=pixels.bits, signed=pixels.signed))
    for k in range(soak.repetitions(2, 5)):
        at = number * soak.repetitions(2, 5) + k
        how = every[at % len(every)]
        if at % 2:
            tags = {**how.tags, "PhotometricInterpretation": "MONOCHROME1"}
            how = replace(how, inverted=True, tags=tags)
        if at % 3 == 0:
            low = int(pixels.values.min())
            ends = low, low + (1 << pixels.bits) // 50
            # By the bits, as the standard has it, or by the other sign, as many units have it.
            sent = [end & 0xFFFF if at % 2 else end for end in ends]
            how = replace(how, padding=ends)
            how.tags.update(PixelPaddingValue=sent[0], PixelPaddingRangeLimit=sent[1])
        yield how


@pytest.mark.soak
@pytest.mark.parametrize("writer", WRITERS)
def test_a_film_is_what_the_standard_makes_of_its_array(writer: str, tmp_path: Path) -> None:
    """At its own size, equal to the bit: in the soak 3,900 files, else 280."""
    layouts = every_layout()
    if soak.RUN is soak.Run.QUICK:  # of each number of bits one
        at = list(WRITERS).index(writer)
        layouts = [
            (found := [p for p in layouts if p.bits == bits])[(bits + at) % len(found)]
            for bits in range(8, 17)
        ]
    wrong, files = [], 0
    for number, pixels in enumerate(layouts, list(WRITERS).index(writer)):
        if NOT_WRITTEN.get(writer, lambda _: False)(pixels):
            continue
        made = WRITERS[writer](pixels, tmp_path)
        for how in variants(pixels, number):
            for keyword, value in how.tags.items():
                if isinstance(value, str) and "," in value:
                    hostile.put(made, keyword, "DS", (value + " " * (len(value) % 2)).encode())
                    continue
                setattr(made, keyword, value)
                if keyword.startswith("PixelPadding"):
                    made[keyword].VR = "SS" if value < 0 else "US"
            want = standard.shown(pixels.values, how, bits=pixels.bits, signed=pixels.signed)
            files += 1
            try:
                apart = np.abs(film(made) - want).max()
            except FilmError as error:
                wrong.append(f"{pixels}: {how.name}: {error}")
            else:
                if apart > HALF:
                    wrong.append(f"{pixels}: {how.name}: {apart:.1f} levels")
            for keyword in how.tags:
                del made[keyword]
            made.PhotometricInterpretation = "MONOCHROME2"
    assert not wrong, f"{len(wrong)} of {files}:\n" + "\n".join(wrong[:20])
    assert files >= soak.repetitions(8, 90)


#: Lossy compression, and what decodes it: DCMTK's programs, or OpenJPEG's.
LOSSY: dict[str, tuple[Written, tuple[str, ...]]] = {
    "JPEG of eight bits": (by("dcmcjpeg", "+eb", "+q", "85"), ("dcmdjpeg",)),
    "JPEG of twelve bits": (by("dcmcjpeg", "+ee", "+q", "90"), ("dcmdjpeg",)),
    "JPEG by GDCM": (by("gdcmconv", "--jpeg", "--lossy", "-q", "80"), ("dcmdjpeg",)),
    "near-lossless JPEG-LS": (by("dcmcjpls", "+en", "+md", "3"), ("dcmdjpls",)),
    "JPEG 2000": (
        around(
            lambda pixels, folder: toolkits.jpeg_2000(
                pixels.words, pixels.bits, folder, "-I", "-r", "8"
            ),
            uid.JPEG2000,
        ),
        (),
    ),
}


@pytest.mark.parametrize("kind", LOSSY)
def test_a_lossy_film_is_that_of_another_decoder(kind: str, tmp_path: Path) -> None:
    """Within two gray levels."""
    for program in ("dcmcjpeg", "gdcmconv", "opj_compress", "opj_decompress"):
        toolkits.need(program)
    write, decoder = LOSSY[kind]
    worst, compared, unread = {}, 0, []
    for pixels in every_layout():
        if pixels.signed or pixels.overlay or pixels.high_bit != pixels.bits - 1:
            continue
        try:
            made = write(pixels, tmp_path)
            if decoder:
                plain = toolkits.converted(hostile.written(made), tmp_path, *decoder)
                other, values = toolkits.pixels(plain)
                bits, signed = other.BitsStored, other.PixelRepresentation == 1
            else:
                frame = pydicom.encaps.get_frame(made.PixelData, 0, number_of_frames=1)
                values = toolkits.from_jpeg_2000(frame, tmp_path, pixels.values.shape)
                bits, signed = pixels.bits, False
        except toolkits.Failed as error:
            unread.append(f"{pixels}: {error}")
            continue
        for how in standard.grid(bits=bits, signed=signed):
            if how.name not in ("no window", "a wide window", "a VOI LUT"):
                continue
            for keyword, value in how.tags.items():
                setattr(made, keyword, value)
            want = standard.shown(values & ((1 << bits) - 1), how, bits=bits, signed=signed)
            worst[f"{pixels}: {how.name}"] = np.abs(film(made) - want).max()
            for keyword in how.tags:
                del made[keyword]
            compared += 1
    assert max(worst.values(), default=0) <= 2, worst
    assert compared >= 3, unread


@pytest.mark.skipif(not CASES.is_dir(), reason=f"{CASES} is not here")
@pytest.mark.parametrize(
    "name",
    [
        "unsigned_pad_ss_-1",
        "voi_lut_empty_descriptor",
        "voi_lut_narrower_than_stated",
        "window_decimal_comma",
    ],
)
def test_a_case_from_the_field_is_its_right_film(name: str) -> None:
    read = dicom.read((CASES / f"{name}.dcm").read_bytes(), refusals.Accepted(), None)
    assert np.array_equal(np.asarray(read), np.load(CASES / f"{name}.want.npy"))
