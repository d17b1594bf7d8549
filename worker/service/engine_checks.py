"""Engine checks: the new models that are due to workers of this kind are tried, one after another.

What a check is, worker.scoring.engine_check says; here it is decided which one is made, and what
came of it is written.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import sqlalchemy as sa

from db.base import database, workers
from db.registry import engine_checks as rows
from db.registry.engine_checks import Due
from worker.archive import trouble
from worker.config import Settings
from worker.engine import EngineChoice
from worker.errors import GpuLost
from worker.scoring import engine_check

log = logging.getLogger(__name__)


class EngineChecks:
    """The engine checks of one worker process.

    `look` may be called by any thread; `run` by the one that may own a GPU's context.
    """

    def __init__(
        self,
        settings: Settings,
        engine: sa.Engine,
        worker_id: str,
        choice: EngineChoice,
        stop: threading.Event,
        set_status: Callable[[str], object] = lambda text: None,
    ) -> None:
        """`choice` is what this process scores with; `set_status` takes words for its row."""
        self._settings = settings
        # A check that is made outlasts the database's being away, for however long.
        self._database = database.patient(
            engine, database.PATIENCE_S, in_hand=lambda: not stop.is_set()
        )
        self._worker_id = worker_id
        self._choice = choice
        self._stop = stop
        self._set_status = set_status
        self._due = threading.Event()

    def due(self) -> bool:
        """Whether `look` has found a model to check that `run` has not come to yet."""
        return self._due.is_set()

    def look(self) -> bool:
        """See whether there is a new model for this kind of worker to check."""
        if not self.due() and rows.due(self._database, self._choice.kind, self._settings.lease_s):
            self._due.set()
        return self.due()

    def run(self) -> None:
        """Check the models that are due, until there is none or the worker is to stop.

        Raises GpuLost, and what the database raises where it is away: the check is still due then.
        """
        self._due.clear()
        try:
            while not self._stop.is_set() and (due := self._claim()) is not None:
                self._check(due)
        except BaseException:
            # What is in hand is this worker's still, and others leave it alone while it lives.
            self._due.set()
            raise
        self._set_status("")

    def _claim(self) -> Due | None:
        # What this process began before, and did not end, is its own to begin anew.
        alive = workers.alive_ids(self._database, self._settings.lease_s) - {self._worker_id}
        return database.write(
            self._database,
            lambda c: rows.claim(c, self._choice.kind, self._worker_id, alive),
        )

    def _check(self, due: Due) -> None:
        """Check one model, and write what came of it; raises as `run`."""
        try:
            passed, detail = engine_check.check(
                self._settings, self._database, self._worker_id, self._choice, due.model_id,
                self._stop, self._set_status,
            )  # fmt: skip
        except engine_check.Stopped:
            database.write(self._database, lambda c: rows.hand_back(c, due, self._worker_id))
            return
        except GpuLost:
            raise
        except Exception as error:
            if database.away(error):
                raise
            if trouble.of_machine(error):
                log.warning("model %d cannot be tried now: %s", due.model_id, error)
                database.write(self._database, lambda c: rows.hand_back(c, due, self._worker_id))
                return
            # Whatever it was: a worker on which this happens must not serve the model.
            log.exception("model %d could not be tried", due.model_id)
            passed, detail = False, f"it could not be tried: {type(error).__name__}: {error}"
        outcome = "passed its engine check" if passed else "did NOT pass its engine check"
        log.info("model %d %s: %s", due.model_id, outcome, detail)
        database.write(
            self._database, lambda c: rows.decide(c, due, self._worker_id, passed, detail)
        )
