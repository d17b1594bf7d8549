"""A decoder of PNG by the specification (PNG 3rd edition) and zlib: slow, strict, and not ours."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np

_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
           (0, 1, 1, 2))  # fmt: skip


class Damaged(Exception):
    """The file is not what the specification says."""


def decoded(data: bytes) -> np.ndarray:
    """Samples as they are displayed: `[H, W, 1, 2, 3 or 4]`, palette and transparency applied.

    Raises Damaged, zlib.error or struct.error, also for several pictures in one file.
    """
    header, palette, transparent, packed = b"", b"", None, b""
    for name, body, sound in _chunks(data):
        if not header and name != b"IHDR":
            raise Damaged("no header")
        critical = not name[0] & 0x20
        if not sound and (critical or name == b"tRNS"):
            raise Damaged("a checksum")
        if name == b"acTL" or (critical and name not in (b"IHDR", b"PLTE", b"IDAT", b"IEND")):
            raise Damaged("what is not known here")
        if name == b"IHDR":
            if header:
                raise Damaged("two headers")
            header = body
        elif name == b"PLTE":
            if palette or packed:
                raise Damaged("a palette in the wrong place")
            palette = body
        elif name == b"tRNS":
            if transparent is not None or packed:
                raise Damaged("transparency in the wrong place")
            transparent = body
        elif name == b"IDAT":
            packed += body
    width, height, depth, colour, method, filters, interlaced = struct.unpack(">2I5B", header)
    if depth not in _DEPTHS.get(colour, ()) or method or filters or interlaced > 1:
        raise Damaged("a header")
    if not 0 < width * height <= 1 << 20:
        raise Damaged("a size")
    inflater = zlib.decompressobj()
    rows = inflater.decompress(packed)
    if not inflater.eof:
        raise Damaged("too few rows")
    samples = _SAMPLES[colour]
    found = np.zeros((height, width, samples), np.uint16)
    at = 0
    for column, row, across, down in _PASSES if interlaced else ((0, 0, 1, 1),):
        shape = -(-(height - row) // down), -(-(width - column) // across)
        if min(shape) > 0:
            part, at = _pass(rows, at, *shape, samples, depth)
            found[row::down, column::across] = part
    return _shown(found, depth, colour, palette, transparent)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        raise Damaged("a signature")
    at, last = 8, b""
    seen: set[bytes] = set()
    while at < len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data) or not name.isalpha():
            raise Damaged("a chunk")
        if name == b"IDAT" and last != b"IDAT" and b"IDAT" in seen:
            raise Damaged("data in two places")
        seen.add(name)
        checksum = struct.unpack_from(">I", data, end - 4)[0]
        yield name, data[at + 8 : end - 4], checksum == zlib.crc32(data[at + 4 : end - 4])
        at, last = end, name
        if name == b"IEND":
            break
    if last != b"IEND":
        raise Damaged("an end")


def _pass(
    rows: bytes, at: int, height: int, width: int, samples: int, depth: int
) -> tuple[np.ndarray, int]:
    step = max(1, samples * depth // 8)
    length = (width * samples * depth + 7) // 8
    above = bytearray(length)
    lines = []
    for _ in range(height):
        if at + 1 + length > len(rows):
            raise Damaged("too few rows")
        above = _unfiltered(rows[at], bytearray(rows[at + 1 : at + 1 + length]), above, step)
        lines.append(bytes(above))
        at += 1 + length
    raw = np.frombuffer(b"".join(lines), np.uint8).reshape(height, length)
    if depth == 16:
        whole = raw.reshape(height, -1, 2).astype(np.uint16)
        values = whole[..., 0] << 8 | whole[..., 1]
    elif depth == 8:
        values = raw
    else:
        bits = np.unpackbits(raw, axis=1).reshape(height, -1, depth)
        values = bits @ (1 << np.arange(depth)[::-1])
    return values[:, : width * samples].reshape(height, width, samples), at


def _unfiltered(kind: int, line: bytearray, above: bytearray, step: int) -> bytearray:
    if kind == 0:
        return line
    if kind == 2:
        return bytearray((np.frombuffer(line, np.uint8) + np.frombuffer(above, np.uint8)).tobytes())
    if kind > 4:
        raise Damaged("a filter")
    for n in range(len(line)):
        a, b = line[n - step] if n >= step else 0, above[n]
        c = above[n - step] if n >= step else 0
        if kind == 1:
            guess = a
        elif kind == 3:
            guess = (a + b) // 2
        else:
            p = a + b - c
            guess = min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
        line[n] = (line[n] + guess) & 255
    return line


def _shown(
    found: np.ndarray, depth: int, colour: int, palette: bytes, transparent: bytes | None
) -> np.ndarray:
    if colour == 3:
        table = np.frombuffer(palette, np.uint8)
        if not len(table) or len(table) % 3 or int(found.max()) >= len(table) // 3:
            raise Damaged("a palette")
        shown = table.reshape(-1, 3)[found[..., 0]]
        if transparent is None:
            return shown
        alpha = np.full(256, 255, np.uint8)
        if len(transparent) > len(table) // 3:
            raise Damaged("transparency")
        alpha[: len(transparent)] = np.frombuffer(transparent, np.uint8)
        return np.dstack([shown, alpha[found[..., 0]]])
    if transparent is not None:
        if colour not in (0, 2) or len(transparent) != 2 * found.shape[2]:
            raise Damaged("transparency")
        key = np.frombuffer(transparent, ">u2")
        opaque = (found != key).any(-1)
        top = (1 << depth) - 1
        found = np.dstack([found, np.where(opaque, top, 0).astype(np.uint16)])
    if depth < 8:
        found = found * (255 // ((1 << depth) - 1))
    return found
