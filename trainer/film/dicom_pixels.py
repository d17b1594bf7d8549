"""DICOM pixels: the pixel module and the look-up tables of one data set become eight-bit gray.

Knows nothing of which films are wanted. Uncompressed pixels are read in place; compressed ones go
to the decoder of their transfer syntax after their size has been compared with what was promised,
so that a few bytes cannot ask for gigabytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pydicom.uid
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_color_lut, get_decoder

from trainer.errors import FilmError
from trainer.film import codestream, grayscale
from trainer.film.codestream import corrupt
from trainer.film.grayscale import Lookup, Rendering, Window, Words
from trainer.film.refusals import Accepted, refuse

PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")

#: What has to be read of a file for its pixels.
KEYWORDS = (
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames",
    "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleIntercept", "RescaleSlope",
    "WindowCenter", "WindowWidth", "VOILUTFunction", "ModalityLUTSequence", "VOILUTSequence",
    "LUTDescriptor", "LUTData",
    "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData", "BluePaletteColorLookupTableData",
    "ExtendedOffsetTable", "ExtendedOffsetTableLengths", *PIXEL_KEYWORDS,
)  # fmt: skip

#: How far apart R, G and B of a gray film may lie; lossy compression in YBR moves them by 2.
_GRAY_SPREAD = 8


def shape(dataset: Dataset) -> tuple[int, int]:
    """Rows and columns, of which neither is 0."""
    rows, columns = _integer(dataset, "Rows"), _integer(dataset, "Columns")
    if rows < 1 or columns < 1:
        raise corrupt(f"Rows × Columns (0028,0010) is {rows} × {columns}")
    return rows, columns


def gray(dataset: Dataset, rows: int, columns: int, accept: Accepted) -> Image.Image:
    """The first frame as eight-bit gray at its own size.

    Raises FilmError with `truncated`, `corrupt` or `unsupported_pixels`; FilmRefused(`colour`).
    """
    if "PixelData" not in dataset:
        raise _unsupported("FloatPixelData (7fe0,0008): floating-point pixels have no known window")
    samples = _integer(dataset, "SamplesPerPixel", 1)
    photometric = str(dataset.get("PhotometricInterpretation") or "MONOCHROME2").strip().upper()
    bits = _integer(dataset, "BitsAllocated")
    if bits not in (8, 16):
        raise _unsupported(f"BitsAllocated (0028,0100) is {bits}; 8 and 16 are read")
    stored = _integer(dataset, "BitsStored", bits)
    high_bit = _integer(dataset, "HighBit", stored - 1)
    if not 1 <= stored <= bits or not stored - 1 <= high_bit < bits:
        raise corrupt(
            f"BitsStored (0028,0101) is {stored} and HighBit (0028,0102) is {high_bit} of {bits}"
        )
    if samples == 3 or photometric == "PALETTE COLOR":
        return _gray_of_colour(dataset, rows, columns, bits, samples, accept)
    if samples != 1:
        raise _unsupported(f"SamplesPerPixel (0028,0002) is {samples}; 1 and 3 are read")
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise _unsupported("PhotometricInterpretation (0028,0004) is not one of a gray image")

    signed = _integer(dataset, "PixelRepresentation", 0) == 1
    syntax = _syntax(dataset)
    if not syntax.is_encapsulated:
        words = _native(dataset, rows, columns, bits)
    else:
        decoded = _decoded(dataset, rows, columns, samples, raw=True)
        words = decoded.view(np.uint8 if decoded.itemsize == 1 else np.uint16)
    if syntax.is_encapsulated and syntax != pydicom.uid.RLELossless:
        # A codestream has no unused bits: its decoder has placed and extended the values.
        signed, bits = decoded.dtype.kind == "i", 8 * decoded.itemsize
        values = grayscale.values_of(bits, stored=bits, high_bit=bits - 1, signed=signed)
    else:
        values = grayscale.values_of(bits, stored=stored, high_bit=high_bit, signed=signed)
    return _rendered(dataset, words, values, stored, photometric, signed)


def _rendered(
    dataset: Dataset,
    words: Words,
    values: NDArray[np.int64],
    stored: int,
    photometric: str,
    signed: bool,
) -> Image.Image:
    rendering = Rendering(
        modality=_modality(dataset, signed),
        view=_view(dataset, signed),
        inverted=photometric == "MONOCHROME1",
        padding=_padding(dataset, signed),
    )
    if rendering.view is not None or stored <= 8:
        # Eight bits without a window are meant to be shown as they are, like those of a PNG.
        low = -(1 << (stored - 1)) if signed else 0
        ends = low, low + (1 << stored) - 1
    else:
        ends = grayscale.occurring(words, values, rendering.padding)
    return Image.fromarray(rendering.table(values, ends)[words])


def _native(dataset: Dataset, rows: int, columns: int, bits: int) -> Words:
    """The first frame of uncompressed pixels, as words of the file, `[rows, columns]`."""
    data = _bytes(dataset)
    big = not dataset.original_encoding[1]
    length = rows * columns * bits // 8
    if len(data) < length:
        raise _cut(len(data), length)
    if bits == 16:
        words = np.frombuffer(data, ">u2" if big else "<u2", rows * columns)
        return words.astype(np.uint16, copy=False).reshape(rows, columns)
    if big and dataset["PixelData"].VR == "OW":
        # Big endian words hold the left one of two pixels in their second byte (PS3.5, annex A.3).
        padded = data if len(data) % 2 == 0 else data + b"\0"
        swapped = np.frombuffer(padded, ">u2").astype("<u2").view(np.uint8)
        return swapped[: rows * columns].reshape(rows, columns)
    return np.frombuffer(data, np.uint8, rows * columns).reshape(rows, columns)


def _gray_of_colour(
    dataset: Dataset, rows: int, columns: int, bits: int, samples: int, accept: Accepted
) -> Image.Image:
    if samples == 3 and bits != 8:
        raise _unsupported("colour of more than 8 bits; convert it to gray first")
    if not _syntax(dataset).is_encapsulated:
        length, found = rows * columns * samples * bits // 8, len(_bytes(dataset))
        # YBR_FULL_422 keeps two samples of each pixel (PS3.3, section C.7.6.3.1.2).
        if "422" in str(dataset.get("PhotometricInterpretation")):
            length = length * 2 // 3
        if found < length:
            raise _cut(found, length)
    pixels = _decoded(dataset, rows, columns, samples, raw=False)
    if samples == 1:
        pixels = apply_color_lut(pixels, dataset)
        if pixels.dtype == np.uint16:
            pixels = (pixels >> 8).astype(np.uint8)  # palettes hold eight bits twice, or 16
    if int(np.ptp(pixels, axis=-1).max()) > _GRAY_SPREAD:
        found_colour = (
            "PhotometricInterpretation (0028,0004) is of colour and red, green and blue differ"
        )
        refuse("colour", found_colour, accept)
    return Image.fromarray(np.ascontiguousarray(pixels, np.uint8)).convert("L")


def _decoded(
    dataset: Dataset, rows: int, columns: int, samples: int, *, raw: bool
) -> NDArray[np.generic]:
    """The first frame by pydicom's decoders, `[rows, columns]` or `[rows, columns, 3]`."""
    syntax = _syntax(dataset)
    if syntax.is_encapsulated:
        frame = codestream.first_frame(_bytes(dataset), _integer(dataset, "NumberOfFrames", 1))
        if syntax == pydicom.uid.RLELossless:
            planes = samples * _integer(dataset, "BitsAllocated") // 8
            frame = codestream.exact_runs(frame, rows * columns, planes)
        else:
            codestream.check_frame(frame, rows, columns)
        dataset.PixelData = encapsulate([frame], has_bot=False)
        dataset["PixelData"].is_undefined_length = True
        for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
            if keyword in dataset:
                del dataset[keyword]
        dataset.NumberOfFrames = 1
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise _unsupported(f"TransferSyntaxUID (0002,0010) is {syntax.name}") from None
    pixels, _ = decoder.as_array(dataset, index=0, raw=raw, decoding_plugin=_plugin(dataset))
    return np.ascontiguousarray(pixels)


