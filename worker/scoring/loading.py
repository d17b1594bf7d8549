"""Loading: what a scoring worker's engine thread computes with, opened when it is needed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

from db.base import database as connecting
from trainer.errors import Stopped
from worker.config import Settings
from worker.engine import Engine, EngineChoice, store
from worker.scoring import serving
from worker.scoring.engine_thread import Model

log = logging.getLogger(__name__)

#: The status is set this often while an engine is being built, in seconds.
STATUS_S = 5.0


class Loader:
    """Finds and opens what a scoring worker's engine thread computes with."""

    def __init__(
        self,
        settings: Settings,
        database: sa.Engine,
        worker_id: str,
        choice: EngineChoice,
        stop: threading.Event,
        set_status: Callable[[str], object],
    ) -> None:
        """`set_status` has the worker's row say what is loaded; `stop` ends a build."""
        self._settings = settings
        self._database = database
        self._worker_id = worker_id
        self._choice = choice
        self._stop = stop
        self._set_status = set_status
        #: By number and precision.
        self._descriptions: dict[tuple[int, str], str] = {}

    def locate(self, model: Model) -> Path:
        """The model's file; raises EngineError."""
        database, home = self._database, self._settings.home
        return connecting.outlast(
            database, lambda: store.fetch(database, home, model.number, model.precision)
        )

    def load(self, path: Path, model: Model) -> Engine:
        """An engine that may serve what the model's job asks for.

        Raises EngineError, GpuLost, and Stopped where a build was under way.
        """
        name = f"model {model.number} in {model.precision}"
        reported_at = 0.0

        def report(phase: str, step: int, steps: int) -> None:
            nonlocal reported_at
            if self._stop.is_set():
                raise Stopped("the worker was stopped")
            if time.monotonic() - reported_at >= STATUS_S:
                reported_at = time.monotonic()
                share = f", {100 * step // steps} % done" if steps else ""
                log.info("%s: %s%s", name, phase, share)
                self._set_status(f"{name}: {phase}{share}")

        served = serving.obtain(
            # Nothing that it asks the database for is needed: it can do without.
            self._settings, connecting.patient(self._database, connecting.PATIENCE_S), path,
            model.precision,
            self._choice.asking(model.asked), report, worker_id=self._worker_id,
        )  # fmt: skip
        self._descriptions[model.number, model.precision] = served.text
        as_chosen = served.engine.backend == self._choice.backend
        self._set_status(name if as_chosen else f"{name}: {served.text}")
        return served.engine

    def described(self, model: Model) -> str:
        """What a model that was loaded is scored with, for the histories of its jobs."""
        return self._descriptions[model.number, model.precision]
