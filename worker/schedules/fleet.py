"""The fleet: what the scoring workers that are there compute with, and the precision for a job.

A precision is pinned when a job is submitted, whoever submits it, and never chosen by a worker.
"""

from __future__ import annotations

from collections.abc import Collection, Set
from typing import NamedTuple

import sqlalchemy as sa

from db.base import workers
from db.registry import engines, models, rates
from worker.errors import PrecisionRefused


class Machines(NamedTuple):
    """What a precision is chosen for."""

    #: `onnx`, `tensorrt` or `either`.
    on: str = "onnx"
    #: `EngineChoice.kind` of each worker, as often as there are such; none where it is not known.
    kinds: tuple[str, ...] = ()


class Pinned(NamedTuple):
    """A precision, and why it is this one, a clause."""

    precision: str
    why: str


def kind(served: Collection[str]) -> str:
    """Of one worker that serves these words, the kind that a precision is chosen for."""
    return "tensorrt" if "tensorrt" in served else "onnx"


def there(database: sa.Engine, asked: str | None) -> Machines:
    """The machines that a job's precision is chosen for.

    Those of the scoring workers that answered lately and may score a job with this `jobs.engine`.
    """
    alive = workers.serving(database, asked)
    kinds = tuple(str(row["versions"].get("proves", "")) for row in alive)
    words = {kind(workers.kinds(row)) for row in alive}
    if asked is not None:
        return Machines(asked, kinds)
    if not words:
        return Machines()
    return Machines(words.pop() if len(words) == 1 else "either", kinds)


def pin(engine: sa.Engine, model_id: int, asked: str, machines: Machines) -> Pinned:
    """The precision to pin for these machines.

    `auto` is that of most of the model's stored predictions, which another one would not answer;
    where there are none, that in which the machines were measured to be fastest; where they were
    not, the first of a fixed order (`db.registry.engines.FASTEST`) that passed its gate. fp16 and
    int8 may be asked for wherever they passed, on whatever engine. Raises PrecisionRefused where
    the model may not be computed in the one asked for.
    """
    on = machines.on
    if asked == "fp32":
        return Pinned(asked, "as asked")
    usable = engines.usable_precisions(engine, model_id, on)
    if asked == "auto":
        return _auto(engine, model_id, machines, usable)
    if asked == "bf16" and on == "tensorrt":
        raise PrecisionRefused(
            "TensorRT computes in fp32, fp16 or int8; leave --precision out, or give --engine onnx"
        )
    tried = [r for r in models.detail(engine, model_id)["engines"] if r["precision"] == asked]
    if asked in usable or (on != "tensorrt" and any(row["passed"] for row in tried)):
        return Pinned(asked, "as asked")
    why = "it did not pass its parity gate" if tried else "it was not made for that"
    raise PrecisionRefused(
        f"model {model_id} may not be computed in {asked}: {why}; leave --precision out, or see "
        f"`pneumoq models show {model_id}`"
    )


def _auto(engine: sa.Engine, model_id: int, machines: Machines, usable: Set[str]) -> Pinned:
    if not usable - {"fp32"}:
        return Pinned("fp32", "the only one that it may be computed in")
    # A machine may lack what a precision needs: not every processor has bfloat16.
    rows = rates.of_model(engine, model_id)
    lacking = rates.lacking(rows, machines.kinds) & {*engines.FASTEST[machines.on]}
    usable = usable - lacking | {"fp32"}
    kept = rates.stored(engine, model_id)
    # bf16 is computed by processors alone.
    if kept in usable and not (kept == "bf16" and machines.on != "onnx"):
        return Pinned(str(kept), "as most of its stored predictions are")
    measured = rates.fastest(rows, machines.kinds, usable)
    if measured is not None:
        return Pinned(measured, "measured to be fastest where it will run")
    best = engines.first(machines.on, usable)
    return Pinned(best, "as a rule the fastest that passed its parity gate")
