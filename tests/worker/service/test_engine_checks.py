"""Which engine checks a worker makes, and what is written of each, without a worker process."""

from __future__ import annotations

import sqlite3
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from db.base import database as connecting
from db.base.schema import proofs
from db.nightly import runs
from tests.worker import samples
from trainer.card import Card
from trainer.errors import Stopped
from worker import config
from worker.config import Settings
from worker.engine import choose
from worker.errors import GpuLost
from worker.scoring import serving
from worker.service.engine_checks import EngineChecks


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """SQLite only: who checks what is tested on both with the database."""
    return sqlite_url


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    return config.load(
        {
            "PNEUMOQ_HOME": str(tmp_path / "home"),
            "PNEUMOQ_DATABASE_URL": database_url,
            "PNEUMOQ_ENGINE_THREADS": "1",
        }
    )


class Checks:
    """The engine checks of a worker that scores on the processor."""

    def __init__(self, settings: Settings, database: sa.Engine) -> None:
        self.stop = threading.Event()
        #: What its row said, one after the other.
        self.status: list[str] = []
        self.checks = EngineChecks(
            settings, database, "w", choose(settings), self.stop, self.status.append
        )


@pytest.fixture
def worker(settings: Settings, database: sa.Engine) -> Checks:
    return Checks(settings, database)


def the_check(database: sa.Engine) -> sa.Row[Any]:
    with connecting.reading(database) as connection:
        return connection.execute(sa.select(proofs)).one()


def opening(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Have no engine be opened from now on."""

    def fails(*args: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(serving, "open_on", fails)


def test_without_a_new_model_no_check_is_due(worker: Checks, database: sa.Engine) -> None:
    assert not worker.checks.look()
    worker.checks.run()
    with connecting.reading(database) as connection:
        assert not connection.execute(sa.select(proofs)).all()


def test_a_new_model_is_checked_once_and_what_came_of_it_is_written(
    worker: Checks, database: sa.Engine, run_id: int, candidate: int
) -> None:
    assert worker.checks.look()
    worker.checks.run()
    row = the_check(database)
    assert (row.run_id, row.attempts, row.passed, row.worker_id) == (run_id, 1, True, "w")
    assert row.detail == "fp32 runs"
    assert worker.status == [f"checking model {candidate} in fp32", ""]
    assert not worker.checks.due() and not worker.checks.look()


def test_every_model_that_is_due_is_checked(
    worker: Checks, database: sa.Engine, run_id: int, tmp_path: Path
) -> None:
    file = tmp_path / "third.onnx"
    third: Card = samples.write_model(file, ("NORMAL", "PNEUMONIA"), seed=3)
    number = samples.register(database, file, third)
    first = runs.get(database, run_id)
    connecting.write(
        database,
        lambda c: runs.begin(
            c, first["schedule_id"], first["scheduled_for"] + timedelta(days=1), "clock", "proving",
            champion_id=1, candidate_id=number,
        ),
    )  # fmt: skip
    worker.checks.look()
    worker.checks.run()
    with connecting.reading(database) as connection:
        found = connection.execute(sa.select(proofs.c.passed)).scalars().all()
    assert found == [True, True]


def test_an_engine_that_cannot_be_opened_fails_the_check_whatever_the_reason_is(
    worker: Checks, database: sa.Engine, run_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening(monkeypatch, ZeroDivisionError("of a library"))
    worker.checks.look()
    worker.checks.run()
    row = the_check(database)
    assert (row.passed, row.detail) == (
        False, "it could not be tried: ZeroDivisionError: of a library",
    )  # fmt: skip


def test_a_check_that_the_worker_s_end_interrupts_is_left_to_another_worker(
    worker: Checks, database: sa.Engine, run_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any, **options: Any) -> None:
        worker.stop.set()
        raise Stopped("stopped while TensorRT built it")

    monkeypatch.setattr(serving, "open_on", interrupted)
    worker.checks.look()
    worker.checks.run()
    row = the_check(database)
    assert (row.attempts, row.passed, row.worker_id) == (0, None, None)


def test_a_lost_gpu_decides_nothing_about_a_model(
    worker: Checks, database: sa.Engine, run_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening(monkeypatch, GpuLost("CUDA error 719"))
    worker.checks.look()
    with pytest.raises(GpuLost):
        worker.checks.run()
    row = the_check(database)
    assert (row.attempts, row.passed, row.worker_id) == (1, None, "w")


def test_a_check_during_which_the_database_went_away_is_made_again_by_the_same_worker(
    worker: Checks, database: sa.Engine, run_id: int
) -> None:
    away = True

    def harm(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if away and "model_chunks" in statement:
            raise sa.exc.OperationalError(statement, None, sqlite3.OperationalError("disk I/O"))

    sa.event.listen(database, "before_cursor_execute", harm)
    worker.checks.look()
    with pytest.raises(sa.exc.OperationalError):
        worker.checks.run()
    assert worker.checks.due()
    away = False
    worker.checks.run()
    row = the_check(database)
    assert (row.attempts, row.passed, row.worker_id) == (2, True, "w")
