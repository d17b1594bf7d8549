"""`pneumoq query`: a person's own SQL, answered row by row."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import click

from db.base import query
from db.base.errors import QueryRefused
from scheduler import session
from scheduler.errors import Failure
from scheduler.show import output
from worker import config

#: What databases say when a table or column does not exist.
_UNKNOWN = ("no such column", "no such table", "does not exist")


@click.command("query")
@click.argument("sql")
@click.option(
    "--format",
    "style",
    type=click.Choice(["table", "csv", "tsv", "json"]),
    default="table",
    show_default=True,
    help="How to print the rows. Bytes are hexadecimal in csv, tsv and json.",
)
def command(sql: str, style: str) -> None:
    """Ask the database a question in SQL. It can only read.

    SQL is one SELECT statement; `-` reads it from standard input. `pneumoq db schema` explains the
    views and their columns. NULL is printed as nothing. Times are UTC.

    \b
    Examples:
      pneumoq query "SELECT label, count(*) FROM v_predictions WHERE job_id = 5 GROUP BY label"
      pneumoq query --format csv "SELECT * FROM v_item_errors" > errors.csv
      pneumoq query - < question.sql
    """
    statement = sys.stdin.read() if sql == "-" else sql
    if not statement.strip():
        raise Failure("there is no statement; write one SELECT, or `-` to read it from a pipe")
    settings = session.settings()
    if settings.reader_url is None:
        session.database().dispose()
    else:
        session.connect(
            replace(settings, database_url=settings.reader_url), f"{config.PREFIX}READER_URL"
        )
    try:
        with query.run(settings.database_url, statement, settings.reader_url) as answer:
            FORMATS[style](answer.columns, answer.rows)
    except QueryRefused as error:
        hint = "; `pneumoq db schema` lists views and columns"
        unknown = any(text in str(error) for text in _UNKNOWN)
        raise Failure(f"{error}{hint if unknown else ''}") from error


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    count = output.grid(columns, rows)
    if sys.stdout.isatty():
        click.echo(f"({count} {'row' if count == 1 else 'rows'})", err=True)


def _csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([output.exact(value) for value in row])


def _tsv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    # No quoting: a tab or line break inside a value is written as \t or \n.
    escapes = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
    for row in chain([columns], rows):
        sys.stdout.write("\t".join(output.exact(v).translate(escapes) for v in row) + "\n")


def _json(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    names = _distinct(columns)
    separator = "[\n"
    for row in rows:
        line = output.to_json_line(dict(zip(names, row, strict=True)))
        sys.stdout.write(separator + line)
        separator = ",\n"
    sys.stdout.write("[]\n" if separator == "[\n" else "\n]\n")


def _distinct(columns: Sequence[str]) -> list[str]:
    """Names for a JSON object: the second `id` is `id_2`, so that no value is lost."""
    names: list[str] = []
    for column in columns:
        name, number = column, 1
        while name in names:
            number += 1
            name = f"{column}_{number}"
        names.append(name)
    return names


FORMATS: dict[str, Callable[[Sequence[str], Iterable[Sequence[Any]]], None]] = {
    "table": _table,
    "csv": _csv,
    "tsv": _tsv,
    "json": _json,
}
