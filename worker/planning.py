"""Planning: a job's archives are listed as a stream; shards are written while that goes on."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import sqlalchemy as sa

from db import database, jobs, leases
from db.errors import LeaseLost, Unavailable
from db.jobs import Claimed
from db.leases import NewShard
from worker import archive
from worker.archive import Member
from worker.errors import ArchiveError
from worker.heartbeat import Heartbeat

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
                lambda c: jobs.hand_back(
                    c, self._lease, "the worker was stopped", in_good_order=True
                )
            )
        except ArchiveError as error:
            log.info("job %d cannot be planned: %s", job_id, error)
            reason = str(error)
            self._write(lambda c: self._fail(c, reason))
        except (LeaseLost, Unavailable) as error:
            log.warning("job %d: planning was given up: %s", job_id, error)
        finally:
            self._heartbeat.release(self._lease)
            self._wake()

    def _write(self, work: Callable[[sa.Connection], object]) -> None:
        try:
            database.write(self._database, work)
        except (LeaseLost, Unavailable) as error:
            log.warning("job %d: %s", self._lease.job_id, error)

    def _fail(self, connection: sa.Connection, reason: str) -> None:
        jobs.fence(connection, self._lease)
        jobs.finish(connection, self._lease.job_id, "failed", self._lease.worker_id, reason)

    def _plan(self) -> None:
        job_id, worker_id = self._lease.job_id, self._lease.worker_id
        passed_over: Counter[str] = Counter()
        with database.reading(self._database) as connection:
            before = leases.planned(connection, job_id)
        items = sum(before.values())
        for row in jobs.source_rows(self._database, job_id):
            with archive.open_source(row["uri"], row["kind"]) as source:
                if source.fingerprint() != row["fingerprint"]:
                    raise ArchiveError(
                        "changed",
                        f"{row['uri']} was changed after the job was submitted; submit again",
                    )
                items = self._list(source, row["source_no"], before, items)
                passed_over.update(source.passed_over)
        if not items:
            raise ArchiveError("empty", "the sources hold no files to be scored")
        database.write(self._database, lambda c: jobs.planned(c, self._lease, dict(passed_over)))
        database.write(self._database, lambda c: jobs.close_if_done(c, job_id, worker_id))
        log.info("job %d: %d items listed", job_id, items)

    def _list(
        self, source: archive.Source, source_no: int, before: dict[int, int], items: int
    ) -> int:
        """Write one source's shards; returns the number of items in the job so far."""
        members = source.members(start=before.get(source_no, 0))
        compressed = source.kind in archive.WINDOWED
        pending: list[NewShard] = []
        flushed = time.monotonic()
        for listing in _shards(members, items, source.part if compressed else None):
            if self._stop.is_set() or self._heartbeat.lost(self._lease):
                raise _Stopped
            items += len(listing)
            pending.append(
                NewShard(source_no=source_no, n_items=len(listing), listing=archive.pack(listing))
            )
            # A compressed archive's shards need the index, which is complete only at the end.
            if not compressed and (
                len(pending) >= FLUSH_SHARDS or time.monotonic() - flushed >= FLUSH_S
            ):
                self._flush(pending)
                pending, flushed = [], time.monotonic()
        index = source.index()
        if index is not None:
            database.write(
                self._database, lambda c: leases.set_seek_index(c, self._lease, source_no, index)
            )
        self._flush(pending)
        return items

    def _flush(self, pending: list[NewShard]) -> None:
        if pending:
            database.write(self._database, lambda c: leases.add(c, self._lease, pending))
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
