"""Which precision a job computes in: pinned when it is submitted, never chosen by a worker."""

from __future__ import annotations

import sqlalchemy as sa

from db import models
from scheduler import errors

#: What may be asked for; `auto` is the fastest that passed the model's parity gate.
CHOICES = ("auto", "fp32", "bf16", "fp16", "int8")

HELP = (
    "What to compute in; auto is the fastest that passed the model's parity gate: int8, else fp16 "
    "where TensorRT computes and bf16 where a processor does, else fp32."
)


def pin(engine: sa.Engine, model_id: int, asked: str, on: str = "onnx") -> str:
    """The precision to pin for workers of a kind, as `models.best_precision` has them.

    fp16 and int8 may be asked for wherever they passed, on whatever engine. Failure where the model
    may not be computed in the one asked for.
    """
    if asked == "fp32":
        return asked
    if asked == "auto":
        return models.best_precision(engine, model_id, on)
    if asked == "bf16" and on == "tensorrt":
        raise errors.Failure(
            "TensorRT computes in fp32, fp16 or int8; leave --precision out, or give --engine onnx"
        )
    tried = [r for r in models.detail(engine, model_id)["engines"] if r["precision"] == asked]
    usable = models.usable_precisions(engine, model_id, on)
    if asked in usable or (on != "tensorrt" and any(row["passed"] for row in tried)):
        return asked
    why = "it did not pass its parity gate" if tried else "it was not made for that"
    raise errors.Failure(
        f"model {model_id} may not be computed in {asked}: {why}; leave --precision out, or see "
        f"`pneumoq models show {model_id}`"
    )
