"""Rereading: items of a scoring job are read once more, out of their folders and archives."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from db.base import database
from db.queue import jobs, listings, reuse
from db.queue.listings import Listing
from worker import archive
from worker.archive import FolderReader, Member, Reader
from worker.decoding.reading import hash_of
from worker.errors import ArchiveError, MemberError
from worker.machine.privacy import Privacy
from worker.scoring import seeking

#: Why a film is not shown that is there.
ANOTHER = (
    "the file was changed after it was scored, and its bytes are not those that are known to have "
    "been; score it again"
)


@dataclass(frozen=True, kw_only=True)
class Reread:
    """One item, with its bytes or why there are none."""

    item_no: int
    #: Name in its source, as in `Member.name`.
    name: str
    data: bytes
    #: MemberError's message; empty where `data` is the item.
    reason: str = ""
    #: Of a file of its own, when it was written or renamed last: seconds since 1970.
    changed_at: float | None = None


def read(
    engine: sa.Engine, job_id: int, items: Iterable[tuple[int, int]], site: Privacy | None = None
) -> Iterator[Reread]:
    """Items of a job, given as (shard_no, item_no), one at a time in that order's sorting.

    `site` opens what the site sealed, without which a `.tar.gz` is read from its beginning. A file
    that was written after it was scored is taken for what was scored where the store says so, by
    its content; an archive must be as it was.

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
                film = source.read(item_no, members[item_no - listing.first_item])
                if _is_another(engine, job_id, film, listing.finished_at):
                    film = Reread(item_no=item_no, name=film.name, data=b"", reason=ANOTHER)
                yield film
    finally:
        if source is not None:
            source.close()


def _is_another(engine: sa.Engine, job_id: int, film: Reread, scored_at: datetime | None) -> bool:
    """Whether a file is not known to be what was scored."""
    if film.changed_at is None or scored_at is None or film.changed_at <= scored_at.timestamp():
        return False
    content = hash_of(reuse.content_hash(engine))(film.data)
    with database.reading(engine) as connection:
        return not reuse.is_of(connection, job_id, film.item_no, content)


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
        self._folder: FolderReader | None = None
        # Of what is a file of its own each is compared when it is read.
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
        elif kind in archive.BY_NAME:
            self._folder = archive.open_folder(kind, uri)
        else:
            self._reader = archive.open_reader(kind, uri)

    def read(self, item_no: int, member: Member) -> Reread:
        """One member's bytes, or why there are none."""
        try:
            data, changed_at = self._data(member)
        except MemberError as error:
            return Reread(item_no=item_no, name=member.name, data=b"", reason=str(error))
        return Reread(item_no=item_no, name=member.name, data=data, changed_at=changed_at)

    def _data(self, member: Member) -> tuple[bytes, float | None]:
        if self._folder is not None:
            fd = self._folder.open(member)
            try:
                # The time after the bytes: it tells of what was written meanwhile as well.
                return archive.read_file(fd, member), os.fstat(fd).st_ctime
            finally:
                archive.trouble.close(fd)
        if self._reader is not None:
            return self._reader.read(member), None
        assert self._spool is not None
        fd, base = self._spool.holding([member], cap=2 * archive.MAX_BYTES)
        window = archive.ExtentReader(fd, base=base, owned=True)
        try:
            return window.read(member), None
        finally:
            window.close()

    def close(self) -> None:
        """Close the archive."""
        for opened in (self._spool, self._folder, self._reader):
            if opened is not None:
                opened.close()