def _plugin(dataset: Dataset) -> str:
    """Pillow for eight-bit JPEG, which it decodes three times as fast; else what is installed."""
    eight_bits = _integer(dataset, "BitsAllocated") == 8
    return "pillow" if eight_bits and _syntax(dataset) == pydicom.uid.JPEGBaseline8Bit else ""


def _modality(dataset: Dataset, signed: bool) -> Lookup | tuple[float, float]:
    table = _lookup(dataset, "ModalityLUTSequence", signed)
    if table is not None:
        return table
    slope, intercept = _numbers(dataset, "RescaleSlope"), _numbers(dataset, "RescaleIntercept")
    return (slope[0] if slope and slope[0] else 1.0), (intercept[0] if intercept else 0.0)


def _view(dataset: Dataset, signed: bool) -> Lookup | Window | None:
    """The first VOI LUT, else the first window with a width, else nothing."""
    table = _lookup(dataset, "VOILUTSequence", signed)
    if table is not None:
        return table
    function = str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()
    centres, widths = _numbers(dataset, "WindowCenter"), _numbers(dataset, "WindowWidth")
    for centre, width in zip(centres, widths, strict=False):
        if function == "SIGMOID" and width > 0:
            return Window(centre=centre, width=width, shape="SIGMOID")
        if function == "LINEAR_EXACT" and width > 0:
            return Window(centre=centre, width=width, shape="LINEAR_EXACT")
        if width >= 1:
            return Window(centre=centre, width=width)
    return None


