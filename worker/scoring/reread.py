"""Rereading: items of a scoring job are read once more, out of their folders and archives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import sqlalchemy as sa

from db.base import database
from db.queue import jobs, listings
from db.queue.listings import Listing
from worker import archive
from worker.archive import Member, Reader
from worker.errors import ArchiveError, MemberError
from worker.machine.privacy import Privacy
from worker.scoring import seeking


@dataclass(frozen=True, kw_only=True)
class Reread:
    """One item, with its bytes or why there are none."""

    item_no: int
    #: Name in its source, as in `Member.name`.
    name: str
    data: bytes
    #: MemberError's message; empty where `data` is the item.
    reason: str = ""


def read(
    engine: sa.Engine, job_id: int, items: Iterable[tuple[int, int]], site: Privacy | None = None
) -> Iterator[Reread]:
    """Items of a job, given as (shard_no, item_no), one at a time in that order's sorting.

    `site` opens what the site sealed, without which a `.tar.gz` is read from its beginning.

    Raises ArchiveError where a source is gone, was changed, or is not known any more.
    """
    wanted: dict[int, list[int]] = {}
    for shard_no, item_no in sorted(items):
        wanted.setdefault(shard_no, []).append(item_no)
    sources = {row["source_no"]: row for row in jobs.source_rows(engine, job_id)}
    source: _Source | None = None
    try:
        for shard_no, numbers in wanted.items():
            listing = _listing(engine, job_id, shard_no)
            if source is None or source.number != listing.source_no:
                if source is not None:
                    source.close()
                source = _Source(engine, job_id, sources[listing.source_no], site)
            members = archive.unpack(listing.listing)
            for item_no in numbers:
                yield source.read(item_no, members[item_no - listing.first_item])
    finally:
        if source is not None:
            source.close()


def _listing(engine: sa.Engine, job_id: int, shard_no: int) -> Listing:
    with database.reading(engine) as connection:
        found = listings.after(connection, job_id, shard_no - 1, limit=1)
    if not found or found[0].shard_no != shard_no:
        raise ArchiveError(
            "not_found",
            f"where the films of job {job_id} lie is not known any more: it was purged; score "
            "them again",
        )
    return found[0]


class _Source:
    """A folder or archive as it was when it was listed."""

    def __init__(
        self, engine: sa.Engine, job_id: int, row: sa.RowMapping, site: Privacy | None
    ) -> None:
        self.number = int(row["source_no"])
        uri = row["uri"]
        kind = archive.read_as(row["kind"], named=row["paths"] is not None)
        self._spool: archive.Spool | None = None
        self._reader: Reader | None = None
        # Of what is a file of its own each is compared by its size when it is read.
        if kind not in archive.BY_NAME:
            with archive.open_source(uri, kind) as source:
                if source.fingerprint() != row["fingerprint"]:
                    raise ArchiveError(
                        "changed", f"{uri} was changed after it was scored; score it again"
                    )
        if kind in archive.WINDOWED:
            with database.reading(engine) as connection:
                index = seeking.opened(listings.seek_index(connection, job_id, self.number), site)
            self._spool = archive.open_spool(kind, uri, index)
        else:
            self._reader = archive.open_reader(kind, uri)

    def read(self, item_no: int, member: Member) -> Reread:
        """One member's bytes, or why there are none."""
        try:
            data = self._data(member)
        except MemberError as error:
            return Reread(item_no=item_no, name=member.name, data=b"", reason=str(error))
        return Reread(item_no=item_no, name=member.name, data=data)

    def _data(self, member: Member) -> bytes:
        if self._reader is not None:
            return self._reader.read(member)
        assert self._spool is not None
        fd, base = self._spool.holding([member], cap=2 * archive.MAX_BYTES)
        window = archive.ExtentReader(fd, base=base, owned=True)
        try:
            return window.read(member)
        finally:
            window.close()

    def close(self) -> None:
        """Close the archive."""
        for opened in (self._spool, self._reader):
            if opened is not None:
                opened.close()
