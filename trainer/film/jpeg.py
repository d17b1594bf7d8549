"""JPEG as it lies in the file: its segments and scans (ITU-T T.81, annex B), and what is missing.

Decodes nothing: what is within a scan is skipped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from trainer.film import codestream

#: Second bytes of the frame headers of progressive JPEG (ITU-T T.81, table B.1).
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})

#: Markers by their second byte: begin of a scan, end of the image, and those without a length.
_SOS, _EOI = 0xDA, 0xD9
_ALONE = frozenset({0x00, 0x01, *range(0xD0, 0xD9)})

#: The begin of a scan, and the end of an image.
_SCAN = b"\xff\xda"
END = b"\xff\xd9"

#: What ends a scan: a marker other than a restart.
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")

#: The same in JPEG-LS, whose frame has a marker of its own: within a scan FF stands before less
#: than 80 (ISO 14495-1, annex A).
_AFTER_SCAN_OF_LS = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")
_JPEG_LS = 0xF7

#: Coefficients of a block.
_COEFFICIENTS = 64


def is_one_scan(data: bytes) -> bool:
    """Whether the first scan of a JPEG holds all of it, if it is whole; False also where in doubt.

    Every film is asked, so the scan is searched for, not walked to.
    """
    frame = codestream.find_frame(data)
    scan = data.find(_SCAN, frame)
    return (
        0 < frame < scan
        and data[frame + 1] not in _PROGRESSIVE
        and data[scan + 4 : scan + 5] == data[frame + 9 : frame + 10]
    )


def scan_end(data: bytes) -> int:
    """Where the first scan of a JPEG ends."""
    start = next((at for marker, at in _segments(data) if marker == _SOS), len(data))
    found = _AFTER_SCAN.search(data, start + 2)
    return found.start() if found else len(data)


def is_whole(data: bytes) -> bool:
    """Whether a JPEG has an end, and before it scans that hold every coefficient to its last bit.

    Whether a scan is cut within is not seen.
    """
    frame = codestream.find_frame(data)
    progressive = data[frame + 1] in _PROGRESSIVE
    missing: dict[int, set[int]] = {}
    for marker, at in _segments(data):
        head = data[at : at + 20]
        if at == frame:
            components = data[at + 10 : at + 10 + 3 * data[at + 9] : 3]
            missing = {one: set(range(_COEFFICIENTS)) for one in components}
        elif marker == _SOS and len(head) >= 8 + 2 * (head[4] if len(head) > 4 else 20):
            count = head[4]
            first, last, bits = head[5 + 2 * count : 8 + 2 * count]
            if not progressive:
                first, last, bits = 0, _COEFFICIENTS - 1, 0
            for one in head[5 : 5 + 2 * count : 2]:
                if bits & 15 == 0:
                    missing.get(one, set()).difference_update(range(first, last + 1))
        elif marker == _EOI:
            return not any(missing.values())
    return False


def end(data: bytes) -> int:
    """Where a JPEG or a JPEG-LS ends, -1 where it does not."""
    return next((at + len(END) for marker, at in _segments(data) if marker == _EOI), -1)


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Each marker of a JPEG and its place, to the first end of an image."""
    at, after_scan = 2, _AFTER_SCAN
    while at + 2 <= len(data):
        if data[at] != 0xFF or data[at + 1] == 0xFF:
            at = data.find(b"\xff", at + 1)
            if at < 0:
                return
            continue
        marker = data[at + 1]
        yield marker, at
        if marker == _EOI or at + 4 > len(data):
            return
        at += 2 if marker in _ALONE else 2 + (data[at + 2] << 8 | data[at + 3])
        if marker == _JPEG_LS:
            after_scan = _AFTER_SCAN_OF_LS
        if marker == _SOS:
            found = after_scan.search(data, at)
            if found is None:
                return
            at = found.start()
