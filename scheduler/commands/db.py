"""`pneumoq db`: the schema, brought up to date or explained."""

from __future__ import annotations

from typing import Any

import click

from db.base import migrate, schema, views
from scheduler import session
from scheduler.show import output


@click.group("db")
def command() -> None:
    """Bring the schema up to date, or explain it.

    \b
    Examples:
      pneumoq db upgrade
      pneumoq db schema
    """


@command.command("upgrade")
@output.json_option
def upgrade(as_json: bool) -> None:
    """Create the schema, or bring it up to date. Stop workers of release 0.1.0 first.

    All of it happens, or nothing. Running it again changes nothing. Workers of later releases may
    work on meanwhile.

    \b
    Example:
      pneumoq db upgrade
    """
    settings = session.settings()
    engine = session.connect(settings)
    if settings.database_path is not None:
        session.make_private_folder(settings.database_path.parent)
    before = migrate.current(engine)
    migrate.upgrade(engine)
    now = migrate.current(engine)
    if as_json:
        output.emit({"before": before, "revision": now}, as_json=True)
    elif before == now:
        click.echo(f"the schema is up to date ({now})")
    else:
        click.echo(f"the schema is now {now} (before: {before or 'none'})")


@command.command("schema")
@click.option("--tables", is_flag=True, help="Also explain the tables behind the views.")
@output.json_option
def explain(tables: bool, as_json: bool) -> None:
    """Explain the views that `pneumoq query` reads: each column with its meaning.

    Views keep their names and columns. The tables behind them may change with a new version.

    \b
    Example:
      pneumoq db schema --tables
    """
    explained: list[dict[str, Any]] = [
        {"name": v.name, "kind": "view", "meaning": v.comment, "columns": v.columns}
        for v in views.VIEWS
    ]
    if tables:
        explained += [_table(table) for table in schema.metadata.sorted_tables]
    if as_json:
        output.emit(explained, as_json=True)
        return
    for n, relation in enumerate(explained):
        click.echo("\n" * (n > 0) + click.style(relation["name"], bold=True), nl=False)
        click.echo(f"  {relation['meaning']}")
        width = max(map(len, relation["columns"]))
        for column, meaning in relation["columns"].items():
            click.echo(f"    {column:<{width}}  {meaning}")


def _table(table: Any) -> dict[str, Any]:
    return {
        "name": table.name,
        "kind": "table",
        "meaning": table.comment,
        "columns": {column.name: column.comment for column in table.columns},
    }
