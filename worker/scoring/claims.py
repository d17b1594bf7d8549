"""Claims: the best due work is claimed and made ready to be scored, by a thread of its own.

So the next shard is ready when this one is through. Knows nothing of decoders and engines.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor

import sqlalchemy as sa

from db.base import database as connecting
from db.base.errors import LeaseLost, Unavailable, unforeseen
from db.queue import jobs, leases, listings, results, reuse
from db.queue.leases import Shard
from db.queue.listings import NewShard
from db.work import claims, endings
from db.work.claims import Claimed
from trainer.errors import CardError
from trainer.film import content
from worker import archive
from worker.config import Settings
from worker.errors import ArchiveError, EngineError, SourceTrouble
from worker.machine import privacy
from worker.machine.heartbeat import Heartbeat
from worker.scoring import commits
from worker.scoring.away import Away
from worker.scoring.opening import Opener
from worker.scoring.shard import ShardRun, stored_name

log = logging.getLogger(__name__)

#: Whether anything was due, and what is to be worked on: a shard, a job to be planned, or nothing
#: where what was claimed could not be opened.
Found = tuple[bool, ShardRun | Claimed | None]


class _Overdue(Exception):
    """Leases in hand may have run out, since they were not renewed for long."""


class Claims:
    """One thread that claims and opens. `wake` is called whenever it has."""

    def __init__(
        self,
        settings: Settings,
        database: sa.Engine,
        worker_id: str,
        heartbeat: Heartbeat,
        wake: Callable[[], None],
        kinds: Collection[str] | None = None,
        away: Away | None = None,
    ) -> None:
        """`kinds` are the engines that a job may ask for here: see `db.work.claims.claim_best`."""
        self._settings = settings
        self._database = database
        self._worker_id = worker_id
        self._heartbeat = heartbeat
        self._wake = wake
        self._kinds = kinds
        self._away = Away() if away is None else away
        self._privacy = privacy.load(settings)
        self._opener = Opener(database, self._privacy, settings.film_deadline_s)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="claiming")

    def close(self, *, abandon: bool = False) -> None:
        """Finish what was asked for, or with `abandon` only what was begun."""
        self._thread.shutdown(wait=True, cancel_futures=abandon)
        self._opener.close()

    def next(self, *, planning: bool, alone: bool, planned: Collection[str] = ()) -> Future[Found]:
        """Claim what goes first, as `db.work.claims.claim_best`. To be called from any thread."""
        future = self._thread.submit(self._next, planning, alone, planned)
        future.add_done_callback(lambda _: self._wake())
        return future

    def _next(self, planning: bool, alone: bool, planned: Collection[str]) -> Found:
        claimed = self._claim(planning, alone, planned)
        if claimed is None:
            return False, None
        if isinstance(claimed, Claimed):
            self._heartbeat.hold(claimed.lease)
            return True, claimed
        self._heartbeat.hold(claimed)
        try:
            return True, connecting.outlast(self._database, lambda: self._open(claimed))
        except BaseException as error:
            if isinstance(error, Exception) and not connecting.away(error):
                log.exception("job %d: shard %d cannot be opened", claimed.job_id, claimed.shard_no)
                self._refuse(claimed, error)
                return True, None
            # Nobody will know of this claim: its lease must run out.
            self._heartbeat.release(claimed)
            raise

    def _claim(
        self, planning: bool, alone: bool, planned: Collection[str]
    ) -> Shard | Claimed | None:
        def claim(connection: sa.Connection) -> Shard | Claimed | None:
            if self._heartbeat.overdue:
                raise _Overdue
            return claims.claim_best(
                connection,
                self._worker_id,
                self._settings.lease_s,
                planning=planning,
                planned=planned,
                alone=alone,
                kinds=self._kinds,
                away=self._away.now(),
            )

        while True:
            try:
                return connecting.write(self._database, claim)
            except _Overdue:
                # The database is back: what is in hand is not to be claimed by ourselves.
                with contextlib.suppress(Unavailable):
                    self._heartbeat.beat()

    def _refuse(self, shard: Shard, error: Exception) -> None:
        """What was not foreseen costs the shard an attempt, and at last its job; nothing else."""
        if shard.attempt <= leases.MAX_ATTEMPTS:
            reason = unforeseen("opening the shard", error)
            commits.hand_back(self._database, self._heartbeat, shard, reason, in_good_order=False)
            return
        # Its items cannot even be named, so that none of them could be told to be in error.
        reason = unforeseen(f"giving up shard {shard.shard_no}", error)

        def fail(connection: sa.Connection) -> None:
            jobs.locked(connection, shard.job_id)
            if leases.renew_shards(connection, [shard], self._settings.lease_s):
                raise leases.lost(shard)
            endings.finish(connection, shard.job_id, "failed", self._worker_id, reason)

        with contextlib.suppress(LeaseLost):
            connecting.write(self._database, fail)
        self._heartbeat.release(shard)

    def _open(self, shard: Shard) -> ShardRun | None:
        if shard.attempt > leases.MAX_ATTEMPTS:
            self._give_up(shard)
            return None
        try:
            run = self._opener.open(shard)
        except SourceTrouble as error:
            self._away.leave(self._opener.uri(shard))
            commits.source_away(self._database, self._heartbeat, shard, str(error))
            return None
        except (ArchiveError, CardError, EngineError) as error:
            commits.hand_back(
                self._database, self._heartbeat, shard, str(error), in_good_order=False
            )
            return None
        try:
            self._order(run)
        except BaseException:
            run.close()  # it may be opened again, with a window of its own
            raise
        return run

    def _order(self, run: ShardRun) -> None:
        """Put a shard's films in the order in which they are to be read, and where they wait."""
        # Whether those that could not be read can be now decides about all of the shard.
        earlier = run.earlier
        run.waiting = deque(sorted(run.waiting, key=lambda index: index not in earlier))
        # Whether others are known does not matter then: a film that is read is to be settled.
        if not (earlier or run.shard.spec.get("force")):
            with connecting.reading(self._database) as connection:
                if reuse.any_known(connection, *run.model[:2]):
                    run.unread, run.waiting = run.waiting, run.unread

    def _give_up(self, shard: Shard) -> None:
        """A shard whose attempts are used up: its items are in error, or it is cut in two.

        Where its workers ended without a word, one item may be to blame: halves of the shard find
        it, so that only that item is lost.
        """
        members = archive.unpack(shard.listing)
        if shard.last_error is None and len(members) > 1:
            middle = len(members) // 2
            halves = [
                NewShard(source_no=shard.source_no, n_items=len(half), listing=archive.pack(half))
                for half in (members[:middle], members[middle:])
            ]

            def end(connection: sa.Connection) -> None:
                listings.bisect(connection, shard, *halves)
        else:
            # Nothing is known of these films but their names.
            everything = bool(shard.spec.get("hash_names"))
            names, hashed = [], []
            for item_no, member in enumerate(members, start=shard.first_item):
                hide = everything or content.may_be_dicom(member.name)
                names.append(stored_name(self._privacy, member.name, hide=hide))
                if names[-1] != (plain := archive.display(member.name)):
                    hashed.append((item_no, names[-1], plain))
            commits.keep_names(self._settings.home, shard.job_id, hashed)
            code = "worker_died" if shard.last_error is None else "given_up"
            detail = f"given up after {leases.MAX_ATTEMPTS} attempts; the last: " + (
                shard.last_error or "its worker ended without a word at this item"
            )

            def end(connection: sa.Connection) -> None:
                results.give_up(connection, shard, names, code, detail)

        try:
            connecting.write(self._database, end)
            commits.close_job(self._database, shard.job_id, self._worker_id)
        except LeaseLost as error:
            log.info("not given up: %s", error)
        self._heartbeat.release(shard)
