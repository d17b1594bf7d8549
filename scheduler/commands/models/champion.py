"""`pneumoq models promote` and `rollback`: which model is in use."""

from __future__ import annotations

import click
import sqlalchemy as sa

from db.base import database
from db.registry import aliases, models
from scheduler import session
from scheduler.show import output

#: Of both commands.
_other_classes = click.option(
    "--other-classes",
    is_flag=True,
    help="Also where the model has other classes, or another disease, than the champion.",
)


@click.command("promote")
@click.argument("model")
@click.option("--reason", help="Why; kept in the models' history.")
@_other_classes
@output.json_option
def promote(model: str, reason: str | None, other_classes: bool, as_json: bool) -> None:
    """Make a model the champion: jobs submitted from now on use it.

    Jobs that are submitted already keep theirs. Models that nights make are compared with this one
    from now on, as the anchor, also once another has taken its place; of the champion itself, that
    a night promoted, it says that a person stands by it. A model of other classes or of another
    disease than the champion's is refused without --other-classes: jobs that name no model would
    be scored for something else.

    \b
    Example:
      pneumoq models promote 3 --reason "better on the portable films"
    """
    engine, who = session.database(), session.who()
    row = aliases.resolve(engine, model)
    why = reason or f"promoted by {who}"

    def move(connection: sa.Connection) -> tuple[int | None, str]:
        before = aliases.move(
            connection, aliases.CHAMPION, row["id"], who, why, other_classes=other_classes
        )
        return before, _differs(connection, row["id"], before)

    before, differs = database.write(engine, move)
    if as_json:
        _emit(row, before)
    else:
        instead = f" instead of model {before}" if before not in (None, row["id"]) else ""
        click.echo(f"model {row['id']} ({row['name']}) is now the champion{instead}{differs}")


@click.command("rollback")
@click.option("--reason", help="Why; kept in the models' history.")
@_other_classes
@output.json_option
def rollback(reason: str | None, other_classes: bool, as_json: bool) -> None:
    """Make the champion before this one the champion again; given twice it goes back two.

    Jobs that are submitted already keep theirs. Nothing is computed: the same file as before gives
    the same probabilities as before. It is the anchor of later nights, as one that was promoted is.

    \b
    Example:
      pneumoq models rollback --reason "too many false alarms since Monday"
    """
    engine, who = session.database(), session.who()
    why = reason or f"rolled back by {who}"

    def back(connection: sa.Connection) -> tuple[int, int, str]:
        now, before = aliases.rollback(
            connection, aliases.CHAMPION, who, why, other_classes=other_classes
        )
        return now, before, _differs(connection, now, before)

    now, before, differs = database.write(engine, back)
    row = models.get(engine, now)
    if as_json:
        _emit(row, before)
    else:
        click.echo(
            f"model {now} ({row['name']}) is the champion again, instead of model {before}{differs}"
        )


def _differs(connection: sa.Connection, now: int, before: int | None) -> str:
    """Both models' classes and diseases, to be added to a sentence; empty where they are equal."""
    found = "" if before is None else aliases.difference(connection, now, before, "former champion")
    return f": {output.printable(found)}" if found else ""


def _emit(row: sa.RowMapping, before: int | None) -> None:
    changed = {"model_id": row["id"], "name": row["name"], "champion": True}
    output.emit({**changed, "champion_before": before}, as_json=True)
