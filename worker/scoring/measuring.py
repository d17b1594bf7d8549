"""Measuring: which precision of a model this machine computes fastest, two engines in turns.

What may be computed at all the gates have said; here it is timed. Rows of `db.registry.rates` keep
it, and `worker.schedules.fleet` chooses by them when a job is submitted.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable
from contextlib import closing

import sqlalchemy as sa

from db.base import database as connecting
from db.registry import engines, rates
from db.registry.rates import Rate
from worker.config import Settings
from worker.engine import Engine, EngineChoice, speed
from worker.engine.progress import Report, silent
from worker.errors import EngineError, GpuLost
from worker.scoring import serving

log = logging.getLogger(__name__)

#: Of each pair of precisions.
ROUNDS = 12


def of_kind(choice: EngineChoice) -> str:
    """The kind of worker, in the words that a precision is chosen by."""
    return "tensorrt" if choice.backend.startswith("tensorrt") else "onnx"


def candidates(database: sa.Engine, model_id: int, choice: EngineChoice) -> list[str]:
    """The precisions to measure, first the one that is `auto` here now; one: nothing to choose."""
    on = of_kind(choice)
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

    Each is measured beside the one that is `auto` here now. One that cannot be opened, or does not
    agree with the processor, is left out. False where `pause` asked for an end, or where that one
    itself cannot be had: nothing is kept then. With `only_new` rows that are there already stay.
    To be called in the thread that may own a GPU's context, with the GPU's lease. Raises GpuLost,
    what `report` raises, and what the database raises.
    """
    if only_new and rates.chosen(database, model_id, choice.kind) is not None:
        return True
    now, *others = candidates(database, model_id, choice)

    def opened(precision: str) -> Engine | None:
        report(f"measuring model {model_id} in {precision}", 0, 0)
        try:
            engine = serving.serve(
                settings, database, model_id, precision, choice, report, worker_id=who
            )
        except GpuLost:
            raise
        except EngineError as error:
            log.warning("model %d is not measured in %s: %s", model_id, precision, error)
            return None
        if engine.backend != choice.backend:
            engine.close()  # something else took its place
            return None
        return engine

    current = opened(now)
    if current is None:
        return False
    with closing(current):
        speeds: list[float] = []
        found: list[Rate] = []
        for precision in others:
            other = opened(precision)
            if other is None:
                continue
            with closing(other):
                both = speed.in_turns(current, other, ROUNDS, pause)
            if both is None:
                return False
            speeds += both[0]
            ratios = [new / old for old, new in zip(*both, strict=True)]
            found.append(Rate(precision, statistics.median(both[1]), speed.interval(ratios)))
        speeds = speeds or [speed.rate(current, speed.SLICE_S) for _ in range(ROUNDS)]
        measured = [Rate(now, statistics.median(speeds)), *found]
        batch = current.batch
    best = connecting.write(
        database,
        lambda c: rates.keep(
            c, model_id, choice.kind, measured, batch=batch, rounds=ROUNDS, who=who,
            only_new=only_new,
        ),
    )  # fmt: skip
    log.info("model %d: auto is %s on %s", model_id, best, choice.kind)
    return True
