"""Putting a job on the queue: what `score`, `train` and `demo` share."""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import sqlalchemy as sa

from db.base import database, schema, workers
from db.base.schema import FINAL_JOB_STATES
from db.queue import budget as budgets
from db.queue import jobs, shares
from scheduler import engines, errors
from scheduler.local import stack
from scheduler.show import follow, output
from trainer import spelling
from worker.config import Settings

#: Letter → seconds, of a span such as 6h.
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

LONGEST_SPAN_S = 366 * 86400

Make = Callable[[sa.Connection], int]

#: Characters of jobs.key and of models.name.
LONGEST_NAME = 128

#: Keys that nobody gave begin so.
ONCE = "once-"


def submit(
    settings: Settings,
    engine: sa.Engine,
    queue: str,
    make: Make,
    *,
    same: Mapping[str, Any],
    key: str | None,
    wait: bool,
    local: bool,
    later: bool,
    as_json: bool,
    note: str = "",
    wanted: str | None = None,
    changed: Callable[[int], Sequence[str]] = lambda _: (),
    grows: bool = False,
) -> int:
    """Insert the job that `make` makes, wake workers, and follow it if asked; the exit status.

    `note` is said of a new job. `wanted` is its `jobs.engine`.

    With nobody to do it, nothing is inserted and Failure says what to start, unless `later`. A key
    that a job has already stands for that job; Failure where that one has other values in the
    columns of `jobs` that are in `same`, or where `changed` names sources of it that are others
    now. `grows` is whether films may come into its sources.
    """
    earlier = _earlier(engine, key, same, changed)
    if earlier is not None:
        more = (
            " Films that came into its folders after they were listed are not in it: give them "
            "another --key."
        )
        click.echo(
            f"The key {output.printable(str(key))} is that of job {earlier['id']}, which is "
            f"{earlier['state'].replace('_', ' ')}; there is no second one.{more if grows else ''}",
            err=True,
        )
        later = later or earlier["state"] in FINAL_JOB_STATES
    with _somebody(settings, engine, queue, wanted, local=local, later=later) as (reached, watch):
        job_id = database.write(engine, make)
        if note and not as_json and earlier is None:
            click.echo(note, err=True)
        notify(reached, queue)
        if wait or local:
            if not as_json and earlier is None:
                click.echo(f"Job {job_id} is on the queue.", err=True)
            return follow.follow(engine, job_id, as_json=as_json, goes_on=not local, tick=watch)
    if as_json:
        output.emit(dict(jobs.progress(engine, job_id)), as_json=True)
    else:
        where = f"Job {job_id} is on the queue. " if earlier is None else ""
        click.echo(f"{where}Follow it: pneumoq jobs watch {job_id}")
    return errors.DONE


def _earlier(
    engine: sa.Engine,
    key: str | None,
    same: Mapping[str, Any],
    changed: Callable[[int], Sequence[str]],
) -> sa.RowMapping | None:
    """The job that has this key already; Failure where it has other values or sources."""
    if key is None:
        return None
    with database.reading(engine) as connection:
        select = sa.select(schema.jobs).where(schema.jobs.c.key == key)
        row = connection.execute(select).mappings().first()
    if row is None:
        return None
    if other := _differences(row, same) or output.printable("; ".join(changed(row["id"]))):
        raise errors.Failure(
            f"the key {key!r} is that of job {row['id']}, which has other sources or options: "
            f"{other} (`pneumoq jobs show {row['id']}`); give another --key"
        )
    return row


def _differences(row: sa.RowMapping, same: Mapping[str, Any]) -> str:
    """What of a job's row is not `same`, in words: of its options the names; empty if nothing."""
    named = {"parent_job_id": "retried job"}
    found = [
        f"{named.get(column, column)} {row[column] or 'any'}, not {value or 'any'}"
        for column, value in same.items()
        if column != "spec" and row[column] != value
    ]
    was, now = row["spec"], same["spec"]
    options = sorted(k for k in {**was, **now} if was.get(k, ...) != now.get(k, ...))
    return "; ".join([*found, ", ".join(options)] if options else found)


