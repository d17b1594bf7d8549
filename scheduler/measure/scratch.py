"""A database and a stack to measure with, gone afterwards: the real parts, and none of one's rows.

The database is of the same kind, on the same disk or server, as the one in use.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from db.base import database, migrate, schema
from db.base.schema import FINAL_JOB_STATES
from db.queue import jobs
from scheduler import errors, session
from scheduler.local import stack
from worker import wakeup
from worker.config import Settings

#: What a model is made of, parents first.
_MODEL = (
    (schema.models, schema.models.c.id),
    (schema.model_labels, schema.model_labels.c.model_id),
    (schema.model_looks, schema.model_looks.c.model_id),
    (schema.model_files, schema.model_files.c.model_id),
)
#: Columns that name rows which are not copied.
_ELSEWHERE = ("dataset_id", "job_id", "parent_id")

#: Seconds between two looks at a job that is measured.
LOOK_S = 0.1


@contextlib.contextmanager
def site(
    settings: Settings, engine: sa.Engine, model_id: int
) -> Iterator[tuple[Settings, sa.Engine]]:
    """An empty database that knows one model, and settings with a home of their own for it."""
    beside = settings.home if settings.database_path is None else settings.database_path.parent
    session.make_private_folder(beside)
    home = Path(tempfile.mkdtemp(prefix="bench-", dir=beside))
    try:
        with _database(settings, engine, home) as url:
            # What TensorRT built of the model before need not be built again.
            if (kept := settings.home / "engines").is_dir():
                (home / "engines").symlink_to(kept)
            own = replace(settings, home=home, database_url=url, reader_url=None)
            empty = database.connect(url)
            try:
                migrate.upgrade(empty)
                copy_model(engine, empty, model_id)
                yield own, empty
            finally:
                empty.dispose()
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextlib.contextmanager
def _database(settings: Settings, engine: sa.Engine, home: Path) -> Iterator[str]:
    if settings.database_path is not None:
        yield f"sqlite:///{home / 'pneumoq.db'}"
        return
    name = f"pneumoq_bench_{uuid.uuid4().hex[:12]}"
    try:
        with engine.begin() as connection:
            connection.execute(sa.schema.CreateSchema(name))
    except sa.exc.ProgrammingError as error:
        raise errors.Failure(
            f"measuring needs a schema of its own, which this user may not make: {error.orig}; "
            "GRANT CREATE ON DATABASE … TO the user, or set PNEUMOQ_DATABASE_URL to another one"
        ) from error
    url = database.parse(settings.database_url).update_query_dict(
        {"options": f"-csearch_path={name}"}
    )
    try:
        yield url.render_as_string(hide_password=False)
    finally:
        with engine.begin() as connection:
            connection.execute(sa.schema.DropSchema(name, cascade=True))


def copy_model(source: sa.Engine, target: sa.Engine, model_id: int) -> None:
    """Bring a model, its labels and its files from one database into another, number and all."""
    with database.reading(source) as reading, database.writing(target) as writing:

        def bring(table: sa.Table, which: sa.ColumnElement[bool]) -> list[dict[str, Any]]:
            found = reading.execute(sa.select(table).where(which)).mappings()
            rows = [{**row, **{c: None for c in _ELSEWHERE if c in row}} for row in found]
            if rows:
                writing.execute(sa.insert(table), rows)
            return rows

        for table, key in _MODEL:
            rows = bring(table, key == model_id)
        for row in rows:  # the files, which come last
            number = 0
            while bring(
                schema.model_chunks,
                sa.and_(
                    schema.model_chunks.c.sha256 == row["sha256"],
                    schema.model_chunks.c.chunk_no == number,
                ),
            ):
                number += 1


class Jobs:
    """Real scoring jobs, done by the worker of a private stack."""

    def __init__(
        self,
        settings: Settings,
        engine: sa.Engine,
        watch: Callable[[], None],
        model_id: int,
        precision: str,
        accept: Sequence[str],
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._watch = watch
        self._model_id = model_id
        self._precision = precision
        self._accept = sorted(set(accept))

    def run(self, source: dict[str, Any], times: int = 1) -> tuple[int, float]:
        """Score a source (columns of `sources`) so many times over, in one job.

        Returns the number of its items, and the seconds from the job's first claim to its end.
        Failure where the job did not complete.
        """
        spec = {
            "sources": [source["uri"]] * times,
            "keep_cam": "flagged",
            "accept": self._accept,
            "force": True,
        }
        job_id = database.write(
            self._engine,
            lambda c: jobs.submit(
                c, kind="score", spec=spec, submitted_by=session.who(), model_id=self._model_id,
                precision=self._precision, source_rows=[source] * times,
            ),
        )  # fmt: skip
        wakeup.notify(self._settings, "score")
        while (row := jobs.get(self._engine, job_id))["state"] not in FINAL_JOB_STATES:
            self._watch()
            time.sleep(LOOK_S)
        if row["state"] not in ("completed", "completed_with_errors"):
            raise errors.Failure(f"the job that was measured {row['state']}: {row['reason']}")
        return row["planned_items"], (row["finished_at"] - row["started_at"]).total_seconds()


@contextlib.contextmanager
def running(
    settings: Settings,
    engine: sa.Engine,
    model_id: int,
    precision: str,
    accept: Sequence[str],
    report: Callable[[str], None],
) -> Iterator[Jobs]:
    """A private stack with one worker that does real jobs."""
    with stack.private(settings, engine, ["score"], report=report) as (own, watch):
        yield Jobs(own, engine, watch, model_id, precision, accept)
