"""`pneumoq export`: a job's outcomes as a file, or the films of it that should be labelled next."""

from __future__ import annotations

import contextlib
import csv
import gzip
import heapq
import io
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import click
import sqlalchemy as sa

from db.base import database, views
from db.queue import jobs
from scheduler import errors, session
from scheduler.pages import writing as pages
from scheduler.show import output
from trainer import atomic

#: Rows fetched at a time.
FETCH = 2000

#: What the rows of a view are called in the column `outcome`.
OUTCOMES = {
    "prediction": views.V_PREDICTIONS,
    "refused": views.V_REFUSALS,
    "error": views.V_ITEM_ERRORS,
}


@click.command("export")
@click.argument("job", type=session.JOB)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--all", "everything", is_flag=True,
    help="Also the items that were refused or broken; a column `outcome` tells which.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
@click.option(
    "--uncertain", type=session.ROWS, metavar="N",
    help="Copy the N films nearest the threshold into class folders in FILE, a new folder.",
)  # fmt: skip
@click.option(
    "--to-folders", is_flag=True,
    help="Copy all films that were scored into class folders in FILE, a new folder.",
)  # fmt: skip
@output.json_option
@click.pass_context
def command(
    ctx: click.Context,
    job: int,
    file: Path,
    everything: bool,
    force: bool,
    uncertain: int | None,
    to_folders: bool,
    as_json: bool,
) -> None:
    """Write a scoring job's predictions to FILE: .csv, .csv.gz, .jsonl or .jsonl.gz.

    One row per film in the order of the sources, with the columns of v_predictions (`pneumoq db
    schema` explains them). FILE is whole or not there: it appears when its last row is written.
    Of a job that goes on, failed or was cancelled it has what there is, and what is not in it is
    counted; with --json `complete` tells whether all items have an outcome.

    With --uncertain, FILE is a new folder of the films that a person should label next, each in the
    folder of the class that the model calls it, unusual ones apart in _unusual/, and index.csv.
    Films that have a true label already are left out. Put the films into the right folders, or
    correct the labels in index.csv, and give the folder or index.csv to `train` beside the films
    that you train on. With --to-folders it is all films, each in the folder of the class that it is
    called, with the same index.csv. Exit status: 3 where a film could not be read.

    \b
    Examples:
      pneumoq export 5 predictions.csv
      pneumoq export 5 outcomes.jsonl.gz --all
      pneumoq export 5 review --uncertain 50
      pneumoq export 5 sorted --to-folders
    """
    if to_folders:
        if everything or force or uncertain is not None:
            raise errors.Failure("--to-folders stands alone")
        ctx.exit(_to_folders(job, file, as_json))
    if uncertain is not None:
        if everything or force:
            raise errors.Failure("--all and --force do not go with --uncertain")
        ctx.exit(_uncertain(job, file, uncertain, as_json))
    if file.is_dir():
        raise errors.Failure(f"{file} is a folder; give a file, or --uncertain N")
    write = next((WRITERS[e] for e in WRITERS if file.name.endswith((e, f"{e}.gz"))), None)
    if write is None:
        raise errors.Failure(
            f"{file}: its name says the format: end it in .csv, .jsonl, .csv.gz or .jsonl.gz"
        )
    if file.exists() and not force:
        raise errors.Failure(f"{file} is there already; give another name, or --force")
    if not file.absolute().parent.is_dir():
        raise errors.Failure(f"{file}: there is no folder {file.parent}; make it first")
    engine = session.database()
    _scored(engine, job)
    pages.record(engine, "export", file, job_id=job, films=None)
    with database.reading(engine) as connection, _appearing(file) as text:
        # As they are where the rows are read: a job goes on, or is purged, meanwhile.
        row = jobs.progress_seen(connection, job)
        jobs.check_kept(job, row["purged_at"])
        columns, rows = _rows(connection, job, everything)
        count = write(text, columns, rows)
    if as_json:
        found = {"job_id": job, "file": str(file), "rows": count, **_completeness(row)}
        output.emit(found, as_json=True)
        return
    click.echo(f"{count:,} {'row' if count == 1 else 'rows'} written to {file}")
    _tell_lacking(row)


def _completeness(row: sa.RowMapping) -> dict[str, Any]:
    """Whether all items of a job have an outcome, and how many of those listed have none."""
    without = int(row["items"]) - int(row["done"])
    complete = row["finished_at"] is not None and row["planned_at"] is not None and not without
    return {"complete": complete, "without_outcome": without}


def _tell_lacking(row: sa.RowMapping) -> None:
    """Say how many items have no outcome, where some have none, and what to do about it."""
    found = _completeness(row)
    if found["complete"]:
        return
    job, ended = row["job_id"], row["finished_at"] is not None
    state = {"failed": "has failed", "cancelled": "was cancelled"}.get(row["state"], "goes on")
    lacking = f"{found['without_outcome']:,} of {int(row['items']):,}"
    if row["planned_at"] is not None:
        lacking = f": {lacking} items have"
        do = f"`pneumoq jobs retry {job} --failed-only` does them"
    else:
        lacking = (
            f" before all of it was listed: items that were not, and {lacking} that were, have"
            if ended
            else f": it is not all listed yet, and {lacking} items have"
        )
        do = f"`pneumoq jobs retry {job}` does them"
    if not ended:
        do = f"wait for them with `pneumoq jobs watch {job}`"
    click.echo(
        f"job {job} {state}{lacking} no outcome{'' if ended else ' yet'}, and are not in it; {do}",
        err=True,
    )


