"""Nobody: what stands in a patient's place and is none, such as `unknown`.

Rules of two namings (`labelled.NAMING`) are kept here side by side: jobs go on by theirs.
"""

from __future__ import annotations

import re

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


def _plain(value: str) -> str:
    return re.sub(r"[\W_]", "", value.casefold())
