"""Which model a job computes with, and in which precision: pinned when it is submitted."""

from __future__ import annotations

import click

from db.registry import aliases
from worker.schedules.fleet import pin

__all__ = ["model_option", "option", "pin"]

#: What may be asked for; `auto` is the fastest that passed the model's parity gate.
CHOICES = ("auto", "fp32", "bf16", "fp16", "int8")

#: The option `--model`, to be resolved by `aliases.resolve`.
model_option = click.option(
    "--model",
    default=aliases.CHAMPION,
    show_default=True,
    help="Alias, number, name or SHA-256 of the model.",
)

#: The option `--precision`, given to the command as `asked`.
option = click.option(
    "--precision", "asked", type=click.Choice(CHOICES), default="auto", show_default=True,
    help="What to compute in; auto is the fastest that passed the model's parity gate: int8, else "
    "fp16 where TensorRT computes and bf16 where a processor does, else fp32.",
)  # fmt: skip
