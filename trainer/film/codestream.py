"""Codestreams: the compressed first frame of a DICOM, taken out of its items and looked over.

A decoder is handed nothing that promises other pixels than its data set, or that visibly lacks its
end: a few bytes must not ask for gigabytes, and half a frame must not be scored.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from trainer.errors import FilmError

#: Signatures of a JPEG or JPEG-LS frame (SOFn; DHT, JPG and DAC are none), which hold its size.
_SOF = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})

_ITEM, _DELIMITER = 0xE000FFFE, 0xE0DDFFFE


def first_frame(data: bytes, frames: int) -> bytes:
    """The first frame's codestream. Offset tables are not believed where they are not needed."""
    fragments = list(_fragments(data))
    if len(fragments) < 2:
        raise FilmError("truncated", "PixelData (7fe0,0010) ends before its first frame")
    offsets, *parts = fragments
    if frames <= 1:
        return b"".join(parts)
    if len(parts) == frames or len(offsets) < 8:
        return parts[0]
    second, at, frame = struct.unpack_from("<I", offsets, 4)[0], 0, []
    for part in parts:
        if at >= second:
            break
        frame.append(part)
        at += len(part) + 8
    return b"".join(frame)


def _fragments(data: bytes) -> Iterator[bytes]:
    """The offset table, which may be empty, and then the fragments (PS3.5, annex A.4)."""
    at = 0
    while at + 8 <= len(data):
        tag, length = struct.unpack_from("<2I", data, at)
        if tag == _DELIMITER:
            return
        if tag != _ITEM:
            raise corrupt("PixelData (7fe0,0010) holds something that is no item")
        if length > len(data) - at - 8:
            raise FilmError("truncated", "PixelData (7fe0,0010) ends inside an item")
        yield data[at + 8 : at + 8 + length]
        at += 8 + length


def check_frame(frame: bytes, rows: int, columns: int) -> None:
    """Compare a codestream's own size with what the data set promises, and look for its end."""
    found = _codestream_size(frame)
    if found is None:
        raise corrupt("PixelData (7fe0,0010) is no codestream of its transfer syntax")
    if found != (rows, columns):
        raise corrupt(
            f"the codestream holds {found[0]} × {found[1]} pixels, Rows and Columns (0028,0010) "
            f"say {rows} × {columns}"
        )
    if not frame.rstrip(b"\0\xff").endswith(b"\xff\xd9"):
        raise FilmError("truncated", "PixelData (7fe0,0010) has no end of its codestream")


def exact_runs(frame: bytes, length: int, planes: int) -> bytes:
    """An RLE frame (PS3.5, annex G) whose segments unpack to `length` bytes each and end there.

    The decoder panics where a segment holds more, and its panics write to the log.
    """
    if len(frame) < 64:
        raise FilmError("truncated", "PixelData (7fe0,0010) ends inside its RLE header")
    count, *starts = struct.unpack_from("<16I", frame)
    if count != planes or sorted(starts[:count]) != starts[:count] or starts[0] < 64:
        raise corrupt("PixelData (7fe0,0010) has an RLE header that does not fit its pixels")
    segments = []
    for start, end in zip(starts[:count], [*starts[1:count], len(frame)], strict=True):
        at, made = start, 0
        while made < length:
            if at + 1 >= end:
                raise FilmError("truncated", "PixelData (7fe0,0010) ends inside an RLE segment")
            head = frame[at]
            if head < 128:
                made += head + 1
                at += head + 2
            elif head > 128:
                made += 257 - head
                at += 2
            else:
                at += 1
        if made > length or at > min(end, len(frame)):
            raise corrupt("PixelData (7fe0,0010) has an RLE segment that does not fit its pixels")
        segments.append(frame[start:at] + bytes((at - start) % 2))
    places = np.cumsum([64, *map(len, segments)])[:-1]
    return struct.pack("<16I", count, *places, *[0] * (15 - count)) + b"".join(segments)


def _codestream_size(frame: bytes) -> tuple[int, int] | None:
    """Rows and columns by the codestream: SIZ of JPEG 2000, SOF of JPEG and JPEG-LS."""
    at = frame.find(b"\xff\x4f\xff\x51", 0, 4096)
    if at >= 0 and len(frame) >= at + 24:
        x1, y1, x0, y0 = struct.unpack_from(">4I", frame, at + 8)
        return y1 - y0, x1 - x0
    at = find_frame(frame)
    if at < 0 or len(frame) < at + 9:
        return None
    rows, columns = struct.unpack_from(">HH", frame, at + 5)
    return rows, columns


def find_frame(data: bytes) -> int:
    """Where the frame header (SOFn) of a JPEG or JPEG-LS begins, -1 where none is found."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _SOF:
            return at
        at += 1 if marker == 0xFF else 2 + (data[at + 2] << 8 | data[at + 3])
    return -1


def corrupt(found: str) -> FilmError:
    """The FilmError for a DICOM that contradicts itself."""
    return FilmError("corrupt", f"{found}; export it again from where it came from")
