"""`pneumoq labels`: the truth, brought in after scoring, and how the job did by it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import sqlalchemy as sa

from db.base import database
from db.base.errors import NotFound
from db.queue import jobs, labels, measured
from scheduler import errors, session
from scheduler.commands import compare
from scheduler.pages import writing as pages
from scheduler.show import output
from trainer import spelling, table
from trainer.errors import TableError

#: Headers that are understood, in lower case.
NAMES = ("name", "path", "file", "filename", "image", "film")
TRUTHS = ("label", "class", "truth", "target", "finding")
NUMBERS = ("item_no", "item")

#: Digits of an item's number that are looked at: no number that long is an item's.
_DIGITS = 100


#: Rows of which a few are compared with the films.
STATED = 100_000

_SHA256 = re.compile(r"[0-9a-f]{64}")


class _Row(NamedTuple):
    """A line that has a label."""

    #: Name or item number.
    item: str | int
    label: str
    #: SHA-256 of the film as the file states it; empty where it does not.
    sha256: str = ""


@click.group("labels")
def command() -> None:
    """Bring in the true labels of a scored archive, and see how the job did by them.

    \b
    Examples:
      pneumoq labels import truth.csv --job 5
      pneumoq labels show 5
    """


command.add_command(compare.command)


@command.command("import")
@click.argument("file", metavar="CSV", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--job", type=session.JOB, required=True, help="The scoring job that the labels are for."
)
@click.option(
    "--name-column", help="Column of the films' names. Default: name, path, file, ... or item_no."
)
@click.option("--label-column", help="Column of the true classes. Default: label, class or truth.")
@output.json_option
@click.pass_context
def import_(
    ctx: click.Context,
    file: Path,
    job: int,
    name_column: str | None,
    label_column: str | None,
    as_json: bool,
) -> None:
    """Read true labels from a CSV, and print what they say of a job.

    Names are those of v_predictions, or of the files where the database has only their hashes;
    blanks around them, backslashes and accents may be as spreadsheets write them. item_no is
    understood too. Labels are the names of the model's classes. Importing again replaces what a
    film had. Item numbers are refused, and nothing is stored, where a column job_id says that they
    are of another job, or where a few films that are read have another SHA-256 than a column
    sha256 says. Exit status: 0; 3 where rows gave no film a label; 2 where no prediction has one.

    \b
    Examples:
      pneumoq labels import truth.csv --job 5
      pneumoq labels import truth.csv --job 5 --name-column image_id --label-column finding
    """
    engine = session.database()
    _check(engine, job)
    columns = _columns(file, name_column, label_column)
    who = session.who()
    hashed = labels.has_hashed(engine, job)
    if columns[2] and "sha256" in map(_plain, _header(file)):
        _check_films(engine, job, file, _rows(file, *columns, job))
    # The file is read anew should the transaction be repeated.
    report = database.write(
        engine,
        lambda c: labels.import_rows(c, job, _stored(_rows(file, *columns, job), hashed), who),
    )
    pages.record(engine, "labels", file, job_id=job, films=None)
    try:
        found = measured.metrics(engine, job)
    except NotFound:
        found = None
    if as_json:
        output.emit({"job_id": job, **vars(report), "metrics": found}, as_json=True)
    else:
        _report(report)
    lost = report.unknown + report.ambiguous + report.contradicted
    advice = "" if not lost or _is_text(file) else f"; {file} is no UTF-8 text: save it as UTF-8"
    if found is None:
        why = _why_none(report, job, file, numbers=columns[2])
        raise errors.Failure(f"no prediction of job {job} has a label now; {why}{advice}")
    if not as_json:
        click.echo()
        _print(found, job)
    if lost:
        click.echo(f"{lost:,} of {report.rows:,} rows gave no film a label{advice}", err=True)
        ctx.exit(errors.ITEM_ERRORS)


def _why_none(report: labels.Imported, job: int, file: Path, *, numbers: bool) -> str:
    """Why a file labelled no prediction, and what to do."""

    def printed(columns: str) -> str:
        select = f"SELECT {columns} FROM v_predictions WHERE job_id = {job} LIMIT 5"  # noqa: S608
        return f'`pneumoq query "{select}"` prints'

    if report.labelled:
        return "the items that it labels were refused or are in error"
    if not report.rows:
        return f"{file}: no row of it has a label"
    if report.unknown and numbers:
        return f"items must be among those that {printed('item_no, name')}"
    if report.unknown:
        return f"names must be those that {printed('name')}"
    if report.ambiguous:
        return (
            "several films have the same name: name them by item_no, which "
            f"{printed('item_no, source, name')}"
        )
    return "its rows give one film two labels: give each film one label"


def _report(report: labels.Imported) -> None:
    click.echo(f"rows read     {report.rows:,}")
    click.echo(f"labelled      {report.labelled:,}")
    for kind, count, meaning in (
        ("unknown", report.unknown, "no item of the job has the name"),
        (
            "ambiguous",
            report.ambiguous,
            "several items have the name: none was labelled; item_no tells them apart",
        ),
        ("contradicted", report.contradicted, "two different labels: none was kept"),
    ):
        if count:
            names = ", ".join(map(output.printable, report.examples[kind]))
            click.echo(f"{kind:<12}  {count:,}  ({meaning}): {names}{' …' * (count > 5)}")


@command.command("show")
@click.argument("job", type=session.JOB)
@output.json_option
def show(job: int, as_json: bool) -> None:
    """Print a job's metrics by the labels that were brought in.

    The operating threshold is the one that the job's labels were given by.

    \b
    Example:
      pneumoq labels show 5
    """
    engine = session.database()
    _check(engine, job)
    found = measured.metrics(engine, job)
    if as_json:
        output.emit({"job_id": job, "metrics": found}, as_json=True)
    else:
        _print(found, job)


def _print(found: dict[str, Any], job: int) -> None:
    """The metrics, each with the films that it is of."""
    positives, negatives, films = found["positives"], found["negatives"], found["n_films"]
    of = {
        "sensitivity": positives,
        "specificity": negatives,
    }
    output.table(
        [
            {"metric": name, "value": value, "films": of.get(name, films)}
            for name, value in found.items()
            if isinstance(value, float) or value is None
        ],
        ["metric", "value", "films"],
    )
    click.echo(
        f"\njob {job}: {films:,} labelled predictions, {positives:,} positive and {negatives:,} "
        f"negative by the truth; {found['unlabelled']:,} without a label, "
        f"{found['not_predicted']:,} labels of films that were not predicted"
    )
    click.echo("Research software, not a medical device.")


def _check(engine: sa.Engine, job: int) -> None:
    row = jobs.get(engine, job)
    if row["kind"] != "score":
        raise errors.Failure(f"job {job} trains a model; labels are for scoring jobs")
    jobs.check_kept(job, row["purged_at"])


def _check_films(engine: sa.Engine, job: int, file: Path, read: Iterable[_Row]) -> None:
    """Failure where films of the job contradict what the file says of its item numbers."""
    from scheduler.submitting import contents

    stated: dict[int, str] = {}
    for row in read:
        if row.sha256 and len(stated) < STATED and int(row.item) <= labels.MOST_ITEM:
            stated[int(row.item)] = row.sha256
    item = contents.another(engine, job, stated) if stated else None
    if item is not None:
        raise errors.Failure(
            f"{file}: the film of item {item} in job {job} has another sha256 than the file says: "
            "its item numbers are of another job, or the film was replaced; no label was stored. "
            "Give the job that they are of, or leave the column sha256 out"
        )


def _columns(
    file: Path, name_column: str | None, label_column: str | None
) -> tuple[str, str, bool]:
    """Columns of names and of labels, and whether the names are item numbers."""
    header = _header(file)
    known = {_plain(column): column for column in reversed(header)}

    def find(asked: str | None, usual: Sequence[str], option: str) -> str | None:
        if asked is None:
            return next((known[name] for name in usual if name in known), None)
        if asked not in header:
            raise errors.Failure(
                f"{file} has no column {asked!r} for {option}; its columns are {_list(header)}"
            )
        return asked

    name = find(name_column, (*NAMES, *NUMBERS), "--name-column")
    label = find(label_column, TRUTHS, "--label-column")
    for column, what, option in (
        (name, "names the films", "--name-column"),
        (label, "holds the true classes", "--label-column"),
    ):
        if column is None:
            raise errors.Failure(
                f"{file}: which column {what}? Say so with {option}; there are {_list(header)}"
            )
    assert name is not None and label is not None
    return name, label, _plain(name) in NUMBERS


def _plain(column: str) -> str:
    """A column's name as it is compared."""
    return column.strip().lower()


