"""Which precision a job computes in: pinned when it is submitted, never chosen by a worker."""

from __future__ import annotations

import sqlalchemy as sa

from db import models
from scheduler import errors

#: What may be asked for; `auto` is the fastest that passed the model's parity gate.
CHOICES = ("auto", "fp32", "bf16", "int8")


def pin(engine: sa.Engine, model_id: int, asked: str) -> str:
    """The precision to pin; Failure where the model may not be computed in the one asked for."""
    if asked == "fp32":
        return asked
    if asked == "auto":
        return models.best_precision(engine, model_id)
    built = models.detail(engine, model_id)["engines"]
    gates = [row for row in built if row["precision"] == asked and row["backend"] == "openvino"]
    if any(row["passed"] for row in gates):
        return asked
    why = "it did not pass its parity gate" if gates else "it was not made for that"
    raise errors.Failure(
        f"model {model_id} may not be computed in {asked}: {why}; leave --precision out, or see "
        f"`pneumoq models show {model_id}`"
    )
