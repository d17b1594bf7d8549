"""DICOM pixels: the pixel module of one data set becomes eight-bit gray, shown as its tags say.

Knows nothing of which films are wanted. Uncompressed pixels are read in place; compressed ones go
to the decoder of their transfer syntax after their size has been compared with what was promised,
so that a few bytes cannot ask for gigabytes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pydicom.uid
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_color_lut, convert_color_space, get_decoder

from trainer.errors import FilmError
from trainer.film import codestream, decoders, dicom_display, grayscale, jpeg, tags
from trainer.film.codestream import Header, corrupt
from trainer.film.grayscale import Layout, Words
from trainer.film.refusals import Accepted, refuse, shown

PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")

#: What has to be read of a file for its pixels.
KEYWORDS = (
    "SamplesPerPixel", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation",
    "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData", "BluePaletteColorLookupTableData",
    "ExtendedOffsetTable", "ExtendedOffsetTableLengths", *dicom_display.KEYWORDS, *PIXEL_KEYWORDS,
)  # fmt: skip

#: The codestreams of a transfer syntax, and which of pydicom's plugins decodes those of colour.
_KINDS = {
    **dict.fromkeys(
        (
            pydicom.uid.JPEGBaseline8Bit,
            pydicom.uid.JPEGExtended12Bit,
            pydicom.uid.JPEGLossless,
            pydicom.uid.JPEGLosslessSV1,
        ),
        (("JPEG", "JPEG lossless"), ""),
    ),
    **dict.fromkeys(
        (pydicom.uid.JPEGLSLossless, pydicom.uid.JPEGLSNearLossless), (("JPEG-LS",), "pyjpegls")
    ),
    **dict.fromkeys(
        (
            pydicom.uid.JPEG2000Lossless,
            pydicom.uid.JPEG2000,
            pydicom.uid.HTJ2KLossless,
            pydicom.uid.HTJ2KLosslessRPCL,
            pydicom.uid.HTJ2K,
        ),
        (("JPEG 2000",), "pylibjpeg"),
    ),
}

#: What three samples of a pixel may be.
_IN_COLOUR = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"})

#: JPEG 2000 by whole numbers too may leave out what does not fit, and does not say so.
_MAYBE_LOSSY = (pydicom.uid.JPEG2000, pydicom.uid.HTJ2K)

#: Lossy compression moves values beyond those that can be stored, by less than this share of them.
_OVERSHOOT = 0.125


def shape(dataset: Dataset) -> tuple[int, int]:
    """Rows and columns, of which neither is 0."""
    rows, columns = tags.integer(dataset, "Rows"), tags.integer(dataset, "Columns")
    if rows < 1 or columns < 1:
        raise corrupt(f"Rows × Columns (0028,0010) is {shown(rows)} × {shown(columns)}")
    return rows, columns


def frames(dataset: Dataset) -> int:
    """How many pictures there are."""
    return tags.integer(dataset, "NumberOfFrames", 1)


def gray(dataset: Dataset, rows: int, columns: int, accept: Accepted) -> Image.Image:
    """The first frame as eight-bit gray at its own size.

    Raises FilmError with `truncated`, `corrupt` or `unsupported_pixels`; FilmRefused with `colour`
    or `polarity`.
    """
    if "PixelData" not in dataset:
        raise _unsupported("FloatPixelData (7fe0,0008): floating-point pixels have no known window")
    samples = tags.integer(dataset, "SamplesPerPixel", 1)
    if samples not in (1, 3):
        raise _unsupported(f"SamplesPerPixel (0028,0002) is {shown(samples)}; 1 and 3 are read")
    photometric = tags.code(dataset, "PhotometricInterpretation") or "MONOCHROME2"
    monochrome = photometric in ("MONOCHROME1", "MONOCHROME2")
    layout = _layout(dataset)
    if samples == 3 and layout.allocated != 8:
        raise _unsupported("colour of more than 8 bits; convert it to gray first")
    if monochrome:
        dicom_display.check_polarity(dataset, photometric, accept)
    syntax = _syntax(dataset)
    coded = None
    if syntax.is_encapsulated and syntax != pydicom.uid.RLELossless:
        coded = _codestream(dataset, syntax, rows, columns)
    picture = None
    if coded is not None and (coded[1].samples != samples or (monochrome and samples == 3)):
        # A codestream knows what its samples are; what they mean is certain where they are gray.
        picture = Image.fromarray(_gray_of_codestream(*coded, layout, accept))
    elif samples == 3:
        meant = "RGB" if monochrome else photometric
        picture = _gray_of(_colours(dataset, rows, columns, meant, coded), accept)
    if picture is not None:
        if monochrome:
            return _shown(dataset, np.asarray(picture), layout.values(), layout, photometric)
        return picture
    if photometric == "PALETTE COLOR":
        words, values = _stored(dataset, rows, columns, layout, coded)
        return _gray_of(_of_palette(dataset, values[words]), accept)
    if not monochrome:
        raise _unsupported("PhotometricInterpretation (0028,0004) is not one of a gray image")
    words, values = _stored(dataset, rows, columns, layout, coded)
    return _shown(dataset, words, values, layout, photometric)


def _layout(dataset: Dataset) -> Layout:
    bits = tags.integer(dataset, "BitsAllocated")
    if bits not in (8, 16):
        raise _unsupported(f"BitsAllocated (0028,0100) is {shown(bits)}; 8 and 16 are read")
    stored = tags.integer(dataset, "BitsStored", bits)
    high_bit = tags.integer(dataset, "HighBit", stored - 1)
    if not 1 <= stored <= bits or not stored - 1 <= high_bit < bits:
        raise corrupt(
            f"BitsStored (0028,0101) is {shown(stored)} and HighBit (0028,0102) is "
            f"{shown(high_bit)} of {bits}"
        )
    signed = tags.integer(dataset, "PixelRepresentation", 0)
    if signed not in (0, 1):
        raise tags.unreadable("PixelRepresentation")
    return Layout(allocated=bits, stored=stored, high_bit=high_bit, signed=signed == 1)


def _shown(
    dataset: Dataset,
    words: Words,
    values: NDArray[np.int64],
    layout: Layout,
    photometric: str,
) -> Image.Image:
    rendering = dicom_display.rendering(dataset, values, layout, photometric)
    if rendering.view is not None or layout.stored <= 8:
        # Eight bits without a window are meant to be shown as they are, like those of a PNG.
        ends = layout.ends
    else:
        ends = grayscale.occurring(words, values, rendering.padding)
    return Image.fromarray(rendering.table(values, ends)[words])


#: A codestream, and what it says of itself.
_Coded = tuple[bytes, Header]


def _stored(
    dataset: Dataset, rows: int, columns: int, layout: Layout, coded: _Coded | None
) -> tuple[Words, NDArray[np.int64]]:
    """Words of the first frame, `[rows, columns]`, and the stored value of each possible word."""
    if coded is not None:
        return _of_codestream(*coded, layout)
    if _syntax(dataset) == pydicom.uid.RLELossless:
        words = _unpacked(dataset, rows, columns, layout.allocated)
    else:
        words = _native(dataset, rows, columns, layout.allocated)
    return words, layout.values()


def _of_codestream(frame: bytes, header: Header, layout: Layout) -> tuple[Words, NDArray[np.int64]]:
    """A codestream holds whole words, or of each word the stored bits alone; its size shows which.

    Bits above those stored are no part of the film there either, except where lossy compression
    has moved a value beyond its range: that is brought back to the end of it.
    """
    words = decoders.samples(frame, header)
    bits = 8 * words.itemsize
    if header.signed and not layout.signed and int(words.max()) >= 1 << (bits - 1):
        raise corrupt(
            "PixelRepresentation (0028,0103) says that there are no negative values, and the "
            "codestream holds some"
        )
    unused = layout.high_bit + 1 - layout.stored if header.bits > layout.high_bit else 0
    kept = min(layout.stored, header.bits)
    values = Layout(
        allocated=bits, stored=kept, high_bit=kept - 1 + unused, signed=layout.signed
    ).values()
    if header.exact or unused or header.bits <= layout.stored:
        return words, values
    whole = Layout(
        allocated=bits, stored=header.bits, high_bit=header.bits - 1, signed=layout.signed
    ).values()
    least, greatest = grayscale.occurring(words, whole)
    low, high = layout.ends
    beyond = max(low - least, greatest - high)
    if beyond > _OVERSHOOT * (high - low):
        raise _unsupported(
            "BitsStored (0028,0101) leaves bits out that lossy compression has mixed with the film"
        )
    return words, np.clip(whole, low, high) if beyond > 0 else values


def _unpacked(dataset: Dataset, rows: int, columns: int, bits: int) -> Words:
    """The first frame of run-length encoded gray."""
    from rle.rle import decode_frame

    packed = codestream.first_frame(_bytes(dataset), frames(dataset))
    packed = codestream.exact_runs(packed, rows * columns, bits // 8)
    unpacked = decode_frame(packed, rows * columns, bits, "<")
    return np.frombuffer(unpacked, np.uint8 if bits == 8 else "<u2").reshape(rows, columns)


def _native(dataset: Dataset, rows: int, columns: int, bits: int) -> Words:
    """The first frame of uncompressed pixels, as words of the file, `[rows, columns]`."""
    data = _bytes(dataset)
    if dataset.get_item("PixelData").length == 0xFFFF_FFFF:
        raise corrupt(
            "PixelData (7fe0,0010) is in items, as compressed pixels are, and the file "
            "says that they are not"
        )
    big = not dataset.original_encoding[1]
    length = rows * columns * bits // 8
    if len(data) < length:
        raise _cut(len(data), length)
    if bits == 16:
        words = np.frombuffer(data, ">u2" if big else "<u2", rows * columns)
        return words.astype(np.uint16, copy=False).reshape(rows, columns)
    if big and dataset.get_item("PixelData").VR == "OW":
        # Big endian words hold the left one of two pixels in their second byte (PS3.5, annex A.3).
        padded = data if len(data) % 2 == 0 else data + b"\0"
        swapped = np.frombuffer(padded, ">u2").astype("<u2").view(np.uint8)
        return swapped[: rows * columns].reshape(rows, columns)
    return np.frombuffer(data, np.uint8, rows * columns).reshape(rows, columns)


def _gray_of(pixels: NDArray[np.generic], accept: Accepted) -> Image.Image:
    """Gray of RGB that shows no colour."""
    picture = Image.fromarray(np.ascontiguousarray(pixels, np.uint8))
    if grayscale.is_coloured(picture):
        refuse("colour", "the picture shows colour; a film is gray, also where it is RGB", accept)
    return picture.convert("L")


def _gray_of_codestream(
    frame: bytes, header: Header, layout: Layout, accept: Accepted
) -> NDArray[np.uint8]:
    """Gray of a codestream that has other samples than SamplesPerPixel says, of eight bits."""
    if header.samples not in (1, 3) or header.bits != 8 or layout.allocated != 8:
        raise _unsupported(
            f"the codestream holds {header.samples} samples of {header.bits} bits of each pixel, "
            "SamplesPerPixel (0028,0002) and BitsAllocated (0028,0100) say otherwise"
        )
    pixels = decoders.samples(frame, header)
    return np.asarray(_gray_of(pixels, accept) if pixels.ndim == 3 else pixels, np.uint8)


def _of_palette(dataset: Dataset, values: NDArray[np.int64]) -> NDArray[np.generic]:
    for colour in ("Red", "Green", "Blue"):
        keyword = f"{colour}PaletteColorLookupTableDescriptor"
        if len(tags.integers(dataset, keyword)) not in (0, 3):
            raise tags.unreadable(keyword)
    pixels: NDArray[np.integer] = apply_color_lut(values, dataset)
    # Palettes hold eight bits twice, or 16.
    return (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels


def _colours(
    dataset: Dataset, rows: int, columns: int, photometric: str, coded: _Coded | None
) -> NDArray[np.generic]:
    """The first frame in RGB, `uint8 [rows, columns, 3]`, most of it by pydicom."""
    if photometric not in _IN_COLOUR:
        raise _unsupported("PhotometricInterpretation (0028,0004) is none that is known")
    planar = tags.integer(dataset, "PlanarConfiguration", 0)
    if planar not in (0, 1):
        raise tags.unreadable("PlanarConfiguration")
    several = frames(dataset)
    # As they were read here, so that pydicom reads them no other way.
    dataset.Rows, dataset.Columns, dataset.NumberOfFrames = rows, columns, several
    dataset.SamplesPerPixel, dataset.PlanarConfiguration = 3, planar
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelRepresentation, dataset.PhotometricInterpretation = 0, photometric
    syntax, plugin = _syntax(dataset), ""
    if not syntax.is_encapsulated:
        length, found = rows * columns * 3, len(_bytes(dataset))
        # YBR_FULL_422 keeps two samples of each pixel (PS3.3, section C.7.6.3.1.2).
        if "422" in photometric:
            length = length * 2 // 3
        if found < length:
            raise _cut(found, length)
    else:
        if coded is not None:
            frame, header = coded
            plugin = _KINDS[syntax][1]
            if header.kind == "JPEG" and header.bits == 8:
                return decoders.colours_of_jpeg(frame, rgb=photometric == "RGB")
            if header.kind == "JPEG lossless":
                pixels: NDArray[np.generic] = decoders.samples(frame, header)
                ybr = photometric.startswith("YBR_FULL")
                return convert_color_space(pixels, "YBR_FULL", "RGB") if ybr else pixels
        else:
            plugin = "pylibjpeg"
            frame = codestream.first_frame(_bytes(dataset), several)
            frame = codestream.exact_runs(frame, rows * columns, 3)
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
    decoded, _ = decoder.as_array(dataset, index=0, raw=False, decoding_plugin=plugin)
    return np.ascontiguousarray(decoded)


def _codestream(dataset: Dataset, syntax: pydicom.uid.UID, rows: int, columns: int) -> _Coded:
    """The codestream of the first frame as far as it goes, and what it says of itself.

    Its own size is compared with what the data set promises.
    """
    if syntax not in _KINDS:
        raise _unsupported(f"TransferSyntaxUID (0002,0010) is {syntax.name}")
    frame = codestream.first_frame(_bytes(dataset), frames(dataset))
    header = codestream.header(frame)
    if header is None:
        raise corrupt("PixelData (7fe0,0010) is no codestream of its transfer syntax")
    if (header.rows, header.columns) != (rows, columns):
        raise corrupt(
            f"the codestream holds {header.rows} × {header.columns} pixels, Rows and Columns "
            f"(0028,0010) say {shown(rows)} × {shown(columns)}"
        )
    of_2000 = header.kind == "JPEG 2000"
    end = codestream.end_of_jpeg_2000(frame) if of_2000 else jpeg.end(frame)
    if end < 0 and not frame.rstrip(b"\0\xff").endswith(jpeg.END):
        raise FilmError("truncated", "PixelData (7fe0,0010) has no end of its codestream")
    if end >= 0:  # what follows is no part of it
        frame = frame[:end]
    if header.kind not in _KINDS[syntax][0]:
        raise corrupt(f"PixelData (7fe0,0010) is {header.kind}, and the file says {syntax.name}")
    if syntax in _MAYBE_LOSSY:
        header = replace(header, exact=False)
    return frame, header


def _bytes(dataset: Dataset) -> bytes:
    data = dataset.get_item("PixelData").value
    if not isinstance(data, bytes) or not data:
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
