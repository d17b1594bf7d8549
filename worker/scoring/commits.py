"""Commits: what became of shards is written to the database, by a thread of its own."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from db.base import database as connecting
from db.base.errors import LeaseLost, unforeseen
from db.queue import jobs, leases, listings, outages, results, reuse
from db.queue.leases import Shard
from db.queue.listings import NewShard
from db.queue.results import Outcome
from db.queue.reuse import Known
from db.work import endings
from worker import archive
from worker.archive import Member, trouble
from worker.config import Settings
from worker.errors import EngineError, GpuLost
from worker.machine import privacy
from worker.machine.heartbeat import Heartbeat
from worker.scoring import cutting
from worker.scoring.away import Away
from worker.scoring.shard import ShardRun

log = logging.getLogger(__name__)


class Commits:
    """One thread that writes, in the order in which it was asked to.

    To be called from any thread; `wake` is called whenever something is through.
    """

    def __init__(
        self,
        settings: Settings,
        database: sa.Engine,
        worker_id: str,
        heartbeat: Heartbeat,
        wake: Callable[[], None],
        away: Away,
    ) -> None:
        self._settings = settings
        self._away = away
        self._database = database
        self._worker_id = worker_id
        self._heartbeat = heartbeat
        self._wake = wake
        #: (job, with what it is scored) of jobs whose history says so.
        self._logged: set[tuple[int, str]] = set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="committing")

    def close(self, *, abandon: bool = False) -> None:
        """Finish what was asked for, or with `abandon` only what was begun."""
        self._thread.shutdown(wait=True, cancel_futures=abandon)

    def known(self, run: ShardRun) -> Future[Mapping[bytes, Known]]:
        """Look up the contents of a shard's films: the outcomes of those scored before."""

        def look_up() -> Mapping[bytes, Known]:
            with connecting.reading(self._database) as connection:
                return reuse.known(connection, list(run.contents.values()), *run.model[:2])

        return self._submit(lambda: connecting.outlast(self._database, look_up))

    def commit(self, run: ShardRun, seconds: float | None = None) -> Future[None]:
        """Write a shard's outcomes, and close its job if that was the last.

        `seconds` is what it took of this worker's time.
        """
        return self._submit(lambda: self._commit(run, seconds))

    def hand_back(self, shard: Shard, reason: str, *, in_good_order: bool) -> Future[None]:
        """Let another worker have the shard: at once in good order, else after a while."""
        return self._submit(
            lambda: hand_back(
                self._database, self._heartbeat, shard, reason, in_good_order=in_good_order
            )
        )

    def source_away(self, run: ShardRun, reason: str) -> Future[None]:
        """Let another worker have a shard whose source cannot be read here; no attempt counts.

        What is settled of it is committed.
        """

        def hand_back_unread() -> None:
            for shard in self._settle(run):
                source_away(self._database, self._heartbeat, shard, reason)

        return self._submit(hand_back_unread)

    def try_again(self, run: ShardRun, reason: str, unread: Mapping[int, int]) -> Future[None]:
        """Have films tried again that could not be read, though others of their source were.

        `unread` are their tries so far, by item_no. No attempt counts. What is settled of the shard
        is committed.
        """
        of = run.shard

        def hand_back_unread() -> None:
            log.info("job %d: shard %d is tried again: %s", of.job_id, of.shard_no, reason)
            left = self._settle(run)

            def write(connection: sa.Connection) -> None:
                for shard in left:
                    items = range(shard.first_item, shard.first_item + shard.n_items)
                    tries = {item: unread[item] for item in items if item in unread}
                    leases.hand_back_shard(
                        connection, shard, reason, in_good_order=True, unread=tries or None
                    )
                outages.read(connection, of.job_id, of.source_no)

            connecting.write(self._database, write)
            for shard in left:
                self._heartbeat.release(shard)

        return self._submit(hand_back_unread)

    def _settle(self, run: ShardRun) -> list[Shard]:
        """Commit the outcomes that a shard has so far; the shards of what is left of it."""
        shard = run.shard
        parts = cutting.parts(run.members, shard.first_item, run.outcomes)
        if len(parts) == 1:
            return [shard]
        new = [
            NewShard(
                source_no=shard.source_no, n_items=len(part.members),
                listing=archive.pack(part.members),
            )
            for part in parts
        ]  # fmt: skip
        keep_names(self._settings.home, run.shard.job_id, run.hashed_names)
        try:
            made = connecting.write(self._database, lambda c: listings.cut(c, shard, new))
        except LeaseLost as error:
            log.info("not cut: %s", error)
            return []
        for one in made:
            self._heartbeat.hold(one)
        for one, part in zip(made, parts, strict=True):
            if part.outcomes:
                self._write(one, part.outcomes)
                self._heartbeat.release(one)
        return [one for one, part in zip(made, parts, strict=True) if not part.outcomes]

    def others(self, shard: Shard, most: int) -> Future[list[Member]]:
        """Films of the same source in other shards, by chance, rather those that were read."""
        return self._submit(
            lambda: connecting.outlast(self._database, lambda: others(self._database, shard, most))
        )

    def failed(self, run: ShardRun, error: Exception, *, in_good_order: bool) -> Future[None]:
        """Let another worker have a shard that could not be scored here, and say why.

        One that was being computed when the GPU was lost may be to blame: the attempt counts, as if
        the worker had been killed. Where this machine has run out of something no attempt counts,
        and the worker leaves the source alone for a while.
        """
        shard = run.shard
        if isinstance(error, GpuLost):
            return self._submit(lambda: self._gpu_lost(shard, str(error)))
        if connecting.away(error):
            return self.hand_back(shard, str(error), in_good_order=True)  # no fault of the shard's
        known = isinstance(error, EngineError)
        reason = str(error) if known else unforeseen("scoring the shard", error)
        if trouble.of_machine(error):
            self._away.leave(run.place.uri)
            return self.source_away(run, f"this machine has run out of something: {reason}")
        return self.hand_back(shard, reason, in_good_order=in_good_order)

    def log_engine(self, job_id: int, text: str) -> None:
        """Write to the job's history what it is scored with here, once."""
        if (job_id, text) in self._logged:
            return
        self._logged.add((job_id, text))

        def log_it(connection: sa.Connection) -> None:
            jobs.log_once(connection, job_id, self._worker_id, "engine", text)

        self._submit(lambda: connecting.write(self._database, log_it))

    def _submit(self, work: Callable[[], Any]) -> Future[Any]:
        future = self._thread.submit(work)
        future.add_done_callback(lambda _: self._wake())
        return future

    def _commit(self, run: ShardRun, seconds: float | None) -> None:
        # First, because whoever dies in between could not make up for it.
        keep_names(self._settings.home, run.shard.job_id, run.hashed_names)
        if self._write(run.shard, run.outcomes, seconds):
            self._away.was_read(run.place.uri)
            close_job(self._database, run.shard.job_id, self._worker_id)

    def _write(
        self, shard: Shard, outcomes: Sequence[Outcome], seconds: float | None = None
    ) -> bool:
        """Write a shard's outcomes; whether that could be."""

        def write(connection: sa.Connection) -> None:
            results.commit(connection, shard, outcomes, seconds)
            outages.read(connection, shard.job_id, shard.source_no)

        try:
            connecting.write(self._database, write)
        except LeaseLost as error:
            log.info("not committed: %s", error)
            return False
        except Exception as error:
            if connecting.away(error):
                raise
            log.exception("job %d: shard %d cannot be committed", shard.job_id, shard.shard_no)
            reason = unforeseen("committing the shard", error)
            hand_back(self._database, self._heartbeat, shard, reason, in_good_order=False)
            return False
        return True

    def _gpu_lost(self, shard: Shard, reason: str) -> None:
        detail = f"shard {shard.shard_no}, attempt {shard.attempt}: {reason}"
        log.warning("job %d: the GPU was lost at %s", shard.job_id, detail)

        def write(connection: sa.Connection) -> None:
            leases.hand_back_shard(connection, shard, None, in_good_order=False)
            jobs.log(connection, shard.job_id, self._worker_id, "gpu_lost", detail)

        connecting.write(self._database, write)
        self._heartbeat.release(shard)