def _lookup(dataset: Dataset, keyword: str, signed: bool) -> Lookup | None:
    sequence = dataset.get(keyword)
    if not sequence:
        return None
    item, big = sequence[0], not dataset.original_encoding[1]
    descriptor = _words(item.get("LUTDescriptor"))
    if len(descriptor) != 3:
        raise corrupt("LUTDescriptor (0028,3002) has not three values")
    count, first, bits = descriptor[0] & 0xFFFF or 1 << 16, descriptor[1], descriptor[2]
    if signed and first >= 1 << 15:
        first -= 1 << 16
    data = item.get("LUTData")
    if isinstance(data, bytes) and len(data) == count + count % 2 and bits <= 8:
        entries = list(data)  # two entries in a word
    else:
        entries = [entry & 0xFFFF for entry in _words(data, big=big)]
    if len(entries) < count or not 1 <= bits <= 16:
        raise corrupt(
            f"LUTData (0028,3006) has {len(entries)} entries; LUTDescriptor (0028,3002) says "
            f"{count} of {bits} bits"
        )
    table = np.array(entries[:count], np.float64)
    return Lookup(first=first, entries=table, top=float(max(table.max(), (1 << bits) - 1)))


def _padding(dataset: Dataset, signed: bool) -> tuple[int, int] | None:
    value = _words(dataset.get("PixelPaddingValue"))
    if not value:
        return None
    limit = _words(dataset.get("PixelPaddingRangeLimit")) or value
    ends = [v - (1 << 16) if signed and v >= 1 << 15 else v for v in (value[0], limit[0])]
    return min(ends), max(ends)


def _words(value: Any, *, big: bool = False) -> list[int]:
    """Values of US, SS or OW, which pydicom leaves as bytes where the VR depends on other tags."""
    if value is None or value == "":
        return []
    if isinstance(value, bytes):
        order = ">u2" if big else "<u2"
        return [int(v) for v in np.frombuffer(value[: len(value) // 2 * 2], order)]
    return [int(v) for v in value] if hasattr(value, "__iter__") else [int(value)]


def _numbers(dataset: Dataset, keyword: str) -> list[float]:
    """Values of a decimal string; none where it is absent, empty or no number."""
    value = dataset.get(keyword)
    if value is None or value == "":
        return []
    try:
        several = not isinstance(value, str) and hasattr(value, "__iter__")
        found = [float(v) for v in value] if several else [float(value)]
    except (TypeError, ValueError):
        return []
    return found if np.isfinite(found).all() else []


def _integer(dataset: Dataset, keyword: str, default: int | None = None) -> int:
    value = dataset.get(keyword)
    if value is None or value == "":
        if default is None:
            raise corrupt(f"{keyword} is absent")
        return default
    try:
        return int(value)
    except (TypeError, ValueError):
        raise corrupt(f"{keyword} is no number") from None


def _bytes(dataset: Dataset) -> bytes:
    data = dataset.PixelData
    if not isinstance(data, bytes):
        raise FilmError("truncated", "PixelData (7fe0,0010) is empty; export it again")
    return data


def _syntax(dataset: Dataset) -> pydicom.uid.UID:
    """The transfer syntax; where the file names none, it is uncompressed as it was found to be."""
    meta = getattr(dataset, "file_meta", None)
    syntax = meta.get("TransferSyntaxUID") if meta is not None else None
    if syntax:
        named = pydicom.uid.UID(syntax)
        if not named.is_transfer_syntax:
            raise _unsupported("TransferSyntaxUID (0002,0010) is none that is known")
        return named
    implicit, little = dataset.original_encoding
    if implicit:
        return pydicom.uid.ImplicitVRLittleEndian
    return pydicom.uid.ExplicitVRLittleEndian if little else pydicom.uid.ExplicitVRBigEndian


def _cut(found: int, expected: int) -> FilmError:
    return FilmError(
        "truncated",
        f"PixelData (7fe0,0010) holds {found:,} of {expected:,} bytes; export it again from where "
        "it came from",
    )


def _unsupported(found: str) -> FilmError:
    return FilmError("unsupported_pixels", f"{found}; export it as 8- or 16-bit gray")
