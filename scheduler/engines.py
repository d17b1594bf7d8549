"""Which engine films are scored with: the option, who serves what was asked, and that nobody does.

A job's engine is a word for workers (`jobs.engine`); a command that computes here and now turns the
same word into a choice of this machine's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from worker import config
from worker.config import Settings

if TYPE_CHECKING:
    # What names options only must not wait for it to load.
    import sqlalchemy as sa

    from worker.engine import EngineChoice
    from worker.schedules.fleet import Machines

F = TypeVar("F", bound=Callable[..., Any])

CHOICES = config.CHOICES["engine"]

#: jobs.engine → a worker that serves it, in words.
WANTED = {"tensorrt": "a worker with TensorRT", "onnx": "a worker that scores without TensorRT"}


def option(meaning: str) -> Callable[[F], F]:
    """The option `--engine`, given to the command as `asked_engine`; None where it is left out."""
    return click.option("--engine", "asked_engine", type=click.Choice(CHOICES), help=meaning)


#: For commands that compute on this machine.
here = option(
    "What to compute with: TensorRT on a GPU, the ONNX file as it is, or the best there is (auto). "
    "Default: PNEUMOQ_ENGINE."
)


def settings_of(settings: Settings, asked: str | None) -> Settings:
    """The settings with this engine in them, where one was asked for."""
    return settings if asked is None else replace(settings, engine=asked)


def stored(asked: str | None) -> str | None:
    """The word as it is kept in jobs.engine."""
    return None if asked == "auto" else asked


def there(database: sa.Engine, asked: str | None) -> Machines:
    """As `worker.schedules.fleet.there`."""
    from worker.schedules import fleet

    return fleet.there(database, asked)


def this_machine(settings: Settings) -> Machines:
    """This machine, as a worker on it would be. Raises EngineError as `choose`."""
    from worker import engine

    return of(engine.choose(settings))


def of(choice: EngineChoice) -> Machines:
    """The machine that has this engine."""
    from worker.schedules import fleet

    return fleet.Machines(choice.on, (choice.kind,))


def waits(database: sa.Engine, asked: str | None) -> str | None:
    """What a job that asks for this engine waits for, as a sentence; None where it is served."""
    if asked is None:
        return None
    from db.base import workers

    if workers.serving(database, asked):
        return None
    return f"waits for {WANTED[asked]}; alive are: {_named(workers.alive(database, 'score'))}"


def _named(rows: Sequence[sa.RowMapping]) -> str:
    """Workers by what they compute with, without the reasons, and where."""
    named = dict.fromkeys(
        f"{(row['engine'] or 'unknown').partition(': ')[0]} on {row['host']}" for row in rows
    )
    return ", ".join(named) or "none"