def hand_back(
    database: sa.Engine, heartbeat: Heartbeat, shard: Shard, reason: str, *, in_good_order: bool
) -> None:
    """Let another worker have the shard, as `Commits.hand_back`, in this thread."""
    # Why may be a source's path; it is in shards.last_error.
    log.info("job %d: shard %d handed back", shard.job_id, shard.shard_no)
    connecting.write(
        database, lambda c: leases.hand_back_shard(c, shard, reason, in_good_order=in_good_order)
    )
    heartbeat.release(shard)


def source_away(database: sa.Engine, heartbeat: Heartbeat, shard: Shard, reason: str) -> None:
    """Let another worker have the shard, as `Commits.source_away`, in this thread."""
    log.warning("job %d: shard %d handed back, as source %d cannot be read here (its events say "
                "why)", shard.job_id, shard.shard_no, shard.source_no)  # fmt: skip

    def write(connection: sa.Connection) -> None:
        leases.hand_back_shard(connection, shard, reason, in_good_order=True)
        outages.note(connection, shard.job_id, shard.source_no, shard.worker_id, reason)

    connecting.write(database, write)
    heartbeat.release(shard)


def others(database: sa.Engine, shard: Shard, most: int) -> list[Member]:
    """Films of the same source in other shards, as `Commits.others`, in this thread."""
    with connecting.reading(database) as connection:
        found: list[Member] = []
        for listing in listings.beside(connection, shard):
            members = archive.unpack(listing.listing)
            if listing.read:
                broken = listings.items_to_retry(connection, shard.job_id, listing.shard_no)
                members = [
                    member
                    for item_no, member in enumerate(members, listing.first_item)
                    if item_no not in set(broken)
                ]
            found += random.sample(members, min(most, len(members)))
    return found[:most] if len(found) <= most else random.sample(found, most)


def keep_names(home: Path, job_id: int, hashed: Sequence[tuple[int, str, str]]) -> None:
    """Keep what hashed names stand for: (item_no, name in the database, name in the archive)."""
    if not hashed:
        return
    try:
        privacy.keep_names(home, job_id, hashed)
    except OSError as error:
        # No reason to lose outcomes: whoever has the key and the films can make the map again.
        log.warning(
            "job %d: the map of hashed names cannot be kept (%s); make room in PNEUMOQ_HOME "
            "and score the job again to have it",
            job_id, error.strerror,
        )  # fmt: skip


def close_job(database: sa.Engine, job_id: int, worker_id: str) -> None:
    """Finish a job that has nothing left to do."""
    if endings.close(database, job_id, worker_id):
        log.info("job %d is done", job_id)
