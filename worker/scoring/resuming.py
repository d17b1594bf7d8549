"""Resuming: where the listing of a source goes on that another planner has begun.

An archive and a list go on behind as many members as were listed, which must still be the same. A
folder may have changed meanwhile: it goes on behind the name that was listed last, so that no file
is listed twice or left out because others came or went.
"""

from __future__ import annotations

from collections.abc import Iterator

from trainer import clutter
from worker import archive
from worker.archive import Member
from worker.archive.names import known_as
from worker.errors import ArchiveError


class Resumed:
    """The members of one source that are not listed yet. Iterate once."""

    def __init__(
        self, source: archive.Source, members: Iterator[Member], listed: Iterator[str]
    ) -> None:
        """`members` are all there are now, and `listed` the names listed before, in their order."""
        self._uri = source.uri
        self._members = members
        self._listed = listed
        self._walked = source.kind in archive.WALKED
        self._gone = self._new = 0

    def __iter__(self) -> Iterator[Member]:
        """Raises ArchiveError where an archive is not the one that was listed."""
        return self._behind_last() if self._walked else self._behind_all()

    @property
    def changed(self) -> str:
        """What became of a folder since it was listed, in words; empty where nothing did.

        To be asked when all members are through.
        """
        found = []
        if self._gone:
            found.append(f"listed before and gone now: {self._gone:,}")
        if self._new:
            found.append(f"new among those listed before, and not scored: {self._new:,}")
        return f"the files of {self._uri} changed: {'; '.join(found)}" if found else ""

    def _behind_last(self) -> Iterator[Member]:
        name = next(self._listed, None)
        for member in self._there():
            while name is not None and archive.place(name) < archive.place(member.name):
                self._gone += 1
                name = next(self._listed, None)
            if name is None:
                yield member
            elif name == member.name:
                name = next(self._listed, None)
            else:
                self._new += 1
        while name is not None:
            self._gone += 1
            name = next(self._listed, None)

    def _there(self) -> Iterator[Member]:
        try:
            yield from self._members
        except ArchiveError as error:
            if error.code != "no_match":  # a pattern that matches nothing any more
                raise

    def _behind_all(self) -> Iterator[Member]:
        member = next(self._members, None)
        for name in self._listed:
            if member is not None and name in known_as(member.name):
                member = next(self._members, None)
            elif clutter.reason(name) is None:  # else an older release took it for a film
                raise ArchiveError(
                    "changed", f"{self._uri} was changed while it was listed; submit it again"
                )
        if member is not None:
            yield member
        yield from self._members
