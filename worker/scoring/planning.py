"""Planning: a job's archives are listed as a stream; shards are written while that goes on."""

from __future__ import annotations

import hashlib
import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from db.base import database
from db.base.errors import LeaseLost, Unavailable
from db.queue import jobs, leases, listings, reuse
from db.queue.listings import NewShard
from db.work import endings
from db.work.claims import Claimed
from worker import archive
from worker.archive import Member
from worker.errors import ArchiveError
from worker.machine.heartbeat import Heartbeat

log = logging.getLogger(__name__)

#: A shard has at least and at most this many items. In between it is an eighth of what has been
#: listed so far, so that a small job still has several and a large one not too many.
SMALLEST, LARGEST = 8, 1024
PARTS = 8

#: A window of a compressed archive is inflated into memory, shard by shard.
WINDOW_BYTES = 64 << 20

#: Shards written in one transaction, and the longest that a finished one waits for the others.
FLUSH_SHARDS = 64
FLUSH_S = 1.0


class _Stopped(Exception):
    """The worker is shutting down, or the lease is gone."""


class Planner:
    """Plans one job in a thread of its own."""

    def __init__(
        self,
        engine: sa.Engine,
        claimed: Claimed,
        heartbeat: Heartbeat,
        stop: threading.Event,
        ring: Callable[[int], object],
        wake: Callable[[], None],
    ) -> None:
        self._database = engine
        self._claimed = claimed
        self._lease = claimed.lease
        self._heartbeat = heartbeat
        self._stop = stop
        self._ring = ring
        self._wake = wake
        self._thread = threading.Thread(target=self._run, name="planner", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether it is still at it."""
        return self._thread.is_alive()

    def join(self) -> None:
        """Wait for it; set the stop event first."""
        self._thread.join()

    def _run(self) -> None:
        job_id = self._lease.job_id
        try:
            self._plan()
        except _Stopped:
            self._write(
                lambda c: leases.hand_back(
                    c, self._lease, "the worker was stopped", in_good_order=True
                )
            )
        except ArchiveError as error:
            log.info("job %d cannot be planned: %s", job_id, error)
            reason = str(error)
            self._write(lambda c: self._fail(c, reason))
        except (LeaseLost, Unavailable) as error:
            log.warning("job %d: planning was given up: %s", job_id, error)
        except DBAPIError as error:
            if not database.passing(error):
                raise
            log.warning("job %d: planning was given up: %s", job_id, error.orig)
        finally:
            self._heartbeat.release(self._lease)
            self._wake()

    def _write(self, work: Callable[[sa.Connection], object]) -> None:
        try:
            database.write(self._database, work)
        except (LeaseLost, Unavailable) as error:
            log.warning("job %d: %s", self._lease.job_id, error)

    def _fail(self, connection: sa.Connection, reason: str) -> None:
        leases.fence(connection, self._lease)
        endings.finish(connection, self._lease.job_id, "failed", self._lease.worker_id, reason)

    def _plan(self) -> None:
        job_id, worker_id = self._lease.job_id, self._lease.worker_id
        passed_over: Counter[str] = Counter()
        wanted = self._wanted()
        for row in jobs.source_rows(self._database, job_id):
            if wanted is None and self._copied(row):
                continue
            names = listings.unpack_paths(row["paths"])
            with archive.open_source(row["uri"], row["kind"], names) as source:
                self._check_unchanged(source, row)
                self._list(source, row["source_no"], wanted)
                passed_over.update(source.passed_over)
        if not sum(self._listed().values()):
            raise ArchiveError(
                "empty",
                "the sources hold no files to be scored"
                if wanted is None
                else "the sources no longer hold any of the items that failed",
            )
        database.write(
            self._database, lambda c: listings.complete(c, self._lease, dict(passed_over))
        )
        database.write(self._database, lambda c: endings.close_if_done(c, job_id, worker_id))
        log.info("job %d: %d items listed", job_id, sum(self._listed().values()))

    def _listed(self) -> dict[int, int]:
        """Items of this job per source, by this planner and those before it."""
        with database.reading(self._database) as connection:
            return listings.planned(connection, self._lease.job_id)

    def _check_unchanged(self, source: archive.Source, row: sa.RowMapping) -> None:
        """The archive is still what was submitted; a retry takes it as it is now.

        Who retries has often mended the archive first.
        """
        fingerprint = source.fingerprint()
        if fingerprint == row["fingerprint"]:
            return
        if self._claimed.parent_job_id is None:
            raise ArchiveError(
                "changed",
                f"{row['uri']} was changed after the job was submitted; submit again",
            )
        content_id = source.content_id()
        database.write(
            self._database,
            lambda c: listings.set_identity(
                c, self._lease, row["source_no"], fingerprint, content_id
            ),
        )

    def _check(self) -> None:
        if self._stop.is_set() or self._heartbeat.lost(self._lease):
            raise _Stopped

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
            with database.reading(self._database) as connection:
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
                return False  # listing it will tell
        with database.reading(self._database) as connection:
            assert claimed.model_id is not None and claimed.precision is not None
            origin = reuse.find_copy(
                connection, row["content_id"], claimed.model_id, claimed.precision, claimed.spec
            )
        if origin is None:
            return False
        while True:
            self._check()
            copied = database.write(
                self._database,
                lambda c: reuse.copy_source(c, self._lease, *origin, row["source_no"]),
            )
            if copied.complete:
                log.info("job %d: %s is answered from job %d", self._lease.job_id, row["uri"],
                         origin[0])  # fmt: skip
            elif copied.shards:
                self._ring(1)  # shards that had errors are to be scored again
                self._wake()
                continue
            return copied.complete

    def _list(
        self, source: archive.Source, source_no: int, wanted: set[tuple[int, int]] | None
    ) -> None:
        """Write the shards of one source that are not written yet."""
        listed = self._listed()
        before, items = listed.get(source_no, 0), sum(listed.values())
        if wanted is None:
            members = source.members(start=before)
        else:
            chosen = (m for m in source.members() if (source_no, _name_hash(m.name)) in wanted)
            members = itertools.islice(chosen, before, None)
        compressed = source.kind in archive.WINDOWED
        pending: list[NewShard] = []
        flushed = time.monotonic()
        for listing in _shards(members, items, source.part if compressed else None):
            self._check()
            items += len(listing)
            pending.append(
                NewShard(source_no=source_no, n_items=len(listing), listing=archive.pack(listing))
            )
            # A compressed archive's shards need the index, which is complete only at the end.
            if not compressed and (
                len(pending) >= FLUSH_SHARDS or time.monotonic() - flushed >= FLUSH_S
            ):
                self._flush(pending, items)
                pending, flushed = [], time.monotonic()
        index = source.index()
        if index is not None or source.streams:
            database.write(
                self._database,
                lambda c: listings.set_seek_index(
                    c, self._lease, source_no, index, streams=source.streams
                ),
            )
        self._flush(pending, items)

    def _flush(self, pending: list[NewShard], listed: int) -> None:
        """Write shards, the last of those whose items are `listed` so far."""
        if pending:
            first_item = listed - sum(shard.n_items for shard in pending)
            database.write(
                self._database, lambda c: listings.add(c, self._lease, pending, first_item)
            )
            self._ring(len(pending))
            self._wake()


def _shards(
    members: Iterator[Member], listed: int, part: Callable[[Member], int] | None
) -> Iterator[list[Member]]:
    """Runs of consecutive members, each to be a shard.

    Those of a compressed archive, of which `part` is given, end where a reader can start anew, so
    that nothing is inflated for two of them, unless that would make them much larger.
    """
    run: list[Member] = []
    size = 0
    now = before = 0
    for member in members:
        aim = min(max(SMALLEST, listed // PARTS), LARGEST)
        full = len(run) >= aim
        if part is not None:
            now = part(member)
            large = full or size >= WINDOW_BYTES // 2
            full = (
                (large and now != before)
                or size + member.stored > WINDOW_BYTES
                or len(run) >= 2 * LARGEST
            )
        if full and run:
            yield run
            listed += len(run)
            run, size = [], 0
        run.append(member)
        size += member.stored
        before = now
    if run:
        yield run


def _name_hash(name: str) -> int:
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "little")
