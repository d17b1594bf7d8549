"""Damage: what Pillow skips in silence or notices too late.

It leaves the rows black that a PNG's data does not reach, and the blocks gray that a JPEG's does
not, so that half a film would be scored; and it makes room for whatever a WebP claims to hold
before it can be asked how much. A PNG, on the other hand, it gives up for what no pixel needs.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator

from PIL import Image, JpegImagePlugin

from trainer.errors import FilmError
from trainer.film import jpeg
from trainer.film.refusals import Accepted, check_size

#: Column and row at which each pass of an interlaced PNG starts, and its steps (PNG, section 8.2).
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
          (0, 1, 1, 2))  # fmt: skip

#: Samples of a pixel by the colour type of a PNG.
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}

#: Ancillary chunks of a PNG on which its pixels depend: transparency, and further pictures.
_PIXEL_CHUNKS = frozenset({b"tRNS", b"acTL", b"fcTL", b"fdAT"})

#: Keywords of texts in a PNG that may say which way up it is.
_TURNING = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")

#: What libjpeg puts in the place of blocks that are not there.
MADE_UP = 128

#: A scan that is whole needs at most so many bytes behind it to be decoded to its last block:
#: libjpeg looks ahead by eight.
_AHEAD = 32

_AGAIN = "copy it again from where it came from"

#: Bytes below which no image of 32 × 32 pixels is complete.
_SHORTEST = 40


def check_webp(data: bytes, accept: Accepted) -> None:
    """Raise FilmError for a WebP that is shorter than it says, or too large.

    Pillow cannot be asked: to open a WebP it makes room for all its pixels.
    """
    if len(data) < max(30, struct.unpack_from("<I", data, 4)[0] + 8):
        raise FilmError(
            "truncated", f"the WebP image ends early ({len(data)} bytes); copy it again"
        )
    if data[12:16] == b"VP8X":
        width = 1 + int.from_bytes(data[24:27], "little")
        height = 1 + int.from_bytes(data[27:30], "little")
    elif data[12:16] == b"VP8L":
        sides = int.from_bytes(data[21:25], "little")
        width, height = 1 + (sides & 0x3FFF), 1 + (sides >> 14 & 0x3FFF)
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<2H", data, 26))
    check_size(width, height, accept)


def check_rows(data: bytes, kind: str, image: Image.Image) -> None:
    """Raise FilmError(`truncated`) for a loaded PNG whose data ends before its last row.

    The data is unpacked a second time only where the last row is black, as a missing one is, and
    for interlaced files, which are rare.
    """
    if kind != "PNG":
        return
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">2I5B", data, 16)
    last = image.crop((0, image.height - 1, image.width, image.height))
    if not interlaced and last.getbbox(alpha_only=False) is not None:
        return
    bits = depth * _SAMPLES[colour]
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    expected = 0
    for column, row, across, down in passes:
        columns, rows = -(-(width - column) // across), -(-(height - row) // down)
        if columns > 0 and rows > 0:
            expected += rows * (1 + (columns * bits + 7) // 8)
    found = 0
    inflater = zlib.decompressobj()
    for body in _pixel_chunks(data):
        while body and found < expected and not inflater.eof:
            found += len(inflater.decompress(body, 1 << 16))
            body = inflater.unconsumed_tail
    if found < expected:
        raise FilmError(
            "truncated",
            f"the PNG image holds {found:,} of {expected:,} bytes of its rows; export it again",
        )


def _pixel_chunks(data: bytes) -> Iterator[bytes]:
    at = 8
    while at + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        if name == b"IDAT":
            yield data[at + 8 : at + 8 + length]
        at += 12 + length


def needed_of_png(data: bytes) -> bytes:
    """A PNG without the chunks that neither its pixels nor its orientation depend on.

    Nor those of a wrong checksum that could say no more than which way up it is. Profiles and texts
    are of any size and often damaged, and Pillow reads none of the picture where one of them is.
    """
    kept, at = [data[:8]], 8
    while at + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        chunk = data[at : at + 12 + length]
        critical = not name[0] & 0x20  # PNG, section 5.4
        if critical or name in _PIXEL_CHUNKS or _turns(name, chunk):
            kept.append(chunk)
        at += len(chunk)
    return b"".join(kept)


def _turns(name: bytes, chunk: bytes) -> bool:
    """Whether an intact chunk of a PNG may say which way up it is."""
    if name != b"eXIf" and not (name.endswith(b"Xt") and chunk.startswith(_TURNING, 8)):
        return False
    return chunk[-4:] == struct.pack(">I", zlib.crc32(chunk[4:-4]))


def check_jpeg(data: bytes, image: Image.Image) -> None:
    """Raise FilmError(`truncated`) for a loaded JPEG that ends before its last pixel.

    libjpeg makes up what is missing where an end or other bytes follow on what is there. What a
    usual file costs is a look at its last bytes and at its last pixel.
    """
    one_scan = jpeg.is_one_scan(data)
    if not (one_scan and data.endswith(jpeg.END)) and not jpeg.is_whole(data):
        raise _cut_jpeg()
    if not one_scan or _last(image) != MADE_UP:
        return
    # Without its end libjpeg asks for more where blocks are missing, and does not make them up.
    unended = data[: jpeg.scan_end(data)] + bytes(_AHEAD)
    try:
        JpegImagePlugin.jpeg_factory(io.BytesIO(unended)).load()
    except OSError:
        raise _cut_jpeg() from None


def _last(image: Image.Image) -> object:
    """Level of the last pixel, of colour the luma's."""
    found = image.getpixel((image.width - 1, image.height - 1))
    return found[0] if isinstance(found, tuple) else found


