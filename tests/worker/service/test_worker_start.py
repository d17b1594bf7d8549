"""What a worker process needs to start, and that it ends with the reason where that is missing."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from db.base import workers
from tests.worker import samples
from worker import app, config
from worker.archive import apart
from worker.machine import health
from worker.service.registration import Registration


def _started(queue: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """A worker of this queue that was waited for."""
    return subprocess.run(
        [sys.executable, "-m", "celery", "--app", "worker.app", "worker", "--queues", queue],
        env=os.environ | settings,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_worker_without_a_schema_ends_and_says_what_to_do(empty_sqlite_url: str) -> None:
    ended = _started("score", PNEUMOQ_DATABASE_URL=empty_sqlite_url)
    assert ended.returncode == 1
    assert "this worker cannot start" in ended.stderr
    assert "pneumoq db upgrade" in ended.stderr


def test_a_training_worker_without_pytorch_ends_and_says_what_to_install(
    empty_sqlite_url: str, tmp_path: Path
) -> None:
    # Python runs this file at its start; it makes a machine without PyTorch of this one.
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")
    ended = _started("train", PNEUMOQ_DATABASE_URL=empty_sqlite_url, PYTHONPATH=str(tmp_path))
    assert ended.returncode == 1
    assert "pneumoq[train]" in ended.stderr


@pytest.mark.parametrize(("before", "after"), [(0, 10), (3, 10), (15, 15)])
def test_a_worker_stands_back_to_one_place_however_it_was_started(before: int, after: int) -> None:
    program = "import os; from worker import tasks; tasks.stand_back(); print(os.nice(0))"
    # A test stands back itself, and only root may come forward again.
    before = max(before, os.nice(0))
    ended = subprocess.run(
        ["nice", "-n", str(before - os.nice(0)), sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(ended.stdout) == max(after, before)


def test_a_worker_works_on_one_thing_at_a_time_in_a_thread() -> None:
    made = app.make(config.load({}))
    assert (made.conf.worker_pool, made.conf.worker_concurrency) == ("threads", 1)


def test_a_worker_whose_gpu_s_driver_gives_no_answer_starts_and_is_alive(
    database: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()
    monkeypatch.setattr(health, "read", lambda **_: answers.wait() and {})
    registration = Registration(config.load({}), database, ["score"], None)
    began = threading.Thread(target=registration.start, daemon=True)
    began.start()
    began.join(20)
    assert not began.is_alive()
    assert [row["id"] for row in workers.alive(database)] == [registration.worker_id]
    registration.end()
    answers.set()


def test_a_workers_row_counts_those_who_were_left_behind_at_a_share(database: sa.Engine) -> None:
    ended = threading.Event()
    apart.leave(lambda: not ended.is_set(), "a process")
    registration = Registration(config.load({}), database, ["score"], None)
    registration.start()

    def told() -> dict[str, Any]:
        return workers.alive(database)[0]["health"] or {}

    samples.wait(lambda: told().get("left_behind") == 1, "its row to say so")
    ended.set()
    registration.end()
