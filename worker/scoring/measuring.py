"""Measuring: which precision of a model this machine computes fastest, two engines in turns.

What may be computed at all the gates have said; here it is timed. Rows of `db.registry.rates` keep
it, and `worker.schedules.fleet` chooses by them when a job is submitted.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace

import sqlalchemy as sa

from db.base import database as connecting
from db.registry import engines, rates
from db.registry.rates import Rate
from worker.archive import trouble
from worker.config import Settings
from worker.engine import Engine, EngineChoice, speed
from worker.engine.choose import TENSORRT
from worker.engine.progress import Report, silent
from worker.errors import EngineError, GpuLost, OutOfMemory
from worker.machine.gpu_lease import ASK_S, GpuLease
from worker.scoring import serving

log = logging.getLogger(__name__)

#: Of each pair of precisions.
ROUNDS = 12

#: What the lock of measuring on this machine's processor is called.
PROCESSOR = "processor"


def for_now(error: BaseException) -> bool:
    """Whether an error says what the machine or its GPU has run out of for now."""
    met: BaseException | None = error
    while met is not None:
        if isinstance(met, OutOfMemory):
            return True
        met = met.__cause__
    return trouble.of_machine(error)


def candidates(database: sa.Engine, model_id: int, choice: EngineChoice) -> list[str]:
    """The precisions to measure, first the one that is `auto` here now; one: nothing to choose."""
    on = choice.on
    usable = engines.usable_precisions(database, model_id, on) & set(engines.FASTEST[on])
    now = rates.chosen(database, model_id, choice.kind)
    if now != "fp32" and now not in usable:
        now = engines.best_precision(database, model_id, on)
    order = (now, *engines.FASTEST[on], "fp32")
    return [name for name in dict.fromkeys(order) if name in usable or name == "fp32"]


def measure(
    settings: Settings,
    database: sa.Engine,
    model_id: int,
    choice: EngineChoice,
    who: str,
    *,
    only_new: bool = False,
    pause: Callable[[], bool] = lambda: False,
    report: Report = silent,
) -> bool:
    """Measure a model's precisions on this machine, and keep what was found.

    Each is measured beside the one that is `auto` here now, or the next one that can be had. One
    that cannot be opened, or does not agree with the processor, is left out. False where `pause`
    asked for an end, where none can be had, or where the model was given another one meanwhile:
    nothing is kept then. With `only_new` rows that are
    there already stay. To be called in the thread that may own a GPU's context, with the GPU's
    lease. Raises GpuLost, what `report` raises, what the machine has run out of, and what the
    database raises.
    """
    lender = _Lender(settings, database, model_id, choice, who, report)
    with _alone(choice, pause) as alone, lender:
        if not alone:
            return False
        if only_new and rates.chosen(database, model_id, choice.kind) is not None:
            return True
        having = [name for name in candidates(database, model_id, choice) if lender.has(name)]
        if not having:
            return False
        known = rates.known(database, model_id)
        now, *others = having
        speeds: list[float] = []
        found: list[Rate] = []
        for other in others:
            both = speed.in_turns(lender.of(now), lender.of(other), ROUNDS, pause)
            if both is None:
                return False
            speeds += both[0]
            ratios = [new / old for old, new in zip(*both, strict=True)]
            found.append(Rate(other, statistics.median(both[1]), speed.interval(ratios)))
        with lender.of(now)() as engine:
            batch = engine.batch
            while len(speeds) < ROUNDS:
                if pause():
                    return False
                speeds.append(speed.rate(engine, speed.SLICE_S))
    measured = [Rate(now, statistics.median(speeds)), *found]
    best = connecting.write(
        database,
        lambda c: rates.keep(
            c, model_id, choice.kind, measured, batch=batch, rounds=ROUNDS, who=who,
            only_new=only_new, known=known,
        ),
    )  # fmt: skip
    log.info("model %d: auto is %s on %s", model_id, best, choice.kind)
    return best is not None


@contextmanager
def _alone(choice: EngineChoice, pause: Callable[[], bool]) -> Iterator[bool]:
    """Of several workers that share a processor one measures at a time; False where `pause` asked
    for an end meanwhile. A GPU's lease is the caller's."""
    lease = GpuLease(PROCESSOR, "measuring")
    try:
        yield choice.gpu is not None or _had(lease, pause)
    finally:
        lease.release()


def _had(lease: GpuLease, pause: Callable[[], bool]) -> bool:
    try:
        while not lease.take():
            if pause():
                return False
            time.sleep(ASK_S)
    except OSError as error:
        log.warning("other workers of this machine may measure at the same time: %s", error)
    return True


class _Lender:
    """Engines of one model by precision. On a processor they stay open until the end; on a GPU one
    is open at a time, since of two each would have less of its memory."""

    def __init__(
        self,
        settings: Settings,
        database: sa.Engine,
        model_id: int,
        choice: EngineChoice,
        who: str,
        report: Report,
    ) -> None:
        self._settings, self._database, self._model_id = settings, database, model_id
        self._choice, self._who, self._report = choice, who, report
        self._open: dict[str, Engine] = {}
        self._kept = ExitStack()

    def __enter__(self) -> None:
        """What stays open is closed at the end."""

    def __exit__(self, *raised: object) -> None:
        self._kept.close()

    def has(self, precision: str) -> bool:
        """Whether the engine can be had."""
        try:
            with self.of(precision)():
                return True
        except GpuLost:
            raise
        except EngineError as error:
            if for_now(error):
                raise
            log.warning("model %d is not measured in %s: %s", self._model_id, precision, error)
            return False

    def of(self, precision: str) -> speed.Lent:
        """What lends the engine."""

        @contextmanager
        def lent() -> Iterator[Engine]:
            if self._choice.gpu is not None:
                with closing(self._opened(precision)) as engine:
                    yield engine
                return
            if precision not in self._open:
                self._open[precision] = self._kept.enter_context(closing(self._opened(precision)))
            yield self._open[precision]

        return lent

    def _opened(self, precision: str) -> Engine:
        self._report(f"measuring model {self._model_id} in {precision}", 0, 0)
        choice = self._choice
        if choice.on == TENSORRT:
            choice = replace(choice, asked=TENSORRT)  # nothing is to take its place
        engine = serving.serve(
            self._settings, self._database, self._model_id, precision, choice, self._report,
            worker_id=self._who,
        )  # fmt: skip
        if engine.backend != self._choice.backend:
            engine.close()
            raise EngineError(f"{serving.described(engine)} took its place")
        return engine
