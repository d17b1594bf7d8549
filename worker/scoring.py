"""Scoring: shards are claimed, decoded, computed and committed, all at the same time.

Four kinds of thread and process, each doing one thing: this loop hands films to decoder processes
and batches to the engine thread; a database thread claims, opens and commits shards; the engine
thread computes. Pixels are written once, by a decoder, and read in place by the engine.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import selectors
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import sqlalchemy as sa

from db import database, jobs, leases, models, results
from db.errors import LeaseLost
from db.jobs import Claimed
from db.leases import Shard
from trainer.card import Card
from trainer.errors import CardError
from worker import archive, planning, store
from worker.batches import MAX_SIDE, Batch, Batches
from worker.config import Settings
from worker.decoders import Decoded, Decoders, Film
from worker.engine import open_engine
from worker.errors import ArchiveError, EngineError
from worker.heartbeat import Heartbeat
from worker.inference import EngineThread, Request
from worker.shard import Opener, ShardRun

log = logging.getLogger(__name__)

#: Shards in hand at once: one being finished, one being fed.
SHARDS = 2

#: While work is in hand but none was due, look again this often.
RECLAIM_S = 1.0

#: Longest wait for an event; bounds how late a stop or a lost lease is noticed.
TICK_S = 0.25


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
    ) -> None:
        self._settings = settings
        self._database = engine
        self._worker_id = worker_id
        self._heartbeat = heartbeat
        self._stop = stop
        self._ring = ring
        threads = settings.engine_threads
        # One batch per engine lane, one waiting, and two being decoded.
        self._batches = Batches(threads + 3, settings.batch)
        self._decoders = Decoders(
            settings.decoders,
            self._batches.memory_bytes,
            deadline_s=settings.film_deadline_s,
            limit_mb=settings.film_memory_mb,
        )
        self._waking = threading.Lock()
        self._closed = False
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._decoders.selector.register(self._wake_fd, selectors.EVENT_READ)
        self._engine = EngineThread(
            lambda model_id: store.fetch(engine, settings.home, model_id),
            lambda path: open_engine(path, batch=settings.batch, threads=threads),
            self._wake,
        )
        self._background = ThreadPoolExecutor(1, thread_name_prefix="database")
        self._opener = Opener(engine)
        self._cards: dict[int, Card] = {}
        self._runs: list[ShardRun] = []
        self._computing: dict[Request, Batch] = {}
        self._claim: Future[tuple[bool, ShardRun | Claimed | None]] | None = None
        self._commits: dict[Future[None], ShardRun] = {}
        self._dry_until = 0.0
        self._planner: planning.Planner | None = None

    def drain(self) -> None:
        """Work until nothing is due or the worker is to stop."""
        self._dry_until = 0.0
        was_idle = False
        while not self._stop.is_set():
            idle = not (self._runs or self._commits or self._planning())
            due = idle or time.monotonic() >= self._dry_until
            if due and self._claim is None and self._wants_more():
                was_idle = idle
                self._claim = self._submit(self._claim_next)
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
        self.close()
        for run in [*self._runs, *self._commits.values()]:
            self._finished(run)
        if self._claim is not None and self._claim.exception() is None:
            claimed = self._claim.result()[1]
            if isinstance(claimed, ShardRun):
                self._finished(claimed)
            elif claimed is not None:
                self._heartbeat.release(claimed.lease)

    def close(self) -> None:
        """End the decoders and the engine."""
        self._background.shutdown(wait=True)
        self._engine.close()
        self._decoders.close()
        self._opener.close()
        with self._waking:
            os.close(self._wake_fd)
            self._closed = True

    # Claiming, in the database thread

    def _wants_more(self) -> bool:
        unfed = sum(len(run.waiting) for run in self._runs)
        return len(self._runs) < SHARDS and unfed < self._batches.capacity

    def _claim_next(self) -> tuple[bool, ShardRun | Claimed | None]:
        """Whether anything was due, and what is to be worked on."""
        claimed = database.write(
            self._database,
            lambda c: leases.claim_best(
                c, self._worker_id, self._settings.lease_s, planning=not self._planning()
            ),
        )
        if claimed is None:
            return False, None
        if isinstance(claimed, Claimed):
            self._heartbeat.hold(claimed.lease)
            return True, claimed
        self._heartbeat.hold(claimed)
        try:
            return True, self._open(claimed)
        except BaseException:
            # Nobody will know of this claim: its lease must run out.
            self._heartbeat.release(claimed)
            raise

    def _open(self, shard: Shard) -> ShardRun | None:
        source = next(
            s
            for s in jobs.source_rows(self._database, shard.job_id)
            if s["source_no"] == shard.source_no
        )
        if shard.attempt > leases.MAX_ATTEMPTS:
            names = [archive.display(m.name) for m in archive.unpack(shard.listing)]
            detail = f"given up after {leases.MAX_ATTEMPTS} attempts; the last: " + (
                shard.last_error or "its worker ended without a word"
            )
            try:
                database.write(self._database, lambda c: results.give_up(c, shard, names, detail))
                self._close_job(shard)
            except LeaseLost as error:
                log.info("not given up: %s", error)
            self._heartbeat.release(shard)
            return None
        try:
            return self._opener.open(shard, source["kind"], source["uri"], self._card(shard))
        except (ArchiveError, CardError, EngineError) as error:
            self._give_back(shard, str(error), in_good_order=False)
            return None

    def _card(self, shard: Shard) -> Card:
        if shard.model_id not in self._cards:
            row = models.get(self._database, shard.model_id)
            card = Card.from_json(json.dumps(row["card"]))
            if card.size > MAX_SIDE:
                raise EngineError(
                    f"model {shard.model_id} wants films of {card.size} pixels; at most {MAX_SIDE} "
                    "are made"
                )
            self._cards[shard.model_id] = card
        return self._cards[shard.model_id]

    def _give_back(self, shard: Shard, reason: str, *, in_good_order: bool) -> None:
        log.info("job %d: shard %d handed back: %s", shard.job_id, shard.shard_no, reason)
        database.write(
            self._database,
            lambda c: leases.hand_back(c, shard, reason, in_good_order=in_good_order),
        )
        self._heartbeat.release(shard)

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
            if run.waiting and self._batches.filling_another(run.shard.model_id):
                self._flush()
            while run.waiting and self._decoders.wants(len(films)):
                placed = self._batches.place(run.shard.model_id, run.card.size)
                if placed is None:
                    break
                batch, offset = placed
                index = run.waiting.popleft()
                film = Film(
                    token=(run, index, batch, len(batch.films)),
                    place=run.place,
                    member=run.members[index],
                    rule=run.card.film_rule,
                    size=run.card.size,
                    offset=offset,
                )
                batch.films.append(film)
                batch.decoding += 1
                run.decoding += 1
                films.append(film)
            if run.waiting:
                break  # one shard after another, or two models would fill batches in turns
        self._decoders.give(films)
        if not any(run.waiting for run in self._runs) and self._claim is None:
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
        self._engine.check()
        while self._engine.done:
            self._computed(self._engine.done.popleft())
        for run in [r for r in self._runs if not r.abandoned and self._heartbeat.lost(r.shard)]:
            log.info("job %d: shard %d is no longer ours", run.shard.job_id, run.shard.shard_no)
            run.abandoned = True
            self._drop_waiting(run)
        for run in [r for r in self._runs if r.complete or (r.abandoned and not r.decoding)]:
            self._runs.remove(run)
            if run.abandoned:
                self._finished(run)
            else:
                self._commits[self._submit(lambda run=run: self._commit(run))] = run  # type: ignore[misc]
        for future in [f for f in self._commits if f.done()]:
            run = self._commits.pop(future)
            self._finished(run)
            future.result()

    def _decoded(self, decoded: Decoded) -> None:
        run, index, batch, place = decoded.film.token
        batch.decoding -= 1
        run.decoding -= 1
        if decoded.failure is not None:
            batch.films[place] = None
            run.failed(index, decoded.failure)
        self._compute(batch)

    def _compute(self, batch: Batch) -> None:
        if not batch.ready:
            return
        if not any(batch.films):
            self._batches.release(batch)
            return
        pixels = self._batches.pixels(self._decoders.pixels, batch)
        request = Request(model_id=batch.model_id, pixels=pixels)
        self._computing[request] = batch
        self._engine.submit(request)

    def _computed(self, request: Request) -> None:
        batch = self._computing.pop(request)
        for row, film in enumerate(batch.films):
            if film is None:
                continue
            run, index, _, _ = film.token
            if request.answer is not None:
                run.scored(index, request.answer, row)
            elif not run.abandoned:
                run.abandoned = True
                self._drop_waiting(run)
                reason = str(request.error)
                self._submit(
                    lambda run=run, reason=reason: self._give_back(  # type: ignore[misc]
                        run.shard, reason, in_good_order=False
                    )
                )
        self._batches.release(batch)

    def _drop_waiting(self, run: ShardRun) -> None:
        """Of an abandoned shard, hand no more films to the decoders."""
        run.waiting.clear()
        for film in self._decoders.forget(lambda f: f.token[0] is run):
            _, _, batch, place = film.token
            batch.films[place] = None
            batch.decoding -= 1
            run.decoding -= 1
            self._compute(batch)

    def _finished(self, run: ShardRun) -> None:
        run.close()
        self._heartbeat.release(run.shard)

    # Committing, in the database thread

    def _commit(self, run: ShardRun) -> None:
        try:
            database.write(self._database, lambda c: results.commit(c, run.shard, run.outcomes))
        except LeaseLost as error:
            log.info("not committed: %s", error)
            return
        self._close_job(run.shard)

    def _close_job(self, shard: Shard) -> None:
        if database.write(
            self._database, lambda c: jobs.close_if_done(c, shard.job_id, self._worker_id)
        ):
            log.info("job %d is done", shard.job_id)

    # Stopping

    def _hand_back(self) -> None:
        """Give up everything that is in hand, so that another worker can go on at once."""
        if self._claim is not None:
            self._take_claim()
        if self._planner is not None:
            self._planner.join()
        for run in self._runs:
            if not run.abandoned:
                self._give_back(run.shard, "the worker was stopped", in_good_order=True)
            run.close()
        self._runs.clear()
        while self._commits:
            future, run = self._commits.popitem()
            future.result()
            self._finished(run)

    def _submit(self, work: Callable[[], Any]) -> Future[Any]:
        future = self._background.submit(work)
        future.add_done_callback(lambda _: self._wake())
        return future

    def _wake(self) -> None:
        with self._waking:
            # A planner may outlive us, and the number may be another file's by then.
            if not self._closed:
                os.eventfd_write(self._wake_fd, 1)
