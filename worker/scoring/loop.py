"""Scoring: shards are claimed, decoded, computed and committed, all at the same time.

Four kinds of thread and process, each doing one thing: this loop hands films to decoder processes
and batches to the engine thread; the claims' threads talk to the database; the engine thread
computes. Pixels are written once, by a decoder, and read in place by the engine.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future

import sqlalchemy as sa

from db.queue.reuse import Known
from db.work import claims
from db.work.claims import Claimed
from worker.config import Settings
from worker.decoding.pool import Decoded, Decoders, Film, OnGpu
from worker.engine import Choice, choose, kinds
from worker.errors import GpuLost
from worker.machine.gpu_lease import ASK_S, Board
from worker.machine.heartbeat import Heartbeat
from worker.scoring import planning, serving
from worker.scoring.batches import Batch, Batches
from worker.scoring.claims import Claims
from worker.scoring.engine_thread import EngineThread, Model, Request
from worker.scoring.shard import ShardRun

log = logging.getLogger(__name__)

#: Shards in hand at once: one being finished, one being fed, and one whose contents are read.
SHARDS = 3

#: The next shard is claimed when the decoders have work left for so long: claiming and opening one
#: take a few hundredths of a second.
CLAIM_AHEAD_S = 0.15

#: While work is in hand but none was due, look again this often.
RECLAIM_S = 1.0

#: Longest wait for an event; bounds how late a stop or a lost lease is noticed.
TICK_S = 0.25

#: Batches beside those in the engine's lanes: enough that a message to a decoder is not cut short
#: where films are quick. Slow ones never fill them, and what is not touched costs nothing.
AHEAD = 16

#: Offset of a film of which only the content is wanted.
UNPLACED = -1


class Scorer:
    """Scores whatever is due. Decoders and engine stay warm between jobs. Used by one thread."""

    def __init__(
        self,
        settings: Settings,
        engine: sa.Engine,
        worker_id: str,
        heartbeat: Heartbeat,
        stop: threading.Event,
        ring: Callable[[int], object],
        *,
        choice: Choice | None = None,
        board: Board | None = None,
        say: Callable[[str], object] = lambda text: None,
    ) -> None:
        """`choice` is what to score with, and `board` the GPU's lease where it needs one.

        `say` is told what goes on, for the worker's row.
        """
        self._settings = settings
        self._database = engine
        self._heartbeat = heartbeat
        self._stop = stop
        self._ring = ring
        self._choice = choice = choose(settings) if choice is None else choice
        self._board = board
        self._say = say
        self._batches = Batches(choice.lanes + AHEAD, choice.batch)
        self._decoders = Decoders(
            settings.decoders,
            self._batches.memory_bytes,
            deadline_s=settings.film_deadline_s,
            limit_mb=settings.film_memory_mb,
            gpu=OnGpu() if settings.decode == "gpu" else None,
        )
        self._waking = threading.Lock()
        self._closed = False
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._decoders.selector.register(self._wake_fd, selectors.EVENT_READ)
        self._loader = serving.Loader(settings, engine, worker_id, choice, stop, say)
        self._engine = EngineThread(self._loader.locate, self._loader.load, self._wake)
        self._claims = Claims(settings, engine, worker_id, heartbeat, self._wake, kinds(choice))
        #: (job, with what it is scored) of jobs whose history says so.
        self._told: set[tuple[int, str]] = set()
        self._runs: list[ShardRun] = []
        self._computing: dict[Request, Batch] = {}
        self._claim: Future[tuple[bool, ShardRun | Claimed | None]] | None = None
        self._lookups: dict[Future[Mapping[bytes, Known]], ShardRun] = {}
        self._commits: dict[Future[None], ShardRun] = {}
        self._dry_until = 0.0
        self._planner: planning.Planner | None = None

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
            while self._engine.done:  # those that may be to blame
                self._computed(self._engine.done.popleft())
            self._hand_back(f"the GPU was lost: {error}")
            raise

    def rest(self) -> None:
        """With nothing to do: let others have the GPU and its memory. `drain` takes it again."""
        if self._board is not None and self._board.held:
            self._engine.rest()
            self._board.release()
            self._say("")

    def _has_gpu(self) -> bool:
        """Wait for the GPU as long as there is something to score; whether it is had."""
        board, waits = self._board, False
        if board is None:
            return True
        while not self._stop.is_set():
            if not claims.anything_due(self._database, "score", kinds=kinds(self._choice)):
                break
            if board.take():
                return True
            if not waits:
                waits = True
                text = f"scoring waits for the GPU, which {board.holder()} has"
                log.info("%s", text)
                self._say(text)
            self._stop.wait(ASK_S)
        board.leave()
        if waits:
            self._say("")
        return board.held

    def _work(self, pause: Callable[[], bool]) -> None:
        self._dry_until = 0.0
        was_idle = False
        while not self._stop.is_set():
            idle = not (self._runs or self._commits or self._planning())
            if pause():
                if not (self._runs or self._commits or self._claim):
                    return
                if self._claim is not None and self._claim.done():
                    self._take_claim()
                    continue
                self._feed()
                self._step()
                continue
            due = idle or time.monotonic() >= self._dry_until
            if due and self._claim is None and self._wants_more():
                was_idle = idle
                self._claim = self._claims.next(planning=not self._planning(), alone=idle)
            if self._claim is not None and self._claim.done():
                # What was in hand when it was made, a plan above all, may have made work since.
                if not self._take_claim() and was_idle:
                    return
                continue
            self._feed()
            self._step()
        self._hand_back()

    def abandon(self) -> None:
        """After an error in `drain`: let go of every lease unreturned, so that it runs out."""
        self.close(abandon=True)
        for run in [*self._runs, *self._commits.values()]:
            self._finished(run)
        claim = self._claim
        if claim is not None and not claim.cancelled() and claim.exception() is None:
            claimed = claim.result()[1]
            if isinstance(claimed, ShardRun):
                self._finished(claimed)
            elif claimed is not None:
                self._heartbeat.release(claimed.lease)

    def close(self, *, abandon: bool = False) -> None:
        """End the decoders and the engine, and the claims as `Claims.close`."""
        if self._planner is not None and self._stop.is_set() and not abandon:
            self._planner.join()  # one that outlived a pause hands its job back
        self._claims.close(abandon=abandon)
        self._engine.close()
        if self._board is not None:
            self._board.release()
        self._decoders.close()
        with self._waking:
            os.close(self._wake_fd)
            self._closed = True

    def _wants_more(self) -> bool:
        if any(run.shard.suspect for run in self._runs):
            return False  # what it may end is to be itself alone
        ahead = self._batches.capacity + self._decoders.films_in(CLAIM_AHEAD_S)
        return len(self._runs) < SHARDS and sum(run.unfed for run in self._runs) < ahead

    # The loop's steps

    def _take_claim(self) -> bool:
        assert self._claim is not None
        future, self._claim = self._claim, None
        found, claimed = future.result()
        if not found:
            self._dry_until = time.monotonic() + RECLAIM_S
        if isinstance(claimed, Claimed):
            self._planner = planning.Planner(
                self._database, claimed, self._heartbeat, self._stop, self._ring, self._wake
            )
        elif claimed is not None:
            self._runs.append(claimed)
        return found

    def _planning(self) -> bool:
        return self._planner is not None and self._planner.running

    def _feed(self) -> None:
        """Give films to the decoders while they are hungry and there is room for their pixels."""
        films: list[Film] = []
        for run in self._runs:
            while run.unread and self._decoders.wants(len(films)):
                index = run.unread.popleft()
                run.decoding += 1
                films.append(_film(run, index, None, UNPLACED))
        for run in self._runs:
            if run.waiting and self._batches.filling_another(run.model):
                self._flush()
            while run.waiting and self._decoders.wants(len(films)):
                placed = self._batches.place(run.model, run.card.size)
                if placed is None:
                    break
                batch, offset = placed
                film = _film(run, run.waiting.popleft(), batch, offset)
                batch.films.append(film)
                batch.decoding += 1
                run.decoding += 1
                films.append(film)
            if run.waiting:
                break  # one shard after another, or two models would fill batches in turns
        self._decoders.give(films)
        if self._claim is None and not self._lookups and not any(run.unfed for run in self._runs):
            # Nothing more is coming soon: what is in the half-full batch must not wait.
            self._flush()

    def _flush(self) -> None:
        batch = self._batches.close()
        if batch is not None:
            self._compute(batch)

    def _step(self) -> None:
        """Wait for something to happen, and deal with all that did."""
        for decoded in self._decoders.collect(TICK_S):
            self._decoded(decoded)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake_fd)
        while self._engine.done:
            self._computed(self._engine.done.popleft())
        self._engine.check()
        for run in [r for r in self._runs if not r.abandoned and self._heartbeat.lost(r.shard)]:
            log.info("job %d: shard %d is no longer ours", run.shard.job_id, run.shard.shard_no)
            run.abandoned = True
            self._drop_waiting(run)
        for lookup in [f for f in self._lookups if f.done()]:
            run = self._lookups.pop(lookup)
            if not run.abandoned:
                run.known(lookup.result())
        for run in [r for r in self._runs if r.complete or (r.abandoned and not r.decoding)]:
            self._runs.remove(run)
            if run.abandoned:
                self._finished(run)
            else:
                self._commits[self._claims.commit(run)] = run
        for commit in [f for f in self._commits if f.done()]:
            run = self._commits.pop(commit)
            self._finished(run)
            commit.result()

    def _decoded(self, decoded: Decoded) -> None:
        run, index, batch, place = decoded.film.token
        run.decoding -= 1
        if not run.abandoned:
            run.read(index, decoded)
        if batch is None:
            if not (run.unread or run.decoding or run.abandoned or run.complete):
                self._lookups[self._claims.known(run)] = run
            return
        batch.decoding -= 1
        if decoded.failure is not None:
            batch.films[place] = None
        self._compute(batch)

    def _compute(self, batch: Batch) -> None:
        if not batch.ready:
            return
        if not any(batch.films):
            self._batches.release(batch)
            return
        pixels = self._batches.pixels(self._decoders.pixels, batch)
        request = Request(model=batch.model, pixels=pixels, films=len(batch.films))
        self._computing[request] = batch
        self._engine.submit(request)

    def _computed(self, request: Request) -> None:
        batch = self._computing.pop(request)
        # Films of a batch come from one shard, or from two where one ended and the next began.
        found: dict[ShardRun, tuple[list[int], list[int]]] = {}
        for row, film in enumerate(batch.films):
            if film is not None:
                run, index, _, _ = film.token
                indexes, rows = found.setdefault(run, ([], []))
                indexes.append(index)
                rows.append(row)
        for run, (indexes, rows) in found.items():
            if run.abandoned:
                continue
            if request.answer is not None:
                self._tell(run.shard.job_id, run.model)
                run.scored(indexes, rows, request.answer)
                continue
            run.abandoned = True
            self._drop_waiting(run)
            if isinstance(request.error, GpuLost):
                self._claims.lost_gpu(run.shard, str(request.error))
            else:
                self._claims.give_back(
                    run.shard, str(request.error), in_good_order=self._stop.is_set()
                )
        self._batches.release(batch)

    def _tell(self, job_id: int, model: Model) -> None:
        text = self._loader.said(model)
        if (job_id, text) not in self._told:
            self._told.add((job_id, text))
            self._claims.tell(job_id, text)

    def _drop_waiting(self, run: ShardRun) -> None:
        """Of an abandoned shard, hand no more films to the decoders."""
        run.waiting.clear()
        run.unread.clear()
        for film in self._decoders.forget(lambda f: f.token[0] is run):
            _, _, batch, place = film.token
            run.decoding -= 1
            if batch is not None:
                batch.films[place] = None
                batch.decoding -= 1
                self._compute(batch)

    def _finished(self, run: ShardRun) -> None:
        run.close()
        self._heartbeat.release(run.shard)

    # Stopping

    def _hand_back(self, reason: str = "the worker was stopped") -> None:
        """Give up everything that is in hand, so that another worker can go on at once."""
        if self._claim is not None:
            self._take_claim()
        if self._planner is not None:
            self._planner.join()
        for run in self._runs:
            if not run.abandoned:
                self._claims.give_back(run.shard, reason, in_good_order=True)
            run.close()
        self._runs.clear()
        while self._commits:
            future, run = self._commits.popitem()
            future.result()
            self._finished(run)

    def _wake(self) -> None:
        with self._waking:
            # A planner may outlive us, and the number may be another file's by then.
            if not self._closed:
                os.eventfd_write(self._wake_fd, 1)


def _film(run: ShardRun, index: int, batch: Batch | None, offset: int) -> Film:
    """A film to be decoded into its place of a batch, or only to be read."""
    return Film(
        token=(run, index, batch, 0 if batch is None else len(batch.films)),
        place=run.place,
        member=run.members[index],
        rule=run.card.film_rule,
        size=run.card.size,
        offset=offset,
        accept=run.accept,
    )
