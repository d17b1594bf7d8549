"""Pieces: a file taken apart where its format does, so that mutations hit its structure.

Each function returns pieces that make the file when they are joined. What does not look as it
should is left in one piece: mutated files are taken apart as well.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator


def _png(data: bytes) -> Iterator[bytes]:
    yield data[:8]
    at = 8
    while at + 12 <= len(data):
        end = at + 12 + struct.unpack_from(">I", data, at)[0]
        yield data[at:end]
        at = end
    yield data[at:]


def _jpeg(data: bytes) -> Iterator[bytes]:
    yield data[:2]
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xD9:
        end = at + 2 + struct.unpack_from(">H", data, at + 2)[0]
        yield data[at:end]
        if data[at + 1] == 0xDA:  # the coded part, in a few pieces
            last = data.find(b"\xff\xd9", end)
            last = len(data) if last < 0 else last
            step = max(1, (last - end) // 5)
            yield from (data[n : min(n + step, last)] for n in range(end, last, step))
            end = last
        at = end
    yield data[at:]


def _tiff(data: bytes) -> Iterator[bytes]:
    order = "<" if data[:2] == b"II" else ">"
    directory = struct.unpack_from(order + "I", data, 4)[0]
    if not 8 <= directory <= len(data) - 2:
        yield data
        return
    count = struct.unpack_from(order + "H", data, directory)[0]
    yield data[:4]
    yield data[4:8]
    if directory > 8:
        yield data[8:directory]
    yield data[directory : directory + 2]
    at = directory + 2
    for _ in range(count):
        yield data[at : at + 12]
        at += 12
    yield data[at : at + 4]
    yield data[at + 4 :]


_LONG = (b"OB", b"OW", b"SQ", b"UN", b"UT", b"UC", b"OF", b"OD", b"OL")


def _dicom(data: bytes) -> Iterator[bytes]:
    yield data[:128]
    yield data[128:132]
    at = 132
    while at + 8 <= len(data):
        vr = data[at + 4 : at + 6]
        if data[at : at + 4] in (b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0", b"\xfe\xff\xdd\xe0"):
            head, length = 8, struct.unpack_from("<I", data, at + 4)[0]
        elif vr in _LONG and at + 12 <= len(data):
            head, length = 12, struct.unpack_from("<I", data, at + 8)[0]
        elif vr.isalpha() and vr.isupper():
            head, length = 8, struct.unpack_from("<H", data, at + 6)[0]
        else:
            head, length = 8, struct.unpack_from("<I", data, at + 4)[0]
        end = at + head + (0 if length == 0xFFFFFFFF else length)
        yield data[at:end]
        at = end
    yield data[at:]


def _zip(data: bytes) -> Iterator[bytes]:
    marks = (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07")
    starts = sorted(at for mark in marks for at in _places(data, mark))
    yield data[: starts[0]] if starts else data
    for start, end in zip(starts, [*starts[1:], len(data)], strict=True):
        head = 30 if data[start + 2] == 3 else end - start
        yield data[start : start + head]
        yield data[start + head : end]


def _tar(data: bytes) -> Iterator[bytes]:
    for at in range(0, len(data), 512):
        yield data[at : at + 512]


def _lines(data: bytes) -> Iterator[bytes]:
    for line in data.splitlines(keepends=True):
        cells = line.split(b",")
        yield from (cell + b"," for cell in cells[:-1])
        yield cells[-1]


def _even(data: bytes) -> Iterator[bytes]:
    """A header, a trailer and what is between them, cut anywhere."""
    step = max(1, len(data) // 24)
    ends = [4, 10, *range(10 + step, len(data) - 8, step), len(data) - 8, len(data)]
    at = 0
    for end in ends:
        yield data[at:end]
        at = max(at, end)


_TAKERS: dict[str, Callable[[bytes], Iterator[bytes]]] = {
    "PNG": _png,
    "JPEG": _jpeg,
    "TIFF": _tiff,
    "DICOM": _dicom,
    "zip": _zip,
    "tar": _tar,
    "CSV": _lines,
}


def of(data: bytes, kind: str) -> list[bytes]:
    """A file's pieces; of any other kind, or where it is beyond recognition, even ones."""
    try:
        found = [piece for piece in _TAKERS.get(kind, _even)(data) if piece]
    except (struct.error, IndexError):
        found = []
    return found if b"".join(found) == data else [piece for piece in _even(data) if piece]


def _places(data: bytes, mark: bytes) -> Iterator[int]:
    at = data.find(mark)
    while at >= 0:
        yield at
        at = data.find(mark, at + 1)
