"""Codestreams: the compressed first frame of a DICOM, taken out of its items and looked over.

A decoder is handed nothing that promises other pixels than its data set, or that visibly lacks its
end: a few bytes must not ask for gigabytes, and half a frame must not be scored.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from trainer.errors import FilmError

#: Signatures of a JPEG or JPEG-LS frame (SOFn; DHT, JPG and DAC are none), which hold its size.
_SOF = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})

#: What starts a JPEG (SOI) and the last part of its header (SOS), a JPEG 2000 codestream
#: (SOC and SIZ), and its coding style (COD).
_SOI, _SOS, _SOC, _COD = b"\xff\xd8", 0xDA, b"\xff\x4f\xff\x51", 0x52

#: What starts a part of a tile of JPEG 2000 (SOT), and what ends the codestream (EOC).
_SOT, _EOC = 0x90, 0xD9

_LOSSLESS, _JPEG_LS = 0xC3, 0xF7

_ITEM, _DELIMITER = 0xE000FFFE, 0xE0DDFFFE


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a codestream says of itself."""

    #: `JPEG` (by DCT), `JPEG lossless`, `JPEG-LS` or `JPEG 2000`.
    kind: str
    rows: int
    columns: int
    #: Samples of a pixel.
    samples: int
    #: Bits of a sample, and whether it is signed, which JPEG 2000 alone can say.
    bits: int
    signed: bool
    #: Whether every sample is what was encoded.
    exact: bool


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


def end_of_jpeg_2000(frame: bytes) -> int:
    """Where a JPEG 2000 codestream ends, by its tile-parts, -1 where it does not."""
    at = frame.find(_SOC, 0, 4096) + 2
    while at + 2 <= len(frame) and frame[at] == 0xFF:
        if frame[at + 1] == _EOC:
            return at + 2
        length = int.from_bytes(frame[at + 2 : at + 4], "big") + 2
        if frame[at + 1] == _SOT:
            length = int.from_bytes(frame[at + 6 : at + 10], "big")
            if not length:  # as far as the end of the codestream
                return -1
        at += length
    return -1


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


def header(frame: bytes) -> Header | None:
    """What SIZ of JPEG 2000, or SOFn of JPEG and JPEG-LS, says of a codestream; None of no such."""
    at = -1 if frame.startswith(_SOI) else frame.find(_SOC, 0, 4096)
    if at >= 0 and len(frame) >= at + 43:
        x1, y1, x0, y0 = struct.unpack_from(">4I", frame, at + 8)
        depth = frame[at + 42]
        return Header(
            kind="JPEG 2000",
            rows=y1 - y0,
            columns=x1 - x0,
            samples=struct.unpack_from(">H", frame, at + 40)[0],
            bits=(depth & 0x7F) + 1,
            signed=bool(depth & 0x80),
            exact=_is_reversible(frame, at + 2),
        )
    at = find_frame(frame)
    if at < 0 or len(frame) < at + 10:
        return None
    bits, rows, columns, samples = struct.unpack_from(">BHHB", frame, at + 4)
    kind = {_LOSSLESS: "JPEG lossless", _JPEG_LS: "JPEG-LS"}.get(frame[at + 1], "JPEG")
    exact = kind == "JPEG lossless" or (kind == "JPEG-LS" and not _allowed_error(frame, at))
    return Header(
        kind=kind, rows=rows, columns=columns, samples=samples, bits=bits, signed=False, exact=exact
    )


def _is_reversible(frame: bytes, at: int) -> bool:
    """Whether a JPEG 2000 codestream was made by the wavelet of whole numbers."""
    while at + 14 <= len(frame) and frame[at] == 0xFF:
        if frame[at + 1] == _COD:
            return frame[at + 13] == 1
        at += 2 + (frame[at + 2] << 8 | frame[at + 3])
    return False


def _allowed_error(frame: bytes, at: int) -> int:
    """How far each sample of a JPEG-LS codestream may be from what was encoded."""
    while at + 5 <= len(frame) and frame[at] == 0xFF:
        if frame[at + 1] == _SOS:
            place = at + 5 + 2 * frame[at + 4]
            return frame[place] if place < len(frame) else 0
        at += 2 + (frame[at + 2] << 8 | frame[at + 3])
    return 0


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
