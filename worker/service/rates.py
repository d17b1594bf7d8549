"""Rates: models in use whose precisions nobody has measured on this kind of worker, while idle.

How they are measured, worker.scoring.measuring says. A model that has stored predictions keeps
their precision, and is left alone; one of a night is measured in its engine check.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable

import sqlalchemy as sa

from db.base import database
from db.registry import rates
from trainer import errors
from worker.archive import trouble
from worker.config import Settings
from worker.engine import EngineChoice
from worker.errors import EngineError, GpuLost
from worker.machine.gpu_lease import GpuLease
from worker.scoring import measuring

log = logging.getLogger(__name__)

#: What the lock of measuring on this machine's processor is called.
PROCESSOR = "processor"

#: A model whose measuring was interrupted so often is left to other processes.
INTERRUPTIONS = 5


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
        #: Models that need not be looked at again by this process.
        self._settled: set[int] = set()
        #: How often the measuring of a model was interrupted.
        self._interrupted: Counter[int] = Counter()

    def due(self) -> bool:
        """Whether `look` has found a model that `run` has not come to yet."""
        return self._due.is_set()

    def look(self) -> bool:
        """See whether there is a model to measure."""
        if not self.due() and self._next() is not None:
            self._due.set()
        return self.due()

    def run(self, pause: Callable[[], bool]) -> bool:
        """Measure what is due; False where `pause` asked for an end.

        What is left, also while another process has the GPU, is for `look` to find again. Raises
        GpuLost, and what the database raises where it is away.
        """
        gpu = self._choice.gpu
        # Of several workers that share a processor one measures at a time, too.
        lease = GpuLease(PROCESSOR if gpu is None else gpu.uuid, "measuring")
        self._due.clear()
        try:
            if not lease.take():
                return True
            while (model_id := self._next()) is not None:
                if pause() or not self._measured(model_id, pause):
                    return False
        finally:
            lease.release()
            self._set_status("")
        return True

    def _next(self) -> int | None:
        for model_id in rates.unmeasured(self._database, self._choice.kind):
            if model_id in self._settled:
                continue
            one = len(measuring.candidates(self._database, model_id, self._choice)) == 1
            if not one and rates.stored(self._database, model_id) is None:
                return model_id
        return None

    def _measured(self, model_id: int, pause: Callable[[], bool]) -> bool:
        """Measure one model; False where `pause` asked for an end."""
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
            return self._give_way(model_id)
        except GpuLost:
            raise
        except EngineError as error:
            log.warning("model %d cannot be measured: %s", model_id, error)
        except Exception as error:
            if database.away(error):
                raise
            if not trouble.of_machine(error):
                log.exception("model %d could not be measured", model_id)
        if pause():
            return self._give_way(model_id)
        self._settled.add(model_id)
        return True

    def _give_way(self, model_id: int) -> bool:
        """Note that something else goes first; where that is always so, it is left."""
        self._interrupted[model_id] += 1
        if self._interrupted[model_id] >= INTERRUPTIONS:
            self._settled.add(model_id)
        return False
