"""Listing: what a job's sources hold becomes its shards, or is answered from an earlier job."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator

import sqlalchemy as sa

from db.base import database as connecting
from db.queue import jobs, listings, outages, reuse
from db.work import endings
from db.work.claims import Claimed
from trainer.film import content
from worker import archive
from worker.archive import apart, trouble
from worker.archive.names import known_as
from worker.errors import ArchiveError, SourceTrouble
from worker.machine.privacy import Privacy
from worker.scoring import seeking
from worker.scoring.away import Away
from worker.scoring.cutting import ShardWriter, cut
from worker.scoring.resuming import Resumed

log = logging.getLogger(__name__)


class Lister:
    """Lists the sources of one job that was claimed to be planned."""

    def __init__(
        self,
        database: sa.Engine,
        claimed: Claimed,
        check: Callable[[], object],
        written: Callable[[int], object],
        away: Away,
        site: Privacy,
        patience_s: float,
    ) -> None:
        """`check` is called again and again; what it raises ends the listing.

        `written` is called with how many shards were written that may be scored now. `site` seals
        what an index holds of an archive's content. A share that gives no answer for `patience_s`
        seconds is one that cannot be read now.
        """
        #: The source that is being listed.
        self.at: sa.RowMapping | None = None
        self._database = database
        self._claimed = claimed
        self._lease = claimed.lease
        self._check = check
        self._written = written
        self._away = away
        self._site = site
        self._patience_s = patience_s
        #: What was opened last.
        self._reading: archive.Source | None = None

    def run(self) -> None:
        """Go through the sources, from where an earlier planner was; then the job is planned.

        Sources that cannot be read now do not keep others from being listed. Raises SourceTrouble
        where there were some, ArchiveError where the job cannot be scored, and LeaseLost.
        """
        job_id, worker_id = self._lease.job_id, self._lease.worker_id
        skipped: Counter[str] = Counter()
        wanted = self._wanted()
        troubled: SourceTrouble | None = None
        for row in jobs.source_rows(self._database, job_id):
            self.at, self._reading = row, None
            try:
                with trouble.at(row["uri"]):
                    more = self._source(row, wanted, skipped)
            except SourceTrouble as error:
                troubled = error
                self.note(row, str(error))
            else:
                self._was_read(row, more=more)
            self.at = None
        if troubled is not None:
            raise troubled
        items = sum(self._listed().values())
        if not items:
            raise ArchiveError(
                "empty",
                "the sources hold no files to be scored"
                if wanted is None
                else "the sources no longer hold any of the items that failed",
            )
        connecting.write(self._database, lambda c: listings.complete(c, self._lease, dict(skipped)))
        endings.close(self._database, job_id, worker_id)
        log.info("job %d: %d items listed", job_id, items)

    def _source(
        self, row: sa.RowMapping, wanted: set[tuple[int, int]] | None, skipped: Counter[str]
    ) -> bool:
        """List one source, from where an earlier planner was; whether that was more of it.

        What is passed over is counted in `skipped`.
        """
        apart.reach(archive.root_of(row["kind"], row["uri"]), self._patience_s)
        if wanted is None and self._copied(row):
            return True
        names = listings.unpack_paths(row["paths"])
        with connecting.reading(self._database) as connection:
            kept = listings.listed(connection, self._lease.job_id, row["source_no"])
        with archive.open_source(row["uri"], row["kind"], names, kept) as source:
            self._reading = source
            listed = self._listed()
            _check_unchanged(
                self._database, self._claimed, source, row, begun=row["source_no"] in listed
            )
            more = self._list(source, row["source_no"], wanted, listed)
            skipped.update(source.skipped)
            return more

    @property
    def root(self) -> str:
        """Where the source is that is being listed; empty between two."""
        row = self.at
        return "" if row is None else archive.root_of(row["kind"], row["uri"])

    @property
    def inside(self) -> str | None:
        """What below that is asked for; None where it is not known, or for the source itself."""
        return None if self.at is None or self._reading is None else self._reading.at

    def note(self, row: sa.RowMapping, reason: str) -> None:
        """A source cannot be read here: this worker leaves it alone for a while."""
        self._check()
        lease = self._lease
        self._away.leave(row["uri"])
        connecting.write(
            self._database,
            lambda c: outages.note(c, lease.job_id, row["source_no"], lease.worker_id, reason),
        )

    def _was_read(self, row: sa.RowMapping, *, more: bool) -> None:
        """A source is listed: with `more`, or by an earlier planner.

        Then whether films of it can be read is said by those who score them.
        """
        self._check()
        job_id, source_no = self._lease.job_id, row["source_no"]
        with connecting.reading(self._database) as connection:
            if not more and listings.is_open(connection, job_id, source_no):
                return
        self._away.was_read(row["uri"])
        connecting.write(self._database, lambda c: outages.read(c, job_id, source_no))

    def _listed(self) -> dict[int, int]:
        """Items of this job per source, by this planner and those before it."""
        with connecting.reading(self._database) as connection:
            return listings.planned(connection, self._lease.job_id)

    def _wanted(self) -> set[tuple[int, int]] | None:
        """Of a job that retries what failed: (source, name's hash) of each such item; else None.

        Eight bytes stand for a name, since a job that was cancelled early may have millions left.
        """
        parent = self._claimed.parent_job_id
        if parent is None or not self._claimed.spec.get("failed_only"):
            return None
        wanted: set[tuple[int, int]] = set()
        last = -1
        while True:
            self._check()
            with connecting.reading(self._database) as connection:
                found = listings.after(connection, parent, last, to_retry=True)
                for shard in found:
                    again = listings.items_to_retry(connection, parent, shard.shard_no)
                    members = archive.unpack(shard.listing)
                    for item_no in again:
                        name = members[item_no - shard.first_item].name
                        wanted.add((shard.source_no, _name_hash(name)))
            if not found:
                return wanted
            last = found[-1].shard_no

    def _copied(self, row: sa.RowMapping) -> bool:
        """Whether an unchanged archive was answered from an earlier job, without being listed."""
        claimed = self._claimed
        if row["content_id"] is None or claimed.spec.get("force"):
            return False
        with archive.open_source(row["uri"], row["kind"]) as source:
            if source.content_id() != row["content_id"]:
                return False  # listing it finds out whether it may be scored
        with connecting.reading(self._database) as connection:
            assert claimed.model_id is not None and claimed.precision is not None
            origin = reuse.find_copy(
                connection, row["content_id"], claimed.model_id, claimed.precision, claimed.spec
            )
        if origin is None:
            return False
        while True:
            self._check()
            copied = connecting.write(
                self._database,
                lambda c: reuse.copy_source(
                    c, self._lease, *origin, row["source_no"], content.READERS
                ),
            )
            if copied.complete:
                log.info("job %d: source %d is answered from job %d", self._lease.job_id,
                         row["source_no"], origin[0])  # fmt: skip
            elif copied.shards:
                self._written(1)  # shards that had errors are to be scored again
                continue
            return copied.complete

    def _list(
        self,
        source: archive.Source,
        source_no: int,
        wanted: set[tuple[int, int]] | None,
        listed: dict[int, int],
    ) -> bool:
        """Write the shards of one source that are not written yet; whether there were any.

        `listed` is what is written.
        """
        items = sum(listed.values())
        members = source.members()
        if wanted is not None:
            members = (
                m
                for m in members
                if any((source_no, _name_hash(name)) in wanted for name in known_as(m.name))
            )
        resumed = None
        if source_no in listed:
            resumed = Resumed(
                source, members, _names(self._database, self._lease.job_id, source_no, self._check)
            )
            members = iter(resumed)
        compressed = source.kind in archive.WINDOWED
        # A compressed archive's shards need the index, which is complete only at the end.
        writer = ShardWriter(
            self._database, self._lease, source_no, items, self._written, at_end=compressed
        )
        more = False
        for shard in cut(members, items, source.part if compressed else None):
            self._check()
            writer.add(shard)
            more = True
        index = seeking.sealed(source.index(), self._site)
        if index is not None or source.streams:
            connecting.write(
                self._database,
                lambda c: listings.set_seek_index(
                    c, self._lease, source_no, index, streams=source.streams
                ),
            )
        writer.flush()
        if resumed is not None and (change := resumed.changed):
            connecting.write(self._database, lambda c: listings.log_change(c, self._lease, change))
        return more


def _names(
    database: sa.Engine, job_id: int, source_no: int, check: Callable[[], object]
) -> Iterator[str]:
    """The members of a source that this planner or those before it listed, in their order."""
    last = -1
    while True:
        check()
        with connecting.reading(database) as connection:
            found = listings.of_source(connection, job_id, source_no, last)
        if not found:
            return
        for shard in found:
            yield from (member.name for member in archive.unpack(shard.listing))
        last = found[-1].first_item


def _name_hash(name: str) -> int:
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _check_unchanged(
    database: sa.Engine,
    claimed: Claimed,
    source: archive.Source,
    row: sa.RowMapping,
    *,
    begun: bool,
) -> None:
    """The archive is still what was submitted; a retry takes it as it is now.

    Who retries has often repaired the archive first; once its listing has `begun` it must stay.
    """
    if not source.has_changed(row["fingerprint"]):
        return
    if claimed.parent_job_id is None or begun:
        when = "while it was listed" if begun else "after the job was submitted"
        raise ArchiveError("changed", f"{row['uri']} was changed {when}; submit again")
    fingerprint = source.fingerprint()
    content_id = source.content_id()
    connecting.write(
        database,
        lambda c: listings.set_identity(
            c, claimed.lease, row["source_no"], fingerprint, content_id
        ),
    )