def _list(header: Sequence[str]) -> str:
    return ", ".join(repr(column) for column in header[:20]) or "none"


def _header(file: Path) -> list[str]:
    for row in _read(file):
        return row
    raise errors.Failure(f"{file} is empty; its first line must name the columns")


def _read(file: Path) -> Iterator[list[str]]:
    """The lines of a CSV that are not empty; separated by comma, semicolon or tab."""
    try:
        with table.opened(file) as text:
            head, below = table.headed(text)
            if not head:
                return
            yield head
            yield from (row for _, row in below)
    except TableError as error:
        raise errors.Failure(f"{file}, line {error.line} is no CSV: {error}") from error


def _rows(
    file: Path, name_column: str, label_column: str, numbers: bool, job: int
) -> Iterator[_Row]:
    """Each line that has a name or item number, and a label.

    Failure where an item number is one of another job than `job`.
    """
    lines = _read(file)
    header = next(lines)
    name_at, label_at = header.index(name_column), header.index(label_column)
    plain = list(map(_plain, header))
    job_at, sha_at = (plain.index(c) if c in plain else None for c in ("job_id", "sha256"))
    for number, line in enumerate(lines, start=2):
        if len(line) <= max(name_at, label_at):
            raise errors.Failure(
                f"{file}, row {number}: {len(line)} fields where the header has {len(header)}"
            )
        name, label = line[name_at], spelling.of_windows(line[label_at].strip())
        if not label:
            continue
        if not numbers:
            yield _Row(name, label)
            continue
        if job_at is not None and not _is_of(line[job_at : job_at + 1], job):
            raise errors.Failure(_of_another(file, number, name, line[job_at], job, header))
        if (digits := name.strip()).isdecimal():
            # Python reads 4,300 digits at most; by so many no item is meant either.
            sha = "" if sha_at is None else "".join(line[sha_at : sha_at + 1]).strip().lower()
            item = int(digits.lstrip("0")[:_DIGITS] or "0")
            yield _Row(item, label, sha if _SHA256.fullmatch(sha) else "")
        else:
            raise errors.Failure(f"{file}, row {number}: {name!r} is no item number")


