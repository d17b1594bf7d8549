"""`pneumoq shares`: who shares the workers, and how much of them each one gets."""

from __future__ import annotations

import click

from db.base import database
from db.queue import shares
from scheduler import numbers, session
from scheduler.show import output

COLUMNS = ("key", "weight", "jobs", "films", "at_work")


@click.group("shares")
def command() -> None:
    """See who shares the workers, and give somebody more or less of them.

    Scoring jobs of one priority take turns by their key: the user who submitted them, the schedule,
    or what `score --for KEY` says. Over time each key gets the same time of the workers, whatever
    its films take; one with weight 2 gets twice as much. A key alone gets all.

    \b
    Example:
      pneumoq shares set emergency 4
    """


@command.command("ls")
@output.json_option
def ls(as_json: bool) -> None:
    """List keys with open scoring jobs, and those whose weight is not 1.

    films are listed and not done, at_work are shards that workers have.

    \b
    Example:
      pneumoq shares ls
    """
    rows = shares.listing(session.database())
    output.emit(
        rows,
        as_json=as_json,
        columns=COLUMNS,
        nothing="nobody has open scoring jobs; `pneumoq shares set KEY WEIGHT` gives a weight",
    )


@command.command("set")
@click.argument("key")
@click.argument("weight", type=numbers.Real(0.01, 100))
def set_(key: str, weight: float) -> None:
    """Give a key so many times what others get, from the next claim on; 1 is as others.

    \b
    Examples:
      pneumoq shares set emergency 4
      pneumoq shares set "schedule inbox" 0.5
    """
    if len(key) > shares.LONGEST_KEY or not key.strip():
        raise click.BadParameter(f"give 1 to {shares.LONGEST_KEY} characters", param_hint="KEY")
    engine = session.database()
    database.write(engine, lambda c: shares.set_weight(c, key, weight, session.who()))
    click.echo(f"{output.printable(key)} has weight {weight:g}.")
