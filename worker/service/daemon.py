"""One worker process's own state: its database, its heartbeat, and the work it does when rung."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
import platform
import queue
import socket
import threading
import time
import uuid
from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from db.base import database, migrate, outbox, workers
from db.base.errors import Unavailable
from db.registry import engine_checks
from worker import wakeup
from worker.config import Settings
from worker.engine import EngineChoice, choose, kinds
from worker.errors import ConfigError, GpuLost
from worker.machine import gpu, health
from worker.machine.gpu_lease import Board
from worker.machine.heartbeat import Heartbeat
from worker.scoring import engine_check
from worker.scoring.loop import Scorer
from worker.service import hooks, sweep
from worker.service.chores import CHORES, Chore, Chores
from worker.training import attempt

log = logging.getLogger(__name__)

#: Seconds before work is begun anew after the database was away for longer than any patience; the
#: last one from then on.
AGAIN_S = (1.0, 2.0, 5.0, 10.0)

#: A broker that took no bell is left alone for this many seconds: planning must not wait for it.
MUTE_S = 10.0


#: With nothing to do for so long, a scorer gives back its GPU.
REST_S = 5.0

#: While training waits for scoring, it is looked at again after this many seconds.
GIVE_WAY_S = 0.5


class Daemon:
    """What lives as long as the worker process. One thread works at a time.

    Work is taken up when a bell rings, by the thread that heard it, and by a thread of our own when
    a sweep finds work while this worker is idle: a worker that hears no bells is only slower.
    """

    def __init__(
        self, settings: Settings, queues: list[str], end: Callable[[], object] = lambda: None
    ) -> None:
        """`end` is called when this process has to be ended and another started in its place."""
        if "train" in queues and importlib.util.find_spec("torch") is None:
            raise ConfigError(
                "training needs PyTorch: pip install 'pneumoq[train]', or listen to score only"
            )
        self._settings = settings
        self._queues = queues
        self._end = end
        #: Whether it ends because it can do no more.
        self.failed = False
        #: What it scores with.
        self._choice: EngineChoice | None = choose(settings) if "score" in queues else None
        found = gpu.find()
        # Whether training uses the GPU that is there, PyTorch decides in its own process.
        self._training_board = Board(found[0].uuid, "training") if found else None
        self._database = database.connect(settings.database_url, database.PATIENCE_S)
        migrate.check(self._database)
        self.worker_id = f"{socket.gethostname()[:32]}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._stop = threading.Event()
        self._working = threading.Lock()
        self._scorer: Scorer | None = None
        self._heartbeat = Heartbeat(
            self._database,
            self.worker_id,
            lease_s=settings.lease_s,
            health=health.read,
        )
        self._mute_until = 0.0
        self._worked_at = 0.0
        self._found: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        # As long-lived as this process: the decoders end with the thread that started them.
        self._idle = threading.Thread(target=self._work_when_found, name="idle", daemon=True)
        self._sweeper = sweep.Sweeper(settings, self._database, self.worker_id, self._take_up)
        self._proof_due = threading.Event()
        mine = (Chore("proofs", self._look_for_proofs),) if self._choice else ()
        self._chores = Chores(settings, self._database, self.worker_id, CHORES + mine)
        database.write(
            self._database,
            lambda c: workers.register(
                c,
                self.worker_id,
                host=socket.gethostname(),
                pid=os.getpid(),
                queues=",".join(sorted(queues)),
                engine=None if self._choice is None else str(self._choice),
                versions={
                    "python": platform.python_version(),
                    "pneumoq": importlib.metadata.version("pneumoq"),
                    **self._served(),
                    **({outbox.SENDS: "yes"} if hooks.of(settings) else {}),
                },
                health=health.read() or None,
            ),
        )
        self._heartbeat.start()
        self._idle.start()
        self._sweeper.start()
        self._chores.start()

    def _served(self) -> dict[str, str]:
        if self._choice is None:
            return {}
        return {"engines": ",".join(sorted(kinds(self._choice))), "proves": self._choice.kind}

    def score(self) -> None:
        """Score until nothing is due."""
        with self._working:
            self._until_done(self._drain)

    def _drain(self) -> None:
        """Score what is due; a new model that is to be proved goes first, and between shards."""
        while not self._stop.is_set():
            if self._proof_due.is_set():
                self._prove()
            self._drain_shards()
            if not self._proof_due.is_set():
                return

    def _drain_shards(self) -> None:
        if self._scorer is None:
            assert self._choice is not None
            on = self._choice.gpu
            self._scorer = Scorer(
                self._settings,
                self._database,
                self.worker_id,
                self._heartbeat,
                self._stop,
                self._ring_score,
                choice=self._choice,
                gpu_lease=None if on is None else Board(on.uuid, "scoring"),
                set_status=self._say,
            )
        scorer = self._scorer
        try:
            scorer.drain(self._proof_due.is_set)
            self._worked_at = time.monotonic()
        except GpuLost as error:
            self._scorer = None
            scorer.close()
            self._fail(f"the GPU is lost: {error}")
        except BaseException:
            # Its state is unknown: its leases run out, and work begins anew.
            self._scorer = None
            scorer.abandon()
            raise

    def _look_for_proofs(self, settings: Settings, engine: sa.Engine, who: str) -> None:
        """A chore: see whether there is a new model to be proved by workers of this kind."""
        assert self._choice is not None
        if self._proof_due.is_set() or engine_checks.due(
            engine, self._choice.kind, settings.lease_s
        ):
            self._proof_due.set()
            self._take_up("score")

    def _prove(self) -> None:
        """Prove the new models that are due to workers of this kind."""
        self._proof_due.clear()
        try:
            self._prove_all()
        except BaseException:
            # What is in hand is this worker's still, and others leave it alone while it lives.
            self._proof_due.set()
            raise

    def _prove_all(self) -> None:
        choice = self._choice
        assert choice is not None
        if self._scorer is not None:
            self._scorer.release_gpu()
        while not self._stop.is_set():
            # What this process began before, and did not end, is its own to begin anew.
            there = workers.alive_ids(self._database, self._settings.lease_s) - {self.worker_id}
            due = database.write(
                self._database,
                lambda c, t=there: engine_checks.claim(c, choice.kind, self.worker_id, t),  # type: ignore[misc]
            )
            if due is None:
                break
            try:
                passed, detail = engine_check.check(
                    self._settings, self._database, self.worker_id, choice, due.model_id,
                    self._stop, self._say,
                )  # fmt: skip
            except engine_check.Stopped:
                database.write(
                    self._database,
                    lambda c, d=due: engine_checks.hand_back(c, d, self.worker_id),  # type: ignore[misc]
                )
                break
            except GpuLost as error:
                self._fail(f"the GPU is lost: {error}")
                break
            except (Unavailable, DBAPIError):
                raise
            except Exception as error:
                # Whatever it was: a worker on which this happens must not serve the model.
                log.exception("model %d could not be tried", due.model_id)
                passed, detail = False, f"it could not be tried: {type(error).__name__}: {error}"
            log.info("model %d %s: %s", due.model_id, "proved" if passed else "NOT proved", detail)
            database.write(
                self._database,
                lambda c, d=due, p=passed, t=detail: engine_checks.decide(
                    c, d, self.worker_id, p, t
                ),  # type: ignore[misc]
            )
        self._say("")

    def _say(self, text: str) -> None:
        """Have the worker's row say what goes on beside what it computes with."""
        self._heartbeat.tell("; ".join(filter(None, (str(self._choice or ""), text))))

    def _fail(self, reason: str) -> None:
        """Begin to end, since only another process can go on."""
        log.error("this worker ends, for another to take its place: %s", reason)
        self.failed = True
        self._stop.set()
        self._end()

    def train(self) -> None:
        """Train until nothing is due; more urgent scoring goes first."""
        with self._working:
            self._until_done(self._train)

    def _train(self) -> None:
        while self._train_due():
            if "score" in self._queues:
                self._drain()
            self._stop.wait(GIVE_WAY_S)

    def _train_due(self) -> bool:
        if self._scorer is not None:
            # The GPU that it may hold while idle is this process's own to wait for.
            self._scorer.release_gpu()
        return attempt.work(
            self._settings, self._database, self.worker_id, self._heartbeat, self._stop,
            board=self._training_board, say=self._say,
        )  # fmt: skip

    def _until_done(self, work: Callable[[], None]) -> None:
        """Work; as often as the database is away for longer than any patience, begin anew."""
        failures = 0
        while not self._stop.is_set():
            try:
                return work()
            except Unavailable as error:
                reason = str(error)
            except DBAPIError as error:
                if not database.passing(error):
                    raise
                reason = str(error.orig)
            delay_s = AGAIN_S[min(failures, len(AGAIN_S) - 1)]
            failures += 1
            log.warning("what was in hand is given up; work begins anew in %g s: %s",
                        delay_s, reason)  # fmt: skip
            self._stop.wait(delay_s)

    def _ring_score(self, times: int) -> None:
        if time.monotonic() >= self._mute_until and not wakeup.ring(self._settings, "score", times):
            self._mute_until = time.monotonic() + MUTE_S

    def _take_up(self, name: str) -> None:
        """A sweep found work on a queue: it is begun here if this worker is idle."""
        if name in self._queues and not self._working.locked():
            self._found.put(name)

    def _work_when_found(self) -> None:
        while True:
            try:
                name = self._found.get(timeout=REST_S)
            except queue.Empty:
                self._rest()
                continue
            if name is None:
                return
            try:
                if name == "score":
                    self.score()
                else:
                    self.train()
            except Exception:
                # As of a task that a bell began: told in the log, and the next one comes.
                log.exception("work on %s that a sweep found ended with an error", name)

    def _rest(self) -> None:
        """Give back the GPU of a scorer that is idle."""
        if time.monotonic() - self._worked_at < REST_S:
            return
        if self._working.acquire(blocking=False):
            try:
                if self._scorer is not None:
                    self._scorer.release_gpu()
            finally:
                self._working.release()

    def sweep(self) -> None:
        """Beat's tick: do the chores, ring for what is due and close what is done."""
        self._chores.now()
        sweep.run(self._settings, self._database, self.worker_id)

    def stop(self) -> None:
        """Begin to end: hand back what is in hand, claim nothing more. Returns at once."""
        self._stop.set()

    def close(self) -> None:
        """End in good order, after the work has stopped."""
        self._stop.set()
        with self._working:
            if self._scorer is not None:
                self._scorer.close()
        self._sweeper.end()
        self._chores.end()
        self._found.put(None)
        self._heartbeat.end()
        database.write(
            self._database, lambda c: workers.deregister(c, self.worker_id), patience_s=5
        )
        self._database.dispose()
