"""Putting a job on the queue: what `score`, `train` and `demo` share."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
import sqlalchemy as sa

from db import database, jobs, workers
from scheduler import errors, follow, output, stack
from worker.config import Settings

Make = Callable[[sa.Connection], int]

#: Characters of jobs.key and of models.name.
LONGEST_NAME = 128


def submit(
    settings: Settings,
    engine: sa.Engine,
    queue: str,
    make: Make,
    *,
    wait: bool,
    local: bool,
    later: bool,
    as_json: bool,
) -> int:
    """Insert the job that `make` makes, ring, and follow it if asked; returns the exit status.

    With nobody to do it, nothing is inserted and Failure says what to start, unless `later`.
    """
    with _somebody(settings, engine, queue, local=local, later=later) as (reached, watch):
        job_id = database.write(engine, make)
        _ring(reached, queue)
        if wait or local:
            if not as_json:
                click.echo(f"Job {job_id} is on the queue.", err=True)
            return follow.follow(engine, job_id, as_json=as_json, goes_on=not local, tick=watch)
    if as_json:
        output.emit(dict(jobs.progress(engine, job_id)), as_json=True)
    else:
        click.echo(f"Job {job_id} is on the queue. Follow it: pneumoq jobs watch {job_id}")
    return errors.DONE


@contextlib.contextmanager
def _somebody(
    settings: Settings, engine: sa.Engine, queue: str, *, local: bool, later: bool
) -> Iterator[tuple[Settings, Callable[[], None]]]:
    """The settings by which workers are reached, and what looks after those that are ours."""
    if local:
        say = partial(click.echo, err=True)
        with stack.private(settings, engine, [queue], say=say) as own:
            yield own
        return
    if not later and not workers.alive(engine, queue):
        raise errors.Failure(
            f"no worker listens to the {queue} queue, so nothing was submitted. Start the workers "
            "with `pneumoq up` in another terminal, or add --local to run this one job by itself, "
            "or --later to leave it for when workers start."
        )
    yield settings, lambda: None


def once() -> str:
    """A key for one submission: should its transaction be repeated, there is still one job."""
    return f"once-{uuid.uuid4().hex}"


def _ring(settings: Settings, queue: str) -> None:
    from worker import bell

    if not bell.ring(settings, queue):
        click.echo(
            "The broker does not answer; the job is kept, and starts at a worker's next sweep.",
            err=True,
        )


def short(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """Refuse a name or key that has no room in the database."""
    if value is not None and not 0 < len(value) <= LONGEST_NAME:
        raise click.BadParameter(f"give 1 to {LONGEST_NAME} characters")
    return value


def readable_path(path: Path) -> str:
    """A path made absolute, with links kept as they are: workers have another working folder.

    Failure where its bytes are no text, for a database keeps text only.
    """
    text = str(path.absolute())
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise errors.Failure(
            f"{output.printable(text)}: the path has bytes that are no UTF-8; rename it, or give "
            "a link to it (ln -s) or the folder it is in"
        ) from error
    return text


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
                help="Higher goes first; among equals the older.",
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
