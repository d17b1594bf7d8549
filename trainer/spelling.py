r"""Spelling: the ways in which a name may be written that a disk or an archive writes otherwise.

Spreadsheets put blanks around a name, and save it in Windows' code page 1252; Windows writes `\`
between folders, and macOS takes letters with accents apart (NFD) that others write as one (NFC).
Before a name that a spreadsheet would take for a formula our review pages put `'`. As it is written
a name counts first. A path may also climb by `..`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

#: Parts of a path whose letters may each be written in two ways; of more all are written alike.
_MOST = 4

#: A cell that was kept from being a formula (`harmless` in the script of the review page).
_KEPT = re.compile(r"'[=+\-@\t\r]")


def spellings(name: str) -> tuple[str, ...]:
    """The name as it is written, then as it may be meant; most names have one spelling."""
    if _KEPT.match(name):
        return (*_spellings(name), *_spellings(name[1:]))
    return _spellings(name)


def _spellings(name: str) -> tuple[str, ...]:
    if name.isascii() and "\\" not in name and name == name.strip():
        return (name,)
    plain = name.strip()
    found = dict.fromkeys((name, plain, plain.replace("\\", "/")))
    for one in list(found):
        if not one.isascii():
            found |= dict.fromkeys((one, *_forms(one), *_forms(of_windows(one))))
    return tuple(one for one in found if one.strip())


def of_windows(name: str) -> str:
    """Text whose bytes are no UTF-8 as code page 1252 has it; as it is where that has it not."""
    try:
        name.encode()
    except UnicodeEncodeError:
        with contextlib.suppress(UnicodeError):
            return name.encode("utf-8", "surrogateescape").decode("cp1252")
    return name


def found(name: str, there: Callable[[str], bool]) -> str:
    """The first spelling that is `there`; where none is, the name less the blanks around it."""
    ways = spellings(name)
    if len(ways) > 1:
        for one in ways:
            if there(one):
                return one
    return name.strip()


def without_climbs(path: Path) -> Path:
    """The path with each `..` taken out that can be, so that one place has one name.

    It leads to the same place: only a link that is climbed out of is resolved, the others are names
    like any other. What climbs out of something that is no folder stays, as it leads nowhere.
    """
    if ".." not in path.parts:
        return path
    found = Path(path.anchor)
    for part in path.relative_to(path.anchor).parts:
        if part == ".." and found.name not in ("", "..") and os.path.isdir(found):  # noqa: PTH112  # is_dir() raises where it may not look
            found = (found.resolve() if found.is_symlink() else found).parent
        elif part != ".." or found != Path("/"):
            found /= part
    return found


def _forms(name: str) -> list[str]:
    """The name with each part's letters composed, and taken apart."""
    parts = name.split("/")
    ways = [
        dict.fromkeys((unicodedata.normalize("NFC", part), unicodedata.normalize("NFD", part)))
        for part in parts
    ]
    if sum(len(way) > 1 for way in ways) > _MOST:
        return [unicodedata.normalize(form, name) for form in ("NFC", "NFD")]
    return ["/".join(chosen) for chosen in itertools.product(*ways)]
