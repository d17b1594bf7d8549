"""Engine check: a new model is tried on this machine before it may become the champion anywhere.

The films are drawn, the same ones on every machine; the scores that training's own PyTorch gave
them came with the model. So a processor that computes otherwise, a broken driver or a library with
a fault shows before a patient's film is scored by it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import sqlalchemy as sa

from db.base import database as connecting
from db.registry import models, rates
from trainer import errors
from worker.archive import trouble
from worker.config import Settings
from worker.engine import EngineChoice, gate
from worker.engine.base import Engine
from worker.errors import EngineError, GpuLost, WorkerError
from worker.machine.gpu_lease import ASK_S, GpuLease
from worker.scoring import measuring, serving

log = logging.getLogger(__name__)

#: Of a faster precision, 99 % of probabilities must be this near to those of the same file where it
#: was made: far enough that another processor's rounding passes, and near enough that saturated
#: integers do not. It is not held to fp32: drawn films are no X-rays, on which it was measured.
COARSE = 0.1


class Stopped(WorkerError):
    """The worker is to stop; nothing was found out."""


def check(
    settings: Settings,
    database: sa.Engine,
    worker_id: str,
    choice: EngineChoice,
    model_id: int,
    stop: threading.Event,
    set_status: Callable[[str], object] = lambda text: None,
) -> tuple[bool, str]:
    """Whether this machine computes a model as training did, and a sentence about it.

    fp32 must agree with training's PyTorch to rounding; then the precisions that jobs may be
    computed in here are made ready as they would be for a job: on a GPU their engines are built and
    pass their own gate. How fast they are is measured first. To be called in the thread that may
    own a GPU's context. Raises Stopped and GpuLost, and what the database raises that is away:
    neither tells anything of the model. `set_status` has the worker's row say what is tried.
    """
    row = models.get(database, model_id)
    golden = (row["reference"] or {}).get("golden")
    found = []
    try:
        with _gpu(choice, stop):
            if len(measuring.candidates(database, model_id, choice)) > 1:
                set_status(f"measuring the precisions of model {model_id}")
                _measure(settings, database, worker_id, choice, model_id, stop)
            auto, *_ = measuring.candidates(database, model_id, choice)
            measured = rates.of_kind(database, model_id, choice.kind)
            for precision in dict.fromkeys(("fp32", auto, *measured)):
                if stop.is_set():
                    raise Stopped("the worker was stopped")
                set_status(f"checking model {model_id} in {precision}")
                try:
                    engine = serving.serve(
                        settings, database, model_id, precision, choice, _until(stop),
                        worker_id=worker_id,
                    )  # fmt: skip
                except EngineError as error:
                    if isinstance(error, GpuLost) or precision in ("fp32", auto):
                        raise
                    if measuring.for_now(error):
                        raise
                    # It was measured on another machine that is called the same.
                    log.warning("%s is not tried here: %s", precision, error)
                    continue
                try:
                    found.append(_tried(engine, choice, golden))
                finally:
                    engine.close()
    except errors.Stopped as error:  # a build that was interrupted
        raise Stopped(str(error)) from error
    except GpuLost:
        raise
    except EngineError as error:
        if trouble.of_machine(error):
            raise  # that is no fault of the model's
        return False, str(error)
    return True, "; ".join(found)


def _measure(
    settings: Settings,
    database: sa.Engine,
    worker_id: str,
    choice: EngineChoice,
    model_id: int,
    stop: threading.Event,
) -> None:
    """Measure the model's precisions; what goes wrong in that says nothing of its answers."""
    try:
        measuring.measure(
            settings, database, model_id, choice, worker_id, only_new=True, pause=stop.is_set,
            report=_until(stop),
        )  # fmt: skip
    except (GpuLost, errors.Stopped, Stopped):
        raise
    except Exception as error:
        if connecting.away(error) or trouble.of_machine(error):
            raise
        log.exception("model %d could not be measured", model_id)


def _tried(engine: Engine, choice: EngineChoice, golden: dict[str, Any] | None) -> str:
    """How near an engine is to training, a clause; EngineError where it is too far off."""
    if engine.backend != choice.backend:
        raise EngineError(
            f"{engine.precision} does not run on {choice.kind}; {serving.described(engine)} took "
            "its place"
        )
    golden = golden or {}
    by_training = (
        golden.get("scores") if engine.precision == "fp32" else golden.get(engine.precision)
    )
    if by_training is None:
        return f"{engine.precision} runs"
    expected = np.asarray(by_training, np.float64)
    scores = gate.answers(engine, gate.golden(engine.card)).scores.astype(np.float64)
    if scores.shape != expected.shape:
        raise EngineError(f"{engine.precision} gives {scores.shape}, and training {expected.shape}")
    off = np.nan_to_num(np.abs(scores - expected), nan=1.0).max(1)
    largest, most = float(off.max()), float(np.percentile(off, 99))
    limit = gate.LIMITS["fp32"].probability
    if engine.precision == "fp32" and largest > limit:
        raise EngineError(
            f"fp32 differs from training by up to {largest:.2g} in probability on {len(off)} drawn "
            f"films (limit {limit:g})"
        )
    if most > COARSE:
        raise EngineError(
            f"{engine.precision} differs from training by {most:.2g} in probability (99th "
            f"percentile of {len(off)} drawn films; limit {COARSE:g})"
        )
    return f"{engine.precision} within {largest:.2g} of training on {len(off)} drawn films"


@contextlib.contextmanager
def _gpu(choice: EngineChoice, stop: threading.Event) -> Iterator[None]:
    """Hold the GPU's lease, where one is used."""
    if choice.gpu is None:
        yield
        return
    lease = GpuLease(choice.gpu.uuid, "an engine check")
    try:
        while not lease.take():
            if stop.wait(ASK_S):
                raise Stopped("the worker was stopped")
        yield
    finally:
        lease.release()


def _until(stop: threading.Event) -> Callable[[str, int, int], None]:
    """A report of a build that ends it when the worker is to stop."""

    def report(phase: str, step: int, steps: int) -> None:
        if stop.is_set():
            raise Stopped("the worker was stopped")

    return report
