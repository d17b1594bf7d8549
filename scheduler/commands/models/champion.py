"""`pneumoq models promote` and `rollback`: which model is in use."""

from __future__ import annotations

import click

from db.base import database
from db.registry import aliases, models
from scheduler import session
from scheduler.show import output


@click.command("promote")
@click.argument("model")
@click.option("--reason", help="Why; kept in the models' history.")
@output.json_option
def promote(model: str, reason: str | None, as_json: bool) -> None:
    """Make a model the champion: jobs submitted from now on use it.

    Jobs that are submitted already keep theirs. Models that nights make are compared with this one
    from now on, as the anchor, also once another has taken its place; of the champion itself, that
    a night promoted, it says that a person stands by it.

    \b
    Example:
      pneumoq models promote 3 --reason "better on the portable films"
    """
    engine = session.database()
    row = aliases.resolve(engine, model)
    who = session.who()
    why = reason or f"promoted by {who}"
    before = database.write(
        engine,
        lambda connection: aliases.move(connection, aliases.CHAMPION, row["id"], who, why),
    )
    if as_json:
        changed = {"model_id": row["id"], "name": row["name"], "champion": True}
        output.emit({**changed, "champion_before": before}, as_json=True)
    else:
        instead = f" instead of model {before}" if before not in (None, row["id"]) else ""
        click.echo(f"model {row['id']} ({row['name']}) is now the champion{instead}")


@click.command("rollback")
@click.option("--reason", help="Why; kept in the models' history.")
@output.json_option
def rollback(reason: str | None, as_json: bool) -> None:
    """Make the champion before this one the champion again; given twice it goes back two.

    Jobs that are submitted already keep theirs. Nothing is computed: the same file as before gives
    the same probabilities as before. It is the anchor of later nights, as one that was promoted is.

    \b
    Example:
      pneumoq models rollback --reason "too many false alarms since Monday"
    """
    engine, who = session.database(), session.who()
    why = reason or f"rolled back by {who}"
    now, before = database.write(
        engine, lambda connection: aliases.rollback(connection, aliases.CHAMPION, who, why)
    )
    row = models.get(engine, now)
    if as_json:
        changed = {"model_id": now, "name": row["name"], "champion": True}
        output.emit({**changed, "champion_before": before}, as_json=True)
    else:
        click.echo(f"model {now} ({row['name']}) is the champion again, instead of model {before}")