def _scored(engine: sa.Engine, job: int) -> sa.RowMapping:
    """The job as it is now; Failure and Conflict where it has no predictions to be written."""
    row = jobs.progress(engine, job)
    if row["kind"] != "score":
        raise errors.Failure(f"job {job} trains a model; only scoring jobs have predictions")
    jobs.check_kept(job, row["purged_at"])
    return row


def _uncertain(job: int, folder: Path, most: int, as_json: bool) -> int:
    """Copy films to be labelled; the exit status."""
    from scheduler.submitting import uncertain

    engine = session.database()
    row = _scored(engine, job)
    copied = uncertain.write(engine, job, most, folder)
    pages.record(engine, "folder", folder, job_id=job, films=[(job, n) for n in copied.items])
    status = errors.ITEM_ERRORS if copied.failed else errors.DONE
    if as_json:
        counted = {name: value for name, value in vars(copied).items() if name != "items"}
        found = {"job_id": job, "folder": str(folder), "status": status, **counted}
        output.emit(found | _completeness(row), as_json=True)
        return status
    for name, count in sorted(copied.films.items()):
        films = "film" if count == 1 else "films"
        click.echo(f"{count:,} {films} in {output.printable(str(folder / name))}")
    if copied.copies:
        click.echo(f"{copied.copies:,} more are copies of these")
    for item_no, reason in copied.failed:
        click.echo(f"item {item_no} is missing: {reason}", err=True)
    _tell_lacking(row)
    click.echo(
        f"Next: put each film into the folder of its class, and train with `pneumoq train DATA "
        f"{shlex.quote(str(folder))}`"
    )
    return status


def _to_folders(job: int, folder: Path, as_json: bool) -> int:
    """Copy all films that were scored; the exit status."""
    from scheduler.submitting import folders

    engine = session.database()
    row = _scored(engine, job)
    if row["finished_at"] is None:
        raise errors.Failure(f"job {job} goes on: wait for it with `pneumoq jobs watch {job}`")
    pages.record(engine, "folder", folder, job_id=job, films=None)
    copied = folders.write(engine, job, folder)
    status = errors.ITEM_ERRORS if copied.n_failed else errors.DONE
    if as_json:
        found = {"job_id": job, "folder": str(folder), "status": status, **vars(copied)}
        output.emit(found | _completeness(row), as_json=True)
        return status
    for name, count in sorted(copied.films.items()):
        films = "film" if count == 1 else "films"
        click.echo(f"{count:,} {films} in {output.printable(str(folder / name))}")
    for item_no, reason in copied.failed:
        click.echo(f"item {item_no} is missing: {reason}", err=True)
    if copied.n_failed > len(copied.failed):
        click.echo(f"and {copied.n_failed - len(copied.failed):,} more", err=True)
    _tell_lacking(row)
    return status


def _rows(
    connection: sa.Connection, job: int, everything: bool
) -> tuple[list[str], Iterator[Sequence[Any]]]:
    """Column names, and the rows in the order of the items, as they come."""
    if not everything:
        predictions = views.V_PREDICTIONS
        return list(predictions.columns), _stream(connection, predictions, job)
    columns = ["outcome"]
    for view in OUTCOMES.values():
        columns += [name for name in view.columns if name not in columns]

    def widened(outcome: str) -> Iterator[Sequence[Any]]:
        view = OUTCOMES[outcome]
        names = list(view.columns)
        places = [names.index(c) if c in names else None for c in columns]
        for row in _stream(connection, view, job):
            yield [
                outcome if n == 0 else None if place is None else row[place]
                for n, place in enumerate(places)
            ]

    item_no = columns.index("item_no")
    return columns, heapq.merge(*map(widened, OUTCOMES), key=lambda row: row[item_no])


def _stream(connection: sa.Connection, view: views.View, job: int) -> Iterator[Sequence[Any]]:
    statement = sa.text(
        f"SELECT {', '.join(view.columns)} FROM {view.name} "  # noqa: S608  # constants
        "WHERE job_id = :job ORDER BY item_no"
    )
    options = {"stream_results": True, "yield_per": FETCH}
    yield from connection.execute(statement, {"job": job}, execution_options=options)


@contextlib.contextmanager
def _appearing(file: Path) -> Iterator[IO[str]]:
    """A text file, compressed where its name says so, that is there when all of it is."""
    with atomic.replacing(file) as part, part.open("wb") as raw:
        zipped = gzip.GzipFile("", "wb", 6, raw, mtime=0) if file.name.endswith(".gz") else None
        text = io.TextIOWrapper(zipped or raw, encoding="utf-8", newline="")
        yield text
        text.flush()
        text.detach()
        if zipped is not None:
            zipped.close()


def _csv(file: IO[str], columns: Sequence[str], rows: Iterator[Sequence[Any]]) -> int:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    count = 0
    for row in rows:
        writer.writerow([output.exact(value) for value in row])
        count += 1
    return count


def _jsonl(file: IO[str], columns: Sequence[str], rows: Iterator[Sequence[Any]]) -> int:
    count = 0
    for row in rows:
        file.write(output.to_json_line(dict(zip(columns, row, strict=True))) + "\n")
        count += 1
    return count


WRITERS: dict[str, Callable[[IO[str], Sequence[str], Iterator[Sequence[Any]]], int]] = {
    ".csv": _csv,
    ".jsonl": _jsonl,
}
