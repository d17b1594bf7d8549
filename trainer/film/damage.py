"""Damage: what Pillow skips in silence or notices too late.

It leaves the rows black that a PNG's data does not reach, so that half a film would be scored, and
it makes room for whatever a WebP claims to hold before it can be asked how much that is.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from PIL import Image

from trainer.errors import FilmError
from trainer.film.refusals import Accepted, check_size

#: Column and row at which each pass of an interlaced PNG starts, and its steps (PNG, section 8.2).
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
          (0, 1, 1, 2))  # fmt: skip

#: Samples of a pixel by the colour type of a PNG.
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


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
