"""A pattern as an archive: the files whose paths it matches, depth first by name.

`*`, `?` and `[…]` match within one name, `**` any number of folders. A name that begins with a dot
is matched as any other, and skipped as in a folder. Linked folders are entered only where the
pattern names their level, not by `**` (they may lead in a circle).
"""

from __future__ import annotations

import fnmatch
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from trainer import clutter
from worker.archive import trouble
from worker.archive.folder import check_root, member_of, names_in
from worker.archive.member import Member
from worker.archive.names import LONGEST_PATH, fits, shortened, skipped_as
from worker.archive.source import Kind, Source
from worker.errors import ArchiveError

_MAGIC = re.compile(r"[*?\[]")

#: Any number of folders.
_ANY = "**"

#: Positions in a pattern, of which several may be reached at once.
_Places = frozenset[int]


def is_pattern(uri: str) -> bool:
    """Whether a path has wildcard characters."""
    return _MAGIC.search(uri) is not None


def base_of(uri: str) -> str:
    """The folder below which a pattern's files lie: its longest beginning without wildcards."""
    return _parts(uri)[0]


def _parts(uri: str) -> tuple[str, list[str]]:
    plain = _MAGIC.split(uri, maxsplit=1)[0].rpartition("/")
    base = plain[0] or plain[1] or "."
    rest = uri[len(plain[0]) + len(plain[1]) :]
    return base, [part for part in rest.split("/") if part not in ("", ".")]


class GlobSource(Source):
    """Lists the files that a pattern matches."""

    kind: Kind = "glob"

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self._base, parts = _parts(uri)
        #: Of each part: what it matches, or None for any number of folders.
        self._matchers = [
            None if part == _ANY else re.compile(fnmatch.translate(part), re.DOTALL).match
            for part in parts
        ]
        if not fits(uri):
            raise ArchiveError(
                "unsupported",
                f"{shortened(uri)}: a pattern of more than {LONGEST_PATH:,} bytes; write a shorter "
                "one, or list the films",
            )
        if not parts or ".." in parts:
            raise ArchiveError(
                "unsupported",
                f"{uri}: after its first wildcard a pattern cannot climb by `..`; write the folder "
                "before it",
            )
        check_root(self._base)

    def fingerprint(self) -> str:
        """The pattern: whether its files change is seen at each file."""
        return str(Path(self.uri).absolute())

    def _walk(self) -> Iterator[Member]:
        found = False
        # A stack as for folders, with the places of the pattern that are reached in each.
        top = names_in(self._base)
        root = trouble.Root(self._base)
        root.saw(*top)
        stack = [("", iter(top), self._with_none(frozenset({0})))]
        while stack:
            prefix, names, places = stack[-1]
            for base in names:
                name = prefix + base
                path = f"{self._base}/{name}"
                matched = self._after(places, base)
                last = len(self._matchers) in matched
                if not matched:
                    continue
                size: int | None
                try:
                    mode, size = self._examined(path)
                except OSError:
                    root.check()
                    mode, size = stat.S_IFREG, None  # reading it says what it is
                if stat.S_ISDIR(mode) and (left := clutter.of_folder(base)):
                    self.skipped[left] += 1
                    continue
                if stat.S_ISDIR(mode) or stat.S_ISLNK(mode):
                    inner = matched
                    if stat.S_ISLNK(mode):  # only folders keep the mode of a link
                        inner = frozenset(n for n in matched if n not in places)
                    inner -= {len(self._matchers)}
                    if not inner:
                        linked = stat.S_ISLNK(mode)
                        self.skipped["linked_directory" if linked else "directory"] += 1
                        continue
                    self.skipped["directory"] += 1
                    try:
                        below = names_in(path)
                    except OSError:
                        root.check()
                        yield member_of(name + "/", None)
                        found = True
                        continue
                    stack.append((name + "/", iter(below), self._with_none(inner)))
                    break
                if not last:
                    continue
                reason = skipped_as(name)
                if reason is None and not stat.S_ISREG(mode):
                    reason = "special_file"
                if reason is None:
                    found = True
                    yield member_of(name, size)
                else:
                    self.skipped[reason] += 1
            else:
                stack.pop()
        if not found:
            skipped = sum(self.skipped[reason] for reason in clutter.REASONS)
            if skipped:
                raise ArchiveError(
                    "no_match",
                    f"{self.uri}: all that matches this pattern is skipped, being hidden or what "
                    "systems leave among films; give its folder by itself, or a --list",
                )
            raise ArchiveError(
                "no_match",
                f"{self.uri}: no file matches this pattern; `*` stays within one folder, `**/*` "
                "takes in all that is below",
            )

    def _with_none(self, places: _Places) -> _Places:
        """The places, with those that are reached where `**` matches no folder at all."""
        reached = set(places)
        for place in sorted(places):
            while place < len(self._matchers) and self._matchers[place] is None:
                place += 1
                reached.add(place)
        return frozenset(reached)

    def _after(self, places: _Places, name: str) -> _Places:
        """The places reached behind a name."""
        reached = set()
        for place in places:
            if place == len(self._matchers):
                continue
            match = self._matchers[place]
            if match is None:
                reached.add(place)
                if place == len(self._matchers) - 1:  # `**` at the end takes files too
                    reached.add(place + 1)
            elif match(name):
                reached.add(place + 1)
        return frozenset(reached)
