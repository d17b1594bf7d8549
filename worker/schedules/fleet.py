"""The fleet: what the scoring workers that are there compute with, and the precision for a job.

A precision is pinned when a job is submitted, whoever submits it, and never chosen by a worker.
"""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from db.base import workers
from db.registry import engines, models
from worker.errors import PrecisionRefused


def kind(served: Collection[str]) -> str:
    """Of one worker that serves these words, the kind that a precision is chosen for."""
    return "tensorrt" if "tensorrt" in served else "onnx"


def kind_of_fleet(database: sa.Engine, asked: str | None) -> str:
    """The kind of worker that a job's precision is chosen for: `onnx`, `tensorrt` or `either`.

    That asked for; else what the scoring workers are that answered lately.
    """
    if asked is not None:
        return asked
    kinds = {kind(workers.kinds(row)) for row in workers.alive(database, "score")}
    if not kinds:
        return "onnx"
    return kinds.pop() if len(kinds) == 1 else "either"


def pin(engine: sa.Engine, model_id: int, asked: str, on: str = "onnx") -> str:
    """The precision to pin for workers of a kind, as `db.registry.engines.best_precision` has them.

    fp16 and int8 may be asked for wherever they passed, on whatever engine. Raises PrecisionRefused
    where the model may not be computed in the one asked for.
    """
    if asked == "fp32":
        return asked
    if asked == "auto":
        return engines.best_precision(engine, model_id, on)
    if asked == "bf16" and on == "tensorrt":
        raise PrecisionRefused(
            "TensorRT computes in fp32, fp16 or int8; leave --precision out, or give --engine onnx"
        )
    tried = [r for r in models.detail(engine, model_id)["engines"] if r["precision"] == asked]
    usable = engines.usable_precisions(engine, model_id, on)
    if asked in usable or (on != "tensorrt" and any(row["passed"] for row in tried)):
        return asked
    why = "it did not pass its parity gate" if tried else "it was not made for that"
    raise PrecisionRefused(
        f"model {model_id} may not be computed in {asked}: {why}; leave --precision out, or see "
        f"`pneumoq models show {model_id}`"
    )
