"""Tags: values of a data set, read as they lie in the file, where they can mean one thing only.

What is empty is absent. What is there and cannot be read is not: a film whose window is lost in
silence is a film of other pixels, so it is refused by the tag's name. Values are taken from the
bytes, because pydicom makes of a value of the wrong kind whatever it can.
"""

from __future__ import annotations

import math
import re
import struct
from typing import Any

from pydicom.datadict import dictionary_keyword, dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from trainer.errors import FilmError
from trainer.film.codestream import corrupt

#: How numbers of a value representation are stored, without their byte order (PS3.5, section 6.2).
_BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d",
           "OW": "H", "OL": "I", "OV": "Q", "OF": "f", "OD": "d", "OB": "B", "AT": "H"}  # fmt: skip

#: A number as text. Programs of a European locale write a comma where the standard has a dot; it
#: never separates anything there.
_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?")


def named(keyword: str) -> str:
    """A tag for a message: its keyword and its number."""
    tag = Tag(tag_for_keyword(keyword) or 0)
    return f"{dictionary_keyword(tag)} ({tag.group:04x},{tag.element:04x})"


def stored(dataset: Dataset, keyword: str) -> tuple[bytes, str, bool]:
    """A value's bytes, its VR (that of the dictionary where the file says none), and whether its
    words are little endian; no bytes where it is absent or empty."""
    element = dataset.get_item(keyword) if keyword in dataset else None
    if element is None or element.value is None:
        return b"", "", True
    known = dictionary_VR(element.tag).split(" or ")[0]
    if not isinstance(element, RawDataElement):
        raise unreadable(keyword)
    vr = element.VR if element.VR in _BINARY or _is_text(element.VR) else known
    return element.value, vr, element.is_little_endian


def numbers(dataset: Dataset, keyword: str) -> list[float]:
    """Numbers of a tag, NaN for those of several that are empty; none where it is absent or empty.

    Raises FilmError(`corrupt`) where one cannot be read.
    """
    value, vr, little = stored(dataset, keyword)
    if vr in _BINARY:
        code = _BINARY[vr]
        size = struct.calcsize(code)
        if len(value) % size:
            raise unreadable(keyword)
        found = struct.unpack(f"{'<' if little else '>'}{len(value) // size}{code}", value)
        if not all(map(math.isfinite, found)):
            raise unreadable(keyword)
        return [float(number) for number in found]
    text = _decoded(value, keyword)
    if not text:
        return []
    read = []
    for part in text.split("\\"):
        part = part.strip(" \0\t\r\n")
        if part and not _NUMBER.fullmatch(part):
            raise unreadable(keyword)
        number = float(part.replace(",", ".")) if part else math.nan
        if math.isinf(number):
            raise unreadable(keyword)
        read.append(number)
    return read


def number(dataset: Dataset, keyword: str) -> float | None:
    """The one number of a tag; None where it is absent or empty. Several must be the same."""
    found = {value for value in numbers(dataset, keyword) if not math.isnan(value)}
    if len(found) > 1:
        raise corrupt(f"{named(keyword)} has several values that differ")
    return found.pop() if found else None


def integers(dataset: Dataset, keyword: str) -> list[int]:
    """Whole numbers of a tag; none where it is absent or empty."""
    found = numbers(dataset, keyword)
    if not all(value == int(value) for value in found if not math.isnan(value)) or any(
        math.isnan(value) for value in found
    ):
        raise unreadable(keyword)
    return [int(value) for value in found]


def integer(dataset: Dataset, keyword: str, default: int | None = None) -> int:
    """The one whole number of a tag. Raises FilmError where it is absent and has no default."""
    found = number(dataset, keyword)
    if found is None:
        if default is None:
            raise corrupt(f"{named(keyword)} is absent")
        return default
    if found != int(found):
        raise unreadable(keyword)
    return int(found)


def code(dataset: Dataset, keyword: str) -> str:
    """The one code string of a tag, in capitals; empty where it is absent or empty."""
    value, _, _ = stored(dataset, keyword)
    found = {part.strip(" \0\t\r\n").upper() for part in _decoded(value, keyword).split("\\")}
    if len(found - {""}) > 1:
        raise corrupt(f"{named(keyword)} has several values that differ")
    return max(found)


def items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """Items of a sequence; none where it is absent or has none."""
    value: Any = dataset.get(keyword)
    if value is None or (isinstance(value, bytes) and not value):
        return []
    if not isinstance(value, Sequence):
        raise unreadable(keyword)
    return list(value)


def unreadable(keyword: str) -> FilmError:
    """The FilmError for a tag whose value is there and means nothing certain."""
    return corrupt(f"{named(keyword)} is there and cannot be read")


def _is_text(vr: str | None) -> bool:
    return vr in ("AS", "CS", "DS", "IS", "LO", "LT", "SH", "ST", "UC", "UI", "UR", "UT")


def _decoded(value: bytes, keyword: str) -> str:
    try:
        return value.decode("ascii").strip(" \0\t\r\n")
    except UnicodeDecodeError:
        raise unreadable(keyword) from None
