"""What a scoring worker does in the database: it claims shards, opens them, and commits them.

Claiming and opening happen in one thread, looking up and committing in another, so that the next
shard is ready when this one is through. Knows nothing of decoders and engines.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import sqlalchemy as sa

from db.base import database
from db.base.errors import LeaseLost
from db.queue import jobs, leases, listings, results, reuse
from db.queue.leases import Shard
from db.queue.listings import NewShard
from db.queue.reuse import Known
from db.registry import models
from db.work import claims, endings
from db.work.claims import Claimed
from trainer.card import Card
from trainer.errors import CardError
from worker import archive
from worker.config import Settings
from worker.errors import ArchiveError, EngineError
from worker.machine import privacy
from worker.machine.heartbeat import Heartbeat
from worker.scoring.batches import MAX_SIDE
from worker.scoring.shard import Opener, ShardRun, stored_name

log = logging.getLogger(__name__)


class Claims:
    """The database's side of scoring. `wake` is called whenever something is through."""

    def __init__(
        self,
        settings: Settings,
        engine: sa.Engine,
        worker_id: str,
        heartbeat: Heartbeat,
        wake: Callable[[], None],
        kinds: Collection[str] | None = None,
    ) -> None:
        """`kinds` are the engines that a job may ask for here, as of `db.work.claims.first_due`."""
        self._settings = settings
        self._database = engine
        self._worker_id = worker_id
        self._heartbeat = heartbeat
        self._wake = wake
        self._kinds = kinds
        self._privacy = privacy.load(settings)
        self._opener = Opener(engine, self._privacy)
        self._claiming = ThreadPoolExecutor(1, thread_name_prefix="claiming")
        self._committing = ThreadPoolExecutor(1, thread_name_prefix="committing")
        self._cards: dict[int, Card] = {}
        #: Of the job whose shard was opened last.
        self._sources: tuple[int, dict[int, sa.RowMapping]] | None = None

    def close(self, *, abandon: bool = False) -> None:
        """Finish what was asked for, or with `abandon` only what was begun."""
        self._claiming.shutdown(wait=True, cancel_futures=abandon)
        self._committing.shutdown(wait=True, cancel_futures=abandon)
        self._opener.close()

    # To be called from any thread: the work is done in its own.

    def next(
        self, *, planning: bool, alone: bool
    ) -> Future[tuple[bool, ShardRun | Claimed | None]]:
        """Claim what goes first: as `db.work.claims.claim_best`.

        Whether anything was due, and what is to be worked on.
        """
        return self._submit(self._claiming, lambda: self._next(planning, alone))

    def known(self, run: ShardRun) -> Future[Mapping[bytes, Known]]:
        """What the store says about a shard's contents."""

        def look_up() -> Mapping[bytes, Known]:
            with database.reading(self._database) as connection:
                return reuse.known(connection, list(run.contents.values()), *run.model[:2])

        return self._submit(self._committing, look_up)

    def commit(self, run: ShardRun) -> Future[None]:
        """Write a shard's outcomes, and close its job if that was the last."""
        return self._submit(self._committing, lambda: self._commit(run))

    def give_back(self, shard: Shard, reason: str, *, in_good_order: bool) -> Future[None]:
        """Let another worker have the shard: at once in good order, else after a while."""
        return self._submit(
            self._committing, lambda: self._give_back(shard, reason, in_good_order=in_good_order)
        )

    def lost_gpu(self, shard: Shard, reason: str) -> Future[None]:
        """Let another worker have a shard that was being computed when the GPU was lost.

        It may be to blame: the attempt counts, as if the worker had been killed.
        """
        return self._submit(self._committing, lambda: self._lost_gpu(shard, reason))

    def tell(self, job_id: int, text: str) -> Future[None]:
        """Have the job's history say what it is scored with here, once."""

        def log_it(connection: sa.Connection) -> None:
            jobs.log_once(connection, job_id, self._worker_id, "engine", text)

        return self._submit(self._committing, lambda: database.write(self._database, log_it))

    def _submit(self, where: ThreadPoolExecutor, work: Callable[[], Any]) -> Future[Any]:
        future = where.submit(work)
        future.add_done_callback(lambda _: self._wake())
        return future

    # Claiming

    def _next(self, planning: bool, alone: bool) -> tuple[bool, ShardRun | Claimed | None]:
        claimed = database.write(
            self._database,
            lambda c: claims.claim_best(
                c,
                self._worker_id,
                self._settings.lease_s,
                planning=planning,
                alone=alone,
                kinds=self._kinds,
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
        if shard.attempt > leases.MAX_ATTEMPTS:
            self._give_up(shard)
            return None
        try:
            source = self._source(shard)
            card = self._card(shard)
            run = self._opener.open(shard, source["kind"], source["uri"], card)
        except (ArchiveError, CardError, EngineError) as error:
            self._give_back(shard, str(error), in_good_order=False)
            return None
        if not shard.spec.get("force"):
            with database.reading(self._database) as connection:
                if reuse.any_known(connection, *run.model[:2]):
                    run.unread, run.waiting = run.waiting, run.unread
        return run

    def _source(self, shard: Shard) -> sa.RowMapping:
        if self._sources is None or self._sources[0] != shard.job_id:
            rows = jobs.source_rows(self._database, shard.job_id)
            self._sources = (shard.job_id, {row["source_no"]: row for row in rows})
        return self._sources[1][shard.source_no]

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
            hide = bool(shard.spec.get("hash_names"))
            names = [stored_name(self._privacy, m.name, hide=hide) for m in members]
            code = "worker_died" if shard.last_error is None else "given_up"
            detail = f"given up after {leases.MAX_ATTEMPTS} attempts; the last: " + (
                shard.last_error or "its worker ended without a word at this item"
            )

            def end(connection: sa.Connection) -> None:
                results.give_up(connection, shard, names, code, detail)

        try:
            database.write(self._database, end)
            self._close_job(shard.job_id)
        except LeaseLost as error:
            log.info("not given up: %s", error)
        self._heartbeat.release(shard)

    # Committing

    def _commit(self, run: ShardRun) -> None:
        shard = run.shard
        if run.hashed_names:
            # First, because whoever dies in between could not make up for it.
            self._keep_names(run)
        try:
            database.write(self._database, lambda c: results.commit(c, shard, run.outcomes))
        except LeaseLost as error:
            log.info("not committed: %s", error)
            return
        self._close_job(shard.job_id)

    def _keep_names(self, run: ShardRun) -> None:
        try:
            privacy.keep_names(self._settings.home, run.shard.job_id, run.hashed_names)
        except OSError as error:
            # No reason to lose outcomes: whoever has the key and the films can make the map again.
            log.warning(
                "job %d: the map of hashed names cannot be kept (%s); make room in PNEUMOQ_HOME "
                "and score the job again to have it",
                run.shard.job_id, error.strerror,
            )  # fmt: skip

    def _close_job(self, job_id: int) -> None:
        state = database.write(
            self._database, lambda c: endings.close_if_done(c, job_id, self._worker_id)
        )
        if state:
            log.info("job %d is done", job_id)

    def _give_back(self, shard: Shard, reason: str, *, in_good_order: bool) -> None:
        log.info("job %d: shard %d handed back: %s", shard.job_id, shard.shard_no, reason)
        database.write(
            self._database,
            lambda c: leases.hand_back_shard(c, shard, reason, in_good_order=in_good_order),
        )
        self._heartbeat.release(shard)

    def _lost_gpu(self, shard: Shard, reason: str) -> None:
        detail = f"shard {shard.shard_no}, attempt {shard.attempt}: {reason}"
        log.warning("job %d: the GPU was lost at %s", shard.job_id, detail)

        def hand_back(connection: sa.Connection) -> None:
            leases.hand_back_shard(connection, shard, None, in_good_order=False)
            jobs.log(connection, shard.job_id, self._worker_id, "gpu_lost", detail)

        database.write(self._database, hand_back)
        self._heartbeat.release(shard)
