"""Which model a job computes with, and in which precision: pinned when it is submitted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    # What names options only must not wait for it to load.
    import sqlalchemy as sa

    from worker.schedules.fleet import Machines, Pinned

#: `db.registry.aliases.CHAMPION`; a test holds them equal.
CHAMPION = "champion"

#: What may be asked for; `auto` is chosen among those that passed the model's parity gate.
CHOICES = ("auto", "fp32", "bf16", "fp16", "int8")

#: The option `--model`, to be resolved by `aliases.resolve`.
model_option = click.option(
    "--model",
    default=CHAMPION,
    show_default=True,
    help="Alias, number, name or SHA-256 of the model.",
)

#: The option `--precision`, given to the command as `asked`.
option = click.option(
    "--precision", "asked", type=click.Choice(CHOICES), default="auto", show_default=True,
    help="What to compute in; auto is that of most of the model's stored predictions, where there "
    "are any, else the fastest that passed the model's parity gate, as measured on the machines "
    "there (`pneumoq models measure`); where nothing was measured int8, else fp16 where TensorRT "
    "computes and bf16 where a processor does, else fp32.",
)  # fmt: skip


def pin(engine: sa.Engine, model_id: int, asked: str, machines: Machines) -> Pinned:
    """As `worker.schedules.fleet.pin`."""
    from worker.schedules import fleet

    return fleet.pin(engine, model_id, asked, machines)
