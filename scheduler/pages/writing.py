"""Writing a page into its file, in one step, after it was recorded where it will be."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import sqlalchemy as sa

from db.base import database
from db.queue import pages
from scheduler import errors, session
from scheduler.show import output
from trainer import atomic

#: Endings of a page's name.
ENDINGS = (".html", ".htm")


def check(file: Path, *, force: bool) -> None:
    """Raise Failure where a page cannot be written there, before it is made."""
    if file.suffix.lower() not in ENDINGS:
        raise errors.Failure(f"{file}: end the page's name in .html")
    if file.is_dir():
        raise errors.Failure(f"{file} is a folder; give the name of a file")
    if file.exists() and not force:
        raise errors.Failure(f"{file} is there already; give another name, or --force")
    if not file.absolute().parent.is_dir():
        raise errors.Failure(f"{file}: there is no folder {file.parent}; make it first")


def record(
    engine: sa.Engine,
    kind: str,
    path: Path,
    *,
    job_id: int | None = None,
    model_id: int | None = None,
    run_id: int | None = None,
    films: Iterable[tuple[int, int]] | None = (),
) -> int:
    """Record what is about to be written, as `db.queue.pages.record`."""
    # A name in the file system may hold what no text of a database can.
    place = output.printable(os.path.abspath(path))  # noqa: PTH100  # a link is a name like any other
    who = session.who()
    kept = None if films is None else list(films)
    return database.write(
        engine,
        lambda c: pages.record(
            c, kind, place, who, job_id=job_id, model_id=model_id, run_id=run_id, films=kept
        ),
    )


def write(file: Path, page: str) -> int:
    """Write a page, readable to its owner alone; its bytes. Raises Failure."""
    data = page.encode("utf-8")
    try:
        with atomic.replacing(file, private=True) as part:
            part.write_bytes(data)
    except OSError as error:
        raise errors.Failure(f"{file} cannot be written: {error.strerror}") from error
    return len(data)