def _cut_jpeg() -> FilmError:
    return FilmError(
        "truncated",
        f"the JPEG image ends before its last pixel; {_AGAIN}",
    )


#: What Pillow says, what that means, and what to do.
_SAYS = (
    ("broken data stream", "its compressed pixels are damaged", _AGAIN),
    ("no marker found", "its header is damaged", _AGAIN),
    ("data too large", "a text in it unpacks to over 1 MB", "save it without metadata"),
)


def broken(kind: str, data: bytes, error: Exception) -> FilmError:
    """The FilmError for what a decoder said about damaged data."""
    message = re.sub(r" <_io.*>", "", str(error))
    if "out of memory" in message:
        raise MemoryError from error
    if isinstance(error, Image.DecompressionBombError):
        return FilmError("too_large", "more pixels than any X-ray detector makes; shrink it first")
    if "-bit layers" in message:
        return FilmError("unsupported_pixels", pixels_message("16-bit"))
    if layers := re.search(r"cannot handle (\d+)-layer", message):
        components = f"the {kind} has {layers[1]} components; a film has one, or three of colour"
        return FilmError("unsupported_pixels", f"{components}; convert it to gray")
    # Pillow makes SyntaxErrors of what goes wrong in a header.
    ended = (EOFError, IndexError, struct.error)
    cut = isinstance(error, ended) or isinstance(error.__cause__, ended) or len(data) < _SHORTEST
    # A header without a frame, or with nothing after it.
    headless = ("truncated", "cannot load", "not identified") if kind == "JPEG" else ("truncated",)
    cut = cut or any(word in message.lower() for word in headless)
    # What a decoder says on purpose is a sentence; what escapes it is for programmers.
    meant = isinstance(error, OSError | SyntaxError) and bool(message)
    found, advice = message[:120] if meant else "it contradicts itself", _AGAIN
    if cut:
        found = "it ends early"
    else:
        found, advice = next((say[1:] for say in _SAYS if say[0] in message), (found, advice))
    return FilmError(
        "truncated" if cut else "corrupt", f"the {kind} image cannot be decoded: {found}; {advice}"
    )


def pixels_message(mode: str) -> str:
    """Why pixels of this mode are not read, and what to do."""
    if mode.startswith("I") or mode in ("F", "16-bit"):
        return (
            f"{mode} pixels hold more than 8 bits in a form without a known window; convert it to "
            "8-bit gray, or keep it as DICOM"
        )
    return f"{mode} pixels are not those of an X-ray film; convert it to gray"
