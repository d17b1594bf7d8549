"""Nobody: what stands in a patient's place and is none, such as `unknown`, or the day of a film.

Rules of two namings (`labelled.NAMING`) are kept here side by side: jobs go on by theirs.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Set as AbstractSet
from typing import Final

#: Years in which films that are stored as files may have been taken.
YEARS: Final = range(1980, 2036)

#: Eight digits that end a name.
_DAY = re.compile(r"(?<!\d)(\d{4})(\d\d)(\d\d)$")

_WORDS = (
    r"x+|unknown|none|na|nil|null|removed|deleted|test|patient"
    r"|(?:no)?(?:patient)?id|phantom|de(?:identified|id)"
)

#: In a tag, in lower case with letters and digits only.
_TAG = re.compile(rf"|0+|anon(?:ymous|ymi[sz]ed)?\d*|{_WORDS}")

#: Written by a person: who counts patients from 0, or calls them anon1 and anon2, means them.
_WRITTEN = re.compile(rf"|nan|missing|anon(?:ymous|ymi[sz]ed)?|{_WORDS}")


def in_tag(value: str) -> bool:
    """Whether an identifier in a DICOM file is nobody's."""
    return _TAG.fullmatch(_plain(value)) is not None


def written(value: str) -> bool:
    """Whether a cell of a manifest, a folder or what a pattern found is nobody's."""
    return _WRITTEN.fullmatch(_plain(value)) is not None


def days(found: AbstractSet[str]) -> bool:
    """Whether most of what was taken for patients ends in a day, as in 20240105."""
    return 2 * sum(map(_is_day, found)) > len(found)


def _is_day(name: str) -> bool:
    if not (match := _DAY.search(name)):
        return False
    year, month, day = map(int, match.groups())
    try:
        return datetime.date(year, month, day).year in YEARS
    except ValueError:
        return False


def _plain(value: str) -> str:
    return re.sub(r"[\W_]", "", value.casefold())