def _is_of(cells: Sequence[str], job: int) -> bool:
    """Whether the cell of a row's job, if it has one, is empty or this job's number."""
    cell = "".join(cells).strip()
    return not cell or cell.lstrip("0") == str(job)


def _of_another(
    file: Path, row: int, name: str, other: str, job: int, header: Sequence[str]
) -> str:
    """Why an item number of another job is refused, and what to do."""
    other = output.printable(other.strip())
    what = [f"give --job {other}"] if other.isdecimal() else []
    named = next((c for c in header if _plain(c) in ("film_name", *NAMES)), None)
    if named is not None:
        column = shlex.quote(named)
        what.append(f"where job {job} scored the same films, go by names: --name-column {column}")
    return (
        f"{file}, row {row}: item {name.strip()} is of job {other}, and not of job {job}, in which "
        f"another film may have that number; no label was stored. {' Or, '.join(what)}"
    )


def _stored(rows: Iterable[_Row], hashed: bool) -> Iterator[tuple[labels.Item, str]]:
    """The same rows with names as the database may have them.

    A name that may be meant otherwise than it is written becomes several; with `hashed` each is
    hashed too, as its film may have been DICOM whatever its ending says.
    """
    from worker import archive
    from worker.machine import privacy
    from worker.scoring.shard import stored_name

    site = privacy.load(session.settings()) if hashed else None
    for name, label, _ in rows:
        if isinstance(name, int):
            yield name, label
            continue
        ways = dict.fromkeys(map(archive.display, spelling.spellings(name) or (name,)))
        if site is None:
            yield tuple(ways), label
        else:
            both = (dict.fromkeys((way, stored_name(site, way, hide=True))) for way in ways)
            yield tuple(map(tuple, both)), label


def _is_text(file: Path) -> bool:
    """Whether all of a file is text, in an encoding that is understood."""
    try:
        with table.opened(file) as text:
            for line in text:
                line.encode()
    except UnicodeError:
        return False
    return True
