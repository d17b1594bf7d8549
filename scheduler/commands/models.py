"""`pneumoq models`: what was trained or imported, how good it is, and which one is in use."""

from __future__ import annotations

from typing import Any

import click

from db import database, models
from scheduler import output, session
from scheduler.errors import Failure

LIST_COLUMNS = (
    "model", "name", "champion", "state", "origin", "val_auroc", "threshold", "size", "created",
)  # fmt: skip


@click.group("models")
def command() -> None:
    """List models; choose the champion, which `score` uses.

    MODEL is a number, a name, an alias such as `champion`, or the start of a file's SHA-256.

    \b
    Examples:
      pneumoq models ls
      pneumoq models promote 3 --reason "better on the portable films"
    """


@command.command("ls")
@output.json_option
def ls(as_json: bool) -> None:
    """List models, newest first.

    \b
    Example:
      pneumoq models ls --json
    """
    rows = models.listing(session.database())
    if as_json:
        output.emit(rows, as_json=True)
        return
    output.emit(
        [
            {
                "model": row["model_id"],
                "name": row["name"],
                "champion": "champion" if row["champion"] else "",
                "state": row["state"],
                "origin": row["origin"],
                "val_auroc": row["metrics"].get("auroc"),
                "threshold": row["threshold"],
                "size": row["size"],
                "created": output.when(row["created_at"]),
            }
            for row in rows
        ],
        as_json=False,
        columns=LIST_COLUMNS,
        nothing="no models yet; `pneumoq train FOLDER` makes one",
    )


@command.command("show")
@click.argument("model")
@output.json_option
def show(model: str, as_json: bool) -> None:
    """Show all that is known of a model: provenance, metrics, files, engines, history.

    \b
    Example:
      pneumoq models show champion
    """
    engine = session.database()
    row = models.resolve(engine, model)
    detail = models.detail(engine, row["id"])
    (listed,) = [m for m in models.listing(engine) if m["model_id"] == row["id"]]
    champion = bool(listed["champion"])
    if as_json:
        output.emit({**row, "champion": champion, **detail}, as_json=True)
        return
    facts: dict[str, Any] = {k: v for k, v in row.items() if k not in ("metrics", "card")}
    facts["champion"] = champion
    facts["labels"] = ", ".join(label["name"] for label in detail["labels"])
    output.facts(facts)
    if row["metrics"]:
        _heading("Validation metrics")
        output.facts(row["metrics"])
    for title, key, columns in (
        ("Evaluations", "evaluations", ["split", "n_films", "dataset_id", "metrics"]),
        ("Files", "files", ["precision", "size_bytes", "sha256"]),
        ("Engines", "engines",
         ["backend", "backend_version", "device", "precision", "parity_delta", "passed"]),
        ("History", "events", ["at", "who", "event", "detail"]),
    ):  # fmt: skip
        if detail[key]:
            _heading(title)
            output.table(detail[key], columns)


def _heading(title: str) -> None:
    click.echo(f"\n{click.style(title, bold=True)}")


@command.command("promote")
@click.argument("model")
@click.option("--reason", help="Why; kept in the models' history.")
@output.json_option
def promote(model: str, reason: str | None, as_json: bool) -> None:
    """Make a model the champion: jobs submitted from now on use it.

    Jobs that are submitted already keep theirs.

    \b
    Example:
      pneumoq models promote 3 --reason "better on the portable films"
    """
    engine = session.database()
    row = models.resolve(engine, model)
    if row["state"] == "retired":
        raise Failure(f"model {row['id']} is retired: its files may be gone; promote another")
    who = session.who()
    why = reason or f"promoted by {who}"
    before = database.write(
        engine,
        lambda connection: models.move_alias(connection, models.CHAMPION, row["id"], who, why),
    )
    if as_json:
        changed = {"model_id": row["id"], "name": row["name"], "champion": True}
        output.emit({**changed, "champion_before": before}, as_json=True)
    else:
        instead = f" instead of model {before}" if before not in (None, row["id"]) else ""
        click.echo(f"model {row['id']} ({row['name']}) is now the champion{instead}")
