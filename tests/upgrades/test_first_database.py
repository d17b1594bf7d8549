"""A database that release 0.1.0 made (tests/data/v0.1.0.sh) is brought up to date and worked on."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from db.base import database, migrate, partitions
from db.base.schema import metadata
from db.nightly import nights, runs, schedules
from db.queue import jobs
from db.work import control
from tests.db import given
from tests.support.paths import ROOT
from trainer.data import classes, labelled, manifest, whose
from trainer.data.whose import Whose

KEPT = ROOT / "tests" / "data" / "v0.1.0.db.gz"

#: Its schema.
REVISION = "0005"

#: Rows of a view, each as its columns.
Rows = list[dict[str, Any]]


@contextmanager
def _kept(folder: Path) -> Iterator[sa.Engine]:
    """The database as release 0.1.0 left it."""
    file = folder / "v0.1.0.db"
    file.write_bytes(gzip.decompress(KEPT.read_bytes()))
    engine = database.connect(f"sqlite:///{file}")
    try:
        yield engine
    finally:
        engine.dispose()


def _copy(source: sa.Engine, target: sa.Engine) -> None:
    """Put the rows of one database into another of the same schema, which has none."""
    with database.reading(source) as reading, database.writing(target) as writing:
        names = {*sa.inspect(reading).get_table_names()} - {"alembic_version"}
        for job_id in reading.exec_driver_sql("SELECT id FROM jobs").scalars().all():
            partitions.ensure(writing, job_id)
        for table in metadata.sorted_tables:
            if table.name not in names:
                continue
            there = {c["name"] for c in sa.inspect(reading).get_columns(table.name)}
            columns = [column for column in table.c if column.name in there]
            order = table.primary_key.columns
            rows = reading.execute(sa.select(*columns).order_by(*order)).mappings().all()
            if rows:
                writing.execute(sa.insert(table), [dict(row) for row in rows])
        # Far enough for every table.
        writing.exec_driver_sql("SELECT setval(seqrelid, 1000) FROM pg_sequence")


def _views(engine: sa.Engine, columns: dict[str, list[str]] | None = None) -> dict[str, Rows]:
    """What every view says, or what those views say in those columns; in no order."""
    found = {}
    with database.reading(engine) as connection:
        inspector = sa.inspect(connection)
        if columns is None:
            columns = {
                view: [column["name"] for column in inspector.get_columns(view)]
                for view in inspector.get_view_names()
            }
        for view, names in columns.items():
            rows = connection.exec_driver_sql(f"SELECT {', '.join(names)} FROM {view}").all()
            plain = [{n: _plain(v) for n, v in row._mapping.items()} for row in rows]
            found[view] = sorted(plain, key=lambda row: json.dumps(row, sort_keys=True))
    return found


def _plain(value: Any) -> Any:
    """The same on both databases: SQLite keeps times and JSON as text, and truth as 0 and 1."""
    if isinstance(value, datetime):
        value = value.astimezone(timezone.utc)
        return value.strftime("%Y-%m-%dT%H:%M:%S.") + f"{value.microsecond // 1000:03d}Z"
    if isinstance(value, (bool, int, float, Decimal)):
        return round(float(value), 9)
    if isinstance(value, str) and value[:1] in ("{", "["):
        return json.loads(value)
    return value


@pytest.fixture
def upgraded(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[sa.Engine, dict[str, Rows]]]:
    """The database after an upgrade, and what its views said before."""
    with _kept(tmp_path) as kept:
        assert migrate.current(kept) == REVISION
        before = _views(kept)
        if request.param == "sqlite":
            migrate.upgrade(kept)
            yield kept, before
            return
        engine = database.connect(request.getfixturevalue("empty_postgres_url"))
        try:
            migrate.upgrade(engine, REVISION)
            _copy(kept, engine)
            migrate.upgrade(engine)
            yield engine, before
        finally:
            engine.dispose()


both = pytest.mark.parametrize(
    "upgraded", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)], indirect=True
)


@both
def test_every_view_says_what_it_said(upgraded: tuple[sa.Engine, dict[str, Rows]]) -> None:
    engine, before = upgraded

    migrate.check(engine)
    assert all(before.values()), [view for view, rows in before.items() if not rows]
    after = _views(engine, {view: list(rows[0]) for view, rows in before.items()})
    for view, rows in before.items():
        assert after[view] == rows, view


@both
def test_its_unfinished_jobs_are_gone_on_with(upgraded: tuple[sa.Engine, dict[str, Rows]]) -> None:
    engine, before = upgraded
    (paused,) = (row for row in before["v_job_progress"] if row["state"] == "paused")
    job_id = int(paused["job_id"])
    assert 0 < paused["shards_done"] < paused["shards"]

    database.write(engine, lambda c: control.resume(c, job_id, "kim@ward"))
    for _ in range(int(paused["shards"] - paused["shards_done"])):
        given.commit(engine, given.claimed(engine))
    given.close(engine, job_id)

    now = jobs.progress(engine, job_id)
    assert (now["state"], now["done"]) == ("completed", paused["items"])


@both
def test_its_schedule_goes_on_by_its_rules_about_names(
    upgraded: tuple[sa.Engine, dict[str, Rows]],
) -> None:
    engine, _ = upgraded
    before = schedules.get(engine, "nightly")["spec"]["job"]
    run_id = database.write(engine, lambda c: schedules.run_now(c, "nightly"))
    job = jobs.get(engine, runs.get(engine, run_id)["job_id"])
    assert job["spec"] == before
    after = schedules.get(engine, "nightly")["spec"]["job"]
    assert after == {**before, "naming": labelled.FIRST_NAMING}, "which is said once"

    with database.reading(engine) as connection:
        numbers = connection.exec_driver_sql("SELECT id FROM datasets").scalars().all()
        positives = connection.exec_driver_sql("SELECT positive FROM models").scalars().all()
    read = whose.Reader(Whose(naming=labelled.FIRST_NAMING), ())
    rows = [
        row
        for number in numbers
        for row in csv.DictReader(io.StringIO(nights.manifest(engine, number), newline=""))
    ]
    assert len(rows) > 50
    for row in rows:
        path = Path(row["path"])
        stem = manifest.below_class(labelled.stem_of(path), (row["label"],))
        film = labelled.Entry(file=path, name=row["label"], split="train", stem=stem)
        assert read(film)[0] == row["patient"]
    labels = tuple(sorted({row["label"] for row in rows}))
    assert set(positives) == {classes.disease(labels, naming=labelled.FIRST_NAMING)}
