"""This process's row among the workers: registered, kept alive by a heartbeat, deregistered."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import socket
import uuid
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from db.base import database, outbox, workers
from worker.archive import apart
from worker.config import Settings
from worker.engine import EngineChoice, kinds
from worker.machine import gpu, health
from worker.machine.heartbeat import Heartbeat
from worker.service import hooks

#: Longest wait for the database to take the row's end, in seconds: the process wants to end.
DEREGISTER_S = 5.0


class Registration:
    """One worker process as others see it."""

    def __init__(
        self,
        settings: Settings,
        engine: sa.Engine,
        queues: Sequence[str],
        choice: EngineChoice | None,
    ) -> None:
        """`choice` is what it scores with; None for a process that does not score."""
        self._settings = settings
        self._database = engine
        self._queues = queues
        self._choice = choice
        self.worker_id = f"{socket.gethostname()[:32]}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        gpus = gpu.find()
        self._card = gpus[0].uuid if gpus else None
        self.heartbeat = Heartbeat(
            engine, self.worker_id, lease_s=settings.lease_s, health=self._health
        )

    def start(self) -> None:
        """Register, and begin to beat."""
        database.write(self._database, self._register)
        self.heartbeat.start()

    def set_status(self, text: str) -> None:
        """Have the row tell what goes on, beside what the process computes with."""
        self.heartbeat.set_status("; ".join(filter(None, (str(self._choice or ""), text))))

    def end(self) -> None:
        """Beat no more, and deregister."""
        self.heartbeat.end()
        database.write(
            self._database,
            lambda c: workers.deregister(c, self.worker_id),
            patience_s=DEREGISTER_S,
        )

    def _health(self) -> dict[str, Any]:
        left = apart.left_behind()
        return health.read(uuid=self._card) | ({"left_behind": left} if left else {})

    def _register(self, connection: sa.Connection) -> None:
        choice = self._choice
        versions = {
            "python": platform.python_version(),
            "pneumoq": importlib.metadata.version("pneumoq"),
        }
        if choice is not None:
            versions |= {"engines": ",".join(sorted(kinds(choice))), "proves": choice.kind}
        if hooks.of(self._settings):
            versions[outbox.SENDS] = "yes"
        workers.register(
            connection,
            self.worker_id,
            host=socket.gethostname(),
            pid=os.getpid(),
            queues=",".join(sorted(self._queues)),
            engine=None if choice is None else str(choice),
            versions=versions,
            lease_s=self._settings.lease_s,
        )
