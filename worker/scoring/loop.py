"""Scoring: work is claimed, goes through the pipeline, and is committed, all at the same time.

This loop gives claimed shards to the pipeline, and what came through to the thread that commits.
Those of claims and commits talk to the database, and a planner lists in one of its own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future

import sqlalchemy as sa

from db.base import database as connecting
from db.queue.reuse import Known
from db.work import claims
from db.work.claims import Claimed
from worker.config import Settings
from worker.engine import EngineChoice, choose, kinds
from worker.errors import GpuLost
from worker.machine import privacy
from worker.machine.gpu_lease import GpuLease
from worker.machine.heartbeat import Heartbeat
from worker.scoring.away import Away
from worker.scoring.claims import Claims, Found
from worker.scoring.commits import Commits
from worker.scoring.doubts import Doubts, Witnesses
from worker.scoring.loading import Loader
from worker.scoring.pipeline import Failed, Pipeline, Read
from worker.scoring.planning import Planner, Planners
from worker.scoring.shard import ShardRun

log = logging.getLogger(__name__)

#: Shards in hand at once: one being finished, one being fed, and one whose contents are read.
SHARDS = 3

#: While work is in hand but none was due, look again this often, in seconds; at once when a planner
#: of this worker has written shards.
RECLAIM_S = 1.0

#: Longest wait for an event, in seconds; bounds how late a stop or a lost lease is noticed.
TICK_S = 0.25


class _NothingDue:
    """The time for which nothing is claimed, as nothing was due. `end` is of any thread."""

    def __init__(self) -> None:
        self._asked_at = self._until = 0.0
        self._ended_at = 0.0

    def asked(self) -> None:
        """A claim is asked for now."""
        self._asked_at = time.monotonic()

    def answered(self, found: bool) -> None:
        """Whether it found anything: what is found after a while without has others behind it."""
        self._until = 0.0 if found else time.monotonic() + RECLAIM_S

    def end(self) -> None:
        """There may be something now, which a claim that is under way has perhaps not seen."""
        self._ended_at = time.monotonic()

    @property
    def lasts(self) -> bool:
        """Whether asking again would be in vain."""
        return self._asked_at > self._ended_at and time.monotonic() < self._until


class Scorer:
    """Scores whatever is due. Decoders and engine stay warm between jobs. Used by one thread."""

    def __init__(
        self,
        settings: Settings,
        database: sa.Engine,
        worker_id: str,
        heartbeat: Heartbeat,
        stop: threading.Event,
        notify: Callable[[int], object],
        *,
        choice: EngineChoice | None = None,
        gpu_lease: GpuLease | None = None,
        set_status: Callable[[str], object] = lambda text: None,
    ) -> None:
        """`choice` is what to score with, and `gpu_lease` the GPU's where it needs one.

        `notify` wakes up to so many workers; `set_status` has the worker's row say what goes on.
        """
        self._settings = settings
        # What is in hand outlasts the database's being away, for however long.
        database = connecting.patient(
            database, connecting.PATIENCE_S, in_hand=lambda: not stop.is_set()
        )
        self._database = database
        self._heartbeat = heartbeat
        self._stop = stop
        self._notify = notify
        choice = choose(settings) if choice is None else choice
        self._kinds = kinds(choice)
        self._gpu_lease = gpu_lease
        self._set_status = set_status
        self._loader = Loader(settings, database, worker_id, choice, stop, set_status)
        self._pipeline: Pipeline[ShardRun | Witnesses] = Pipeline(
            settings, choice, self._loader.locate, self._loader.load
        )
        wake = self._pipeline.wake
        self._away = Away()
        self._privacy = privacy.load(settings)
        common = settings, database, worker_id, heartbeat, wake
        self._claims = Claims(*common, self._kinds, self._away)
        self._commits = Commits(*common, self._away)
        self._claim: Future[Found] | None = None
        self._lookups: dict[Future[Mapping[bytes, Known]], ShardRun] = {}
        #: Shards that are being written, or handed back after a doubt.
        self._committing: dict[Future[None], ShardRun] = {}
        self._doubts = Doubts(
            self._pipeline, self._commits, self._away, self._commit, self._committing.__setitem__
        )
        self._nothing_due = _NothingDue()
        self._planners = Planners()
        #: When the last shard was through.
        self._through_at = 0.0

    def drain(self, pause: Callable[[], bool] = lambda: False) -> None:
        """Work until nothing is due or the worker is to stop.

        While `pause` says so nothing more is claimed: it ends with the shards in hand; a plan is
        made meanwhile, and may take hours. Raises GpuLost, having handed back what was in hand:
        only another process may go on.
        """
        if not self._has_gpu():
            return
        try:
            self._work(pause)
        except GpuLost as error:
            self._stop.set()  # this process ends: a planner must not go on either
            self._hand_back(f"the GPU was lost: {error}")
            raise

    def abandon(self) -> None:
        """After an error in `drain`: let go of every lease unreturned, so that it runs out."""
        self.close(abandon=True)
        for run in [*self._pipeline.runs, *self._committing.values(), *self._doubts.take_all()]:
            self._let_go(run)
        claim = self._claim
        if claim is not None and not claim.cancelled() and claim.exception() is None:
            claimed = claim.result()[1]
            if isinstance(claimed, ShardRun):
                self._let_go(claimed)
            elif claimed is not None:
                self._heartbeat.release(claimed.lease)

    def close(self, *, abandon: bool = False) -> None:
        """End the decoders and the engine, and the threads of claims and commits as they close."""
        if self._stop.is_set() and not abandon:
            self._planners.join()  # those that outlived a pause hand their jobs back
        self._claims.close(abandon=abandon)
        self._commits.close(abandon=abandon)
        self._pipeline.close()
        if self._gpu_lease is not None:
            self._gpu_lease.release()

    # The GPU

    def release_gpu(self) -> None:
        """With nothing to do: let others have the GPU and its memory. `drain` takes it again."""
        if self._gpu_lease is not None and self._gpu_lease.held:
            self._pipeline.release_gpu()
            self._gpu_lease.release()
            self._set_status("")

    def _has_gpu(self) -> bool:
        """Wait for the GPU as long as there is something to score; whether it is had."""

        def wanted() -> bool:
            away = self._away.now()
            return claims.anything_due(self._database, "score", kinds=self._kinds, away=away)

        lease = self._gpu_lease
        return lease is None or lease.wait(wanted, self._stop, self._set_status, "scoring")

    # The loop

    def _work(self, pause: Callable[[], bool]) -> None:
        self._nothing_due.end()
        was_idle = False
        while not self._stop.is_set():
            in_hand = bool(self._pipeline.runs or self._committing or self._doubts.waiting)
            idle = not (in_hand or self._planners.keys)
            if pause():
                if not (in_hand or self._claim):
                    return
            elif self._claim is None and self._wants_more(idle):
                was_idle = idle
                self._nothing_due.asked()
                self._claim = self._claims.next(
                    planning=not self._planners.full, planned=self._planners.keys, alone=idle
                )
            if self._claim is not None and self._claim.done():
                # What was in hand when it was made, a plan above all, may have made work since.
                if not self._take_claim() and was_idle:
                    return
                continue
            self._pipeline.feed(more=bool(self._claim or self._lookups))
            self._step()
        self._hand_back()

    def _wants_more(self, idle: bool) -> bool:
        if self._nothing_due.lasts and not idle:
            return False
        runs = self._pipeline.runs
        if any(run.shard.suspect for run in runs):
            return False  # what it may end is to be itself alone
        return len(runs) < SHARDS and self._pipeline.hungry

    def _planned(self) -> None:
        """A planner has written shards, or ended: what was not due a moment ago may be now."""
        self._nothing_due.end()
        self._pipeline.wake()

    def _take_claim(self) -> bool:
        """Begin with what was claimed; whether anything was due."""
        assert self._claim is not None
        future, self._claim = self._claim, None
        found, claimed = future.result()
        self._nothing_due.answered(found)
        if isinstance(claimed, Claimed):
            planner = Planner(
                self._database, claimed, self._heartbeat, self._stop, self._notify,
                self._planned, self._privacy, self._away, self._settings.film_deadline_s,
            )  # fmt: skip
            self._planners.add(planner)
        elif claimed is not None:
            self._pipeline.add(claimed)
        return found

    def _step(self) -> None:
        """Wait for something to happen, and deal with all that did."""
        for event in self._pipeline.step(TICK_S):
            run = event.run
            if isinstance(run, Witnesses):
                continue
            if isinstance(event, Read):
                self._lookups[self._commits.known(run)] = run
            elif isinstance(event, Failed):
                self._failed(run, event.error)
            else:
                self._commits.log_engine(run.shard.job_id, self._loader.described(run.model))
        for run in [*self._pipeline.runs]:
            if not run.abandoned and self._heartbeat.lost(run.shard):
                log.info("job %d: shard %d is no longer ours", run.shard.job_id, run.shard.shard_no)
                self._pipeline.drop(run)
            elif isinstance(run, ShardRun) and run.in_vain and not run.abandoned:
                run.doubted = True
                self._pipeline.drop(run)
                self._doubts.judge(run)
        self._doubts.step()
        for lookup in [f for f in self._lookups if f.done()]:
            run = self._lookups.pop(lookup)
            if not run.abandoned:
                self._take_known(run, lookup)
        for run in self._pipeline.through():
            if run.abandoned:
                if not (isinstance(run, ShardRun) and run.doubted):
                    self._let_go(run)
            elif isinstance(run, Witnesses):
                self._doubts.heard(run)
            elif run.troubles:
                self._doubts.judge(run)
            else:
                self._commit(run)
        for commit in [f for f in self._committing if f.done()]:
            self._let_go(self._committing.pop(commit))
            commit.result()

    def _take_known(self, run: ShardRun, lookup: Future[Mapping[bytes, Known]]) -> None:
        try:
            run.known(lookup.result())
        except Exception as error:
            if connecting.away(error):
                raise
            log.exception("job %d: earlier outcomes cannot be taken", run.shard.job_id)
            self._pipeline.drop(run)
            self._failed(run, error)

    def _commit(self, run: ShardRun) -> None:
        # Shards follow one another: what is in hand waits for those before it.
        at = time.monotonic()
        seconds, self._through_at = at - max(run.began_at, self._through_at), at
        self._committing[self._commits.commit(run, seconds)] = run

    def _failed(self, run: ShardRun, error: Exception) -> None:
        self._commits.failed(run, error, in_good_order=self._stop.is_set())

    def _let_go(self, run: ShardRun | Witnesses) -> None:
        run.close()
        self._heartbeat.release(run.shard)

    def _hand_back(self, reason: str = "the worker was stopped") -> None:
        """Give up everything that is in hand, so that another worker can go on at once."""
        self._hand_back_runs(reason)  # first: a claim, or a plan, may wait for a share
        if self._claim is not None:
            self._take_claim()
            self._hand_back_runs(reason)
        self._planners.join()
        while self._committing:
            future, run = self._committing.popitem()
            future.result()
            self._let_go(run)

    def _hand_back_runs(self, reason: str) -> None:
        for run in [*self._pipeline.take_all(), *self._doubts.take_all()]:
            # What is in doubt is handed back by its witnesses, or by those that are looked for.
            if not run.abandoned or (isinstance(run, ShardRun) and run.doubted):
                self._commits.hand_back(run.shard, reason, in_good_order=True)
            run.close()
