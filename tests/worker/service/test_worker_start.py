"""What a worker process needs to start, and that it ends with the reason where that is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from worker import app, config


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
