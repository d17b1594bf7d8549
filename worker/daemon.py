"""One worker process's own state: its database, its heartbeat, and the work it does when rung."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
import platform
import socket
import threading
import uuid

from db import database, migrate, workers
from worker import bell, engine, sweep, training
from worker.config import Settings
from worker.errors import ConfigError
from worker.heartbeat import Heartbeat
from worker.scoring import Scorer

log = logging.getLogger(__name__)


class Daemon:
    """What lives as long as the worker process. One thread works at a time."""

    def __init__(self, settings: Settings, queues: list[str]) -> None:
        if "train" in queues and importlib.util.find_spec("torch") is None:
            raise ConfigError(
                "training needs PyTorch: pip install 'pneumoq[train]', or listen to score only"
            )
        self._settings = settings
        self._database = database.connect(settings.database_url)
        migrate.check(self._database)
        self.worker_id = f"{socket.gethostname()[:32]}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._stop = threading.Event()
        self._working = threading.Lock()
        self._scorer: Scorer | None = None
        self._heartbeat = Heartbeat(
            self._database,
            self.worker_id,
            lease_s=settings.lease_s,
        )
        self._sweeper = sweep.Sweeper(settings, self._database, self.worker_id)
        database.write(
            self._database,
            lambda c: workers.hello(
                c,
                self.worker_id,
                host=socket.gethostname(),
                pid=os.getpid(),
                queues=",".join(sorted(queues)),
                engine=engine.describe(settings.engine_threads) if "score" in queues else None,
                versions={
                    "python": platform.python_version(),
                    "pneumoq": importlib.metadata.version("pneumoq"),
                },
            ),
        )
        self._heartbeat.start()
        self._sweeper.start()

    def score(self) -> None:
        """Score until nothing is due."""
        with self._working:
            if self._scorer is None:
                self._scorer = Scorer(
                    self._settings,
                    self._database,
                    self.worker_id,
                    self._heartbeat,
                    self._stop,
                    lambda times: bell.ring(self._settings, "score", times),
                )
            try:
                self._scorer.drain()
            except BaseException:
                # Its state is unknown: its leases run out, and the next bell begins anew.
                scorer, self._scorer = self._scorer, None
                scorer.abandon()
                raise

    def train(self) -> None:
        """Train until nothing is due."""
        with self._working:
            training.work(
                self._settings, self._database, self.worker_id, self._heartbeat, self._stop
            )

    def sweep(self) -> None:
        """Ring for what is due and close what is done."""
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
        self._heartbeat.end()
        database.write(self._database, lambda c: workers.goodbye(c, self.worker_id), patience_s=5)
        self._database.dispose()
