"""Zips of very many small films with different bytes, written as fast as the disk takes them.

A film's bytes are those of a template with a number in them, the member's CRC is right, and the
directory is Zip64 where it must be. `zipfile` would take minutes and a gigabyte for a million.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

#: Makes the film of a number from its template.
Film = Callable[[int], bytes]

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_END = struct.Struct("<4s4H2IH")

#: 1 January 2026, as DOS dates are written.
_DATE = (2026 - 1980) << 9 | 1 << 5 | 1

#: Bytes gathered for one write.
_WRITE = 4 << 20


def jpeg(template: bytes) -> Film:
    """A JPEG with the number in a comment after its first marker."""
    head, rest = template[:2] + b"\xff\xfe\x00\x0a", template[2:]
    return lambda number: head + number.to_bytes(8, "big") + rest


def png(size: int, seed: int) -> Film:
    """A gray PNG of noise whose first eight pixels are the number."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 256, (size, size + 1), np.uint8)
    rows[:, 0] = 0  # no filter
    pixels = rows.tobytes()[9:]
    head = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">2I5B", size, size, 8, 0, 0, 0, 0))
    end = _chunk(b"IEND", b"")

    def film(number: int) -> bytes:
        # Not compressed: noise would not shrink, and a million films would take minutes more.
        packed = zlib.compress(b"\0" + number.to_bytes(8, "big") + pixels, 0)
        return head + _chunk(b"IDAT", packed) + end

    return film


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def tiny(size: int) -> list[Film]:
    """Makers of films of `size` × `size` pixels: JPEG and PNG in turns."""
    rng = np.random.default_rng(0)
    made: list[Film] = []
    for seed in range(8):
        encoded = io.BytesIO()
        smooth = Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8))
        smooth.resize((size, size), Image.Resampling.BICUBIC).save(encoded, "JPEG", quality=85)
        made += [jpeg(encoded.getvalue()), png(size, seed)]
    return made


def write(
    path: Path, count: int, films: Sequence[Film], suffixes: Sequence[str], first: int = 0
) -> None:
    """Write a zip of `count` stored members, numbered from `first`, of each of `films` in turn."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as target:
        offset, directory = 0, bytearray()
        pending: list[bytes] = []
        waiting = 0
        for name, data in _members(range(first, first + count), films, suffixes):
            crc, size = zlib.crc32(data), len(data)
            header = _LOCAL.pack(b"PK\x03\x04", 20, 0, 0, 0, _DATE, crc, size, size, len(name), 0)
            far = offset >= 0xFFFFFFFF
            extra = struct.pack("<2HQ", 1, 8, offset) if far else b""
            directory += _CENTRAL.pack(
                b"PK\x01\x02", 45, 45 if far else 20, 0, 0, 0, _DATE, crc, size, size,
                len(name), len(extra), 0, 0, 0, 0, 0xFFFFFFFF if far else offset,
            )  # fmt: skip
            directory += name + extra
            pending += (header, name, data)
            waiting += len(header) + len(name) + size
            offset += len(header) + len(name) + size
            if waiting >= _WRITE:
                target.write(b"".join(pending))
                pending, waiting = [], 0
        target.write(b"".join(pending))
        target.write(directory)
        end = offset + len(directory)
        target.write(
            _END64.pack(b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, len(directory), offset)
        )
        target.write(_LOCATOR.pack(b"PK\x06\x07", 0, end, 1))
        last = (0, 0, min(count, 0xFFFF), min(count, 0xFFFF))
        sizes = (min(len(directory), 0xFFFFFFFF), min(offset, 0xFFFFFFFF), 0)
        target.write(_END.pack(b"PK\x05\x06", *last, *sizes))
    partial.rename(path)


def _members(
    numbers: range, films: Sequence[Film], suffixes: Sequence[str]
) -> Iterator[tuple[bytes, bytes]]:
    for n in numbers:
        which = n % len(films)
        suffix = suffixes[which % len(suffixes)]
        yield f"ward{n // 1000:04d}/film{n:07d}{suffix}".encode(), films[which](n)