@contextlib.contextmanager
def _somebody(
    settings: Settings,
    engine: sa.Engine,
    queue: str,
    wanted: str | None,
    *,
    local: bool,
    later: bool,
) -> Iterator[tuple[Settings, Callable[[], None]]]:
    """The settings by which workers are reached, and what looks after those that are ours."""
    if local:
        if wanted is not None:
            # Where that cannot be, it says why before anything is kept.
            engines.this_machine(settings)
        report = partial(click.echo, err=True)
        with stack.private(settings, engine, [queue], report=report) as own:
            yield own
        return
    if not later and not workers.alive(engine, queue):
        raise errors.Failure(
            f"no worker listens to the {queue} queue, so nothing was submitted. Start the workers "
            "with `pneumoq up` in another terminal, or add --local to run this one job by itself, "
            "or --later to leave it for when workers start."
        )
    if not later and (waits := engines.waits(engine, wanted)) is not None:
        raise errors.Failure(
            f"nothing was submitted, as the job {waits}. Start `pneumoq up --engine {wanted}` on "
            "such a machine, leave --engine out, or give --later to leave it for when one starts."
        )
    yield settings, lambda: None


def once() -> str:
    """A key for one submission: should its transaction be repeated, there is still one job."""
    return f"{ONCE}{uuid.uuid4().hex}"


def notify(settings: Settings, queue: str) -> None:
    """Wake workers for work that was put on a queue; says so where the broker does not answer."""
    import logging

    from worker import wakeup

    # What it has to say is said below, in a line for people.
    logging.getLogger(wakeup.__name__).addHandler(logging.NullHandler())
    if not wakeup.notify(settings, queue):
        click.echo(
            "The broker does not answer; the job is kept, and starts at a worker's next sweep.",
            err=True,
        )


def short(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """Refuse a name or key that has no room in the database."""
    if value is not None and not 0 < len(value) <= LONGEST_NAME:
        raise click.BadParameter(f"give 1 to {LONGEST_NAME} characters")
    return value


def span(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    """A span of time such as 90s, 30m, 6h or 2d, in seconds."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d{1,6})([smhd]?)", value.strip())
    if found is None:
        raise click.BadParameter(f"{value!r} is no span of time; give one like 90s, 30m, 6h or 2d")
    seconds = int(found[1]) * _UNITS[found[2] or "s"]
    if seconds > LONGEST_SPAN_S:
        raise click.BadParameter(f"{value} is longer than a year")
    return seconds


def budget(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """Refuse an error budget that means nothing."""
    if value is not None:
        try:
            budgets.parse(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error
    return value


def readable_path(path: Path) -> str:
    """A path made absolute, without `..`: workers have another folder, and it is a source's name.

    Links are kept as they are. Failure where its bytes are no text, for a database keeps text only.
    """
    text = str(spelling.without_climbs(path.absolute())).replace("//", "/", 1)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise errors.Failure(
            f"{output.printable(text)}: the path has bytes that are no UTF-8; rename it, or give "
            "a link to it (ln -s) or the folder it is in"
        ) from error
    return text


def share(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """Refuse a key of a share that could not be told from others."""
    if value is not None and not (0 < len(value) <= shares.LONGEST_KEY and value == value.strip()):
        raise click.BadParameter(
            f"give 1 to {shares.LONGEST_KEY} characters, without blanks around them"
        )
    return value


#: Whose share of the workers a scoring job takes.
share_option = click.option(
    "--for", "share", callback=share, metavar="KEY",
    help="Whose share of the workers it takes; `pneumoq shares` shows them. Default: the user, or "
    "the schedule.",
)  # fmt: skip


def options(command: Any) -> Any:
    """The options that every submitting command has."""
    for option in reversed(
        [
            click.option("--wait", is_flag=True, help="Follow the job to its end."),
            click.option(
                "--local", is_flag=True,
                help="Start broker and worker for this one job, and follow it.",
            ),
            click.option(
                "--later", is_flag=True, help="Submit even where no worker listens yet."
            ),
            click.option(
                "--priority", type=click.IntRange(-100, 100), default=0, show_default=True,
                help="Higher goes first.",
            ),
            click.option(
                "--key", callback=short,
                help="Submitting again with the same key gives the same job.",
            ),
            output.json_option,
        ]
    ):  # fmt: skip
        command = option(command)
    return command
