"""Rates: models in use whose precisions nobody has measured on this kind of worker, while idle.

How they are measured, worker.scoring.measuring says. A model that has stored predictions keeps
their precision, and is left alone; one of a night is measured in its engine check.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import sqlalchemy as sa

from db.base import database
from db.registry import rates
from trainer import errors
from worker.config import Settings
from worker.engine import EngineChoice
from worker.errors import GpuLost
from worker.machine.gpu_lease import GpuLease
from worker.scoring import measuring

log = logging.getLogger(__name__)

#: After measuring was interrupted, or the machine had run out of something, it begins again at the
#: earliest after so many seconds.
AGAIN_S = 120.0


class _Interrupted(errors.Stopped):
    """Something else is to be done first; a build that is begun ends."""


class Rates:
    """The measuring of one worker process.

    `look` may be called by any thread; `run` by the one that may own a GPU's context.
    """

    def __init__(
        self,
        settings: Settings,
        engine: sa.Engine,
        worker_id: str,
        choice: EngineChoice,
        set_status: Callable[[str], object] = lambda text: None,
    ) -> None:
        """`choice` is what this process scores with; `set_status` takes words for its row."""
        self._settings = settings
        self._database = engine
        self._worker_id = worker_id
        self._choice = choice
        self._set_status = set_status
        self._due = threading.Event()
        #: Models that cannot be measured here, with the precisions that they had.
        self._settled: set[tuple[int, tuple[str, ...]]] = set()
        self._not_before = 0.0

    def due(self) -> bool:
        """Whether `look` has found a model that `run` has not come to yet."""
        return self._due.is_set()

    def look(self) -> bool:
        """See whether there is a model to measure."""
        if not self.due() and time.monotonic() >= self._not_before and self._next() is not None:
            self._due.set()
        return self.due()

    def run(self, pause: Callable[[], bool]) -> bool:
        """Measure what is due; False where `pause` asked for an end.

        What is left, also while another process has the GPU, is for `look` to find again. Raises
        GpuLost, and what the database raises where it is away.
        """
        gpu = self._choice.gpu
        lease = None if gpu is None else GpuLease(gpu.uuid, "measuring")
        self._due.clear()
        try:
            if lease is not None and not lease.take():
                return True
            while (model := self._next()) is not None:
                if pause() or not self._measured(*model, pause):
                    self._not_before = time.monotonic() + AGAIN_S
                    return not pause()
        finally:
            if lease is not None:
                lease.release()
            self._set_status("")
        return True

    def _next(self) -> tuple[int, tuple[str, ...]] | None:
        """A model to measure, and its precisions."""
        for model_id in rates.unmeasured(self._database, self._choice.kind):
            names = measuring.candidates(self._database, model_id, self._choice)
            if len(names) == 1 or (model_id, tuple(names)) in self._settled:
                continue
            if rates.stored(self._database, model_id) is None:
                return model_id, tuple(names)
        return None

    def _measured(self, model_id: int, names: tuple[str, ...], pause: Callable[[], bool]) -> bool:
        """Measure one model; False where it is to be tried again later."""
        self._set_status(f"measuring the precisions of model {model_id}")

        def report(phase: str, step: int, steps: int) -> None:
            if pause():
                raise _Interrupted("there is other work")

        try:
            measuring.measure(
                self._settings, self._database, model_id, self._choice, self._worker_id,
                only_new=True, pause=pause, report=report,
            )  # fmt: skip
        except errors.Stopped:
            return False
        except GpuLost:
            raise
        except Exception as error:
            if database.away(error):
                raise
            if measuring.for_now(error):
                log.warning("model %d cannot be measured now: %s", model_id, error)
                return False
            log.exception("model %d could not be measured", model_id)
        if pause():
            return False
        if model_id in rates.unmeasured(self._database, self._choice.kind):
            self._settled.add((model_id, names))
        return True
