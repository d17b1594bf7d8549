"""One worker process: it scores and trains when it is woken, and keeps itself among the workers."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

import sqlalchemy as sa

from db.base import database, migrate
from db.work import claims
from worker.config import Settings
from worker.engine import choose, kinds
from worker.errors import GpuLost
from worker.machine import gpu
from worker.machine.gpu_lease import GpuLease
from worker.service import sweep
from worker.service.chores import CHORES, Chore, Chores
from worker.service.engine_checks import EngineChecks
from worker.service.found_work import FoundWork
from worker.service.rates import Rates
from worker.service.registration import Registration
from worker.service.scoring_work import ScoringWork
from worker.training import loop as training

log = logging.getLogger(__name__)

#: Seconds before work is begun anew after the database was away for longer than any patience; the
#: last one from then on.
AGAIN_S = (1.0, 2.0, 5.0, 10.0)

#: While training waits for scoring, it is looked at again after this many seconds.
GIVE_WAY_S = 0.5


class Daemon:
    """What lives as long as the worker process. One thread works at a time.

    Work is begun by the thread that took a wake-up, and by a thread of our own when a sweep finds
    work while this worker is idle: a worker that no wake-up reaches is only slower.
    """

    def __init__(
        self, settings: Settings, queues: Sequence[str], end: Callable[[], object] = lambda: None
    ) -> None:
        """`end` is called when this process has to be ended and another started in its place.

        Raises ConfigError where this machine lacks what a queue needs, and NotMigrated where
        the database is of another version.
        """
        if "train" in queues:
            training.require()
        self._settings = settings
        self._queues = queues
        self._end = end
        #: Whether it ends because it can do no more.
        self.failed = False
        choice = choose(settings) if "score" in queues else None
        self._database = database.connect(settings.database_url, database.PATIENCE_S)
        database.outlast(self._database, lambda: migrate.check(self._database))
        self._kinds = None if choice is None else kinds(choice)
        self._stop = threading.Event()
        self._working = threading.Lock()
        #: Something may be due: scoring, and training. What can wait gives way.
        self._score_asked, self._train_asked = threading.Event(), threading.Event()
        self._registration = Registration(settings, self._database, queues, choice)
        self.worker_id = self._registration.worker_id
        set_status = self._registration.set_status
        common = settings, self._database, self.worker_id
        heartbeat = self._registration.heartbeat
        self._scoring: ScoringWork | None = None
        self._checks: EngineChecks | None = None
        self._rates: Rates | None = None
        chores = CHORES
        if choice is not None:
            self._scoring = ScoringWork(*common, heartbeat, choice, self._stop, set_status)
            self._checks = EngineChecks(*common, choice, self._stop, set_status)
            self._rates = Rates(*common, choice, set_status)
            chores = (*CHORES, Chore("engine checks", self._look_for_checks))
        # Whether training uses the GPU that is there, PyTorch decides in its own process.
        gpus = gpu.find()
        self._trainer = training.Trainer(
            *common, heartbeat, self._stop,
            gpu_lease=GpuLease(gpus[0].uuid, "training") if gpus else None,
            set_status=set_status,
        )  # fmt: skip
        self._found = FoundWork(self._work, self._when_idle)
        self._sweeper = sweep.Sweeper(*common, self._take_up)
        self._chores = Chores(*common, chores)
        self._registration.start()
        self._found.start()
        self._sweeper.start()
        self._chores.start()

    def score(self) -> None:
        """Score until nothing is due."""
        self._score_asked.set()
        with self._working:
            self._until_done(self._score)

    def train(self) -> None:
        """Train until nothing is due; more urgent scoring goes first."""
        self._train_asked.set()
        with self._working:
            self._train_asked.clear()
            self._until_done(self._train)

    def sweep(self) -> None:
        """Beat's tick: do the chores, notify workers of what is due and close what is done."""
        self._chores.now()
        sweep.run(self._settings, self._database, self.worker_id)

    def stop(self) -> None:
        """Begin to end: hand back what is in hand, claim nothing more. Returns at once."""
        self._stop.set()

    def close(self) -> None:
        """End in good order, after the work has stopped."""
        self._stop.set()
        with self._working:
            if self._scoring is not None:
                self._scoring.close()
        self._sweeper.end()
        self._chores.end()
        self._found.end()
        self._registration.end()
        self._database.dispose()

    def _score(self) -> None:
        """Score what is due; the check of a new model goes first, and between shards."""
        scoring, checks = self._scoring, self._checks
        assert scoring is not None and checks is not None
        try:
            while not self._stop.is_set():
                if checks.due():
                    scoring.release_gpu()
                    checks.run()
                scoring.drain(checks.due)
                if not checks.due():
                    return
        except GpuLost as error:
            self._fail(f"the GPU is lost: {error}")

    def _score_and_measure(self) -> None:
        """Score what is due; then measure models, unless there is something else to be done."""
        scoring, rates = self._scoring, self._rates
        assert scoring is not None and rates is not None
        self._score_asked.clear()
        self._score()
        if self._asked() or not rates.due():
            return
        scoring.release_gpu()
        try:
            if not rates.run(self._asked):
                # Whoever waits for a turn, and hears the next wake-up, gets it after this.
                self._score()
        except GpuLost as error:
            self._fail(f"the GPU is lost: {error}")

    def _asked(self) -> bool:
        """Whether what can wait gives way."""
        asked = self._stop, self._score_asked, self._train_asked
        return any(event.is_set() for event in asked) or self._checks_due()

    def _checks_due(self) -> bool:
        return self._checks is not None and self._checks.due()

    def _train(self) -> None:
        while self._train_due():
            if self._scoring is not None:
                self._score()
            self._stop.wait(GIVE_WAY_S)

    def _train_due(self) -> bool:
        if self._scoring is not None:
            # The GPU that it may hold while idle is this process's own to wait for.
            self._scoring.release_gpu()
        return self._trainer.drain()

    def _until_done(self, work: Callable[[], None]) -> None:
        """Work; as often as the database is away for longer than any patience, begin anew."""
        failures = 0
        while not self._stop.is_set():
            try:
                return work()
            except Exception as error:
                if not database.away(error):
                    raise
                reason = getattr(error, "orig", error)
            delay_s = AGAIN_S[min(failures, len(AGAIN_S) - 1)]
            failures += 1
            log.warning("what was in hand is given up; work begins anew in %g s: %s",
                        delay_s, reason)  # fmt: skip
            self._stop.wait(delay_s)

    def _fail(self, reason: str) -> None:
        """Begin to end, since only another process can go on."""
        log.error("this worker ends, for another to take its place: %s", reason)
        self.failed = True
        self._stop.set()
        self._end()

    def _look_for_checks(self, settings: Settings, engine: sa.Engine, who: str) -> None:
        """A chore: begin the engine checks that are due, or have them made between shards.

        New models are measured too, where this worker is idle.
        """
        assert self._checks is not None and self._rates is not None
        if self._checks.look():
            self._take_up("score")
        elif not self._working.locked() and self._rates.look():
            self._found.add("score")

    def _take_up(self, name: str) -> None:
        """Work was found on a queue: it is begun here if this worker is idle."""
        if name not in self._queues:
            return
        if not self._working.locked():
            self._found.add(name)
        elif name == "train" or claims.anything_due(self._database, name, kinds=self._kinds):
            self._score_asked.set()

    def _work(self, name: str) -> None:
        # A wake-up that comes meanwhile is heard: it has another thread.
        if name == "score":
            with self._working:
                self._until_done(self._score_and_measure)
        else:
            self.train()

    def _when_idle(self) -> None:
        """Give back the GPU of scoring that has been idle for long."""
        scoring = self._scoring
        if scoring is None or not scoring.idle() or not self._working.acquire(blocking=False):
            return
        try:
            scoring.release_gpu()
        finally:
            self._working.release()
