"""Which precision a job computes in: pinned when it is submitted, never chosen by a worker."""

from __future__ import annotations

from worker.schedules.fleet import pin

__all__ = ["CHOICES", "HELP", "pin"]

#: What may be asked for; `auto` is the fastest that passed the model's parity gate.
CHOICES = ("auto", "fp32", "bf16", "fp16", "int8")

HELP = (
    "What to compute in; auto is the fastest that passed the model's parity gate: int8, else fp16 "
    "where TensorRT computes and bf16 where a processor does, else fp32."
)
