"""One worker process: a new model is checked between the shards of a job, and troubles pass."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from db.base import database as connecting
from db.base.schema import proofs
from db.nightly import runs
from db.queue import jobs
from db.registry import aliases
from tests.worker import samples
from worker.config import Settings
from worker.service.daemon import Daemon

SOURCES = 40


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """SQLite only: what differs between databases is tested with them."""
    return sqlite_url


@pytest.fixture
def daemon(settings: Settings, database: sa.Engine, model_id: int) -> Iterator[Daemon]:
    """A scoring worker in this process; model 1 is the champion."""
    made = Daemon(settings, ["score"])
    yield made
    made.close()


def outcome(database: sa.Engine, run_id: int) -> str | None:
    """What became of a run, once it is settled."""
    samples.wait(lambda: runs.get(database, run_id)["finished_at"], "the run to be settled")
    return str(runs.get(database, run_id)["outcome"])


def the_check(database: sa.Engine) -> sa.Row[Any]:
    with connecting.reading(database) as connection:
        return connection.execute(sa.select(proofs)).one()


def test_a_new_model_is_checked_between_the_shards_of_a_job_that_goes_on(
    database: sa.Engine, daemon: Daemon, candidate: int, tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    folder = tmp_path / "films"
    folder.mkdir()
    for name, data in samples.films(4):
        (folder / name).write_bytes(data)
    job_id = samples.submit_score(database, 1, *[folder] * SOURCES)
    scoring = threading.Thread(target=daemon.score)
    scoring.start()
    samples.wait(lambda: jobs.progress(database, job_id)["shards_done"], "a shard to be done")
    run_id = request.getfixturevalue("run_id")
    assert outcome(database, run_id) == "promoted"
    assert jobs.get(database, job_id)["finished_at"] is None, "the job was not waited for"
    scoring.join()
    job = jobs.get(database, job_id)
    assert (job["state"], job["model_id"]) == ("completed", 1), "it keeps the model that it had"
    with connecting.reading(database) as connection:
        found = connection.exec_driver_sql(
            "SELECT model_id, COUNT(*) FROM predictions GROUP BY model_id"
        ).all()
    assert [tuple(row) for row in found] == [(1, SOURCES * len(list(folder.iterdir())))]
    assert int(aliases.resolve(database, aliases.CHAMPION)["id"]) == candidate


def test_a_check_whose_result_could_not_be_written_is_made_again_by_the_same_worker(
    database: sa.Engine, run_id: int, settings: Settings
) -> None:
    with connecting.writing(database) as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER refused BEFORE UPDATE OF passed ON proofs WHEN OLD.attempts < 2 "
            "BEGIN SELECT RAISE(ABORT, 'not now'); END"
        )
    worker = Daemon(settings, ["score"])
    try:
        assert outcome(database, run_id) == "promoted"
        row = the_check(database)
        assert (row.attempts, row.passed, row.worker_id) == (2, True, worker.worker_id)
    finally:
        worker.close()
