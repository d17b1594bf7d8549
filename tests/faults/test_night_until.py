"""Nights with an end, by a machine's clock that the test drives: real workers, real training."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from db.base import database
from db.base.schema import schedules as table
from db.nightly import nights, runs, schedules
from db.queue import jobs
from db.queue.training import epoch_rows
from tests.faults import harm
from tests.support import soak
from tests.support.broken.clock import Clock
from tests.support.site import Site
from tests.worker import samples, spots
from trainer.data.labelled import NAMING

ZONE = ZoneInfo("Europe/Paris")

#: More than fit into one night here, and less than a minute's.
EPOCHS = 50

#: Longest wait for a step, in seconds.
PATIENCE_S = 400.0

JOB = {
    "epochs": EPOCHS, "patience": 0, "size": 32, "batch_size": 16, "lr": 1e-3, "init": "scratch",
    "precision": "fp32", "val_fraction": 0.3, "operating_point": "youden", "ema": 0.9,
    "augment": 0.25, "positive": "PNEUMONIA", "workers": 1, "seed": 0, "naming": NAMING,
}  # fmt: skip


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """SQLite, whose clock is that of whoever asks; PostgreSQL has one of its own."""
    return sqlite_url


def evening() -> datetime:
    """The first evening at ten that is an hour away at least."""
    now = datetime.now(ZONE)
    at = now.replace(hour=22, minute=0, second=0, microsecond=0)
    return at if at > now + timedelta(hours=1) else at + timedelta(days=1)


@soak.ONLY
@pytest.mark.timeout(1500)
def test_a_training_stops_at_six_and_goes_on_the_next_evening_where_it_was(
    here: Site, tmp_path: Path
) -> None:
    data = spots.write(tmp_path / "data", 60, 1)
    spec = {
        "job": {**JOB, "data": str(data)},
        "night": {"until": "06:00", "if_late": "continue"},
    }
    begins = evening()
    ends = (begins + timedelta(days=1)).replace(hour=6)

    def add(connection: sa.Connection) -> None:
        schedules.add(
            connection, name="nightly", cron="0 22 * * *", tz=str(ZONE), kind="train", spec=spec,
            catch_up_s=60, created_by="tests",
        )  # fmt: skip

    database.write(here.engine, add)
    clock = Clock(tmp_path / "clock")

    def show(at: datetime) -> None:
        """Let the machine's clock show this from now on."""
        clock.step((at - datetime.now(timezone.utc)).total_seconds())

    def job() -> sa.RowMapping:
        return jobs.get(here.engine, 1)

    def epochs() -> list[int]:
        return [row["epoch"] for row in epoch_rows(here.engine, 1)]

    def wait(true: Callable[[], Any], what: str) -> None:
        # Two trainings' beginnings, each of which loads PyTorch.
        samples.wait(true, what, PATIENCE_S)

    def begin() -> subprocess.Popen[bytes]:
        # It counts as gone to whoever tells the time otherwise, as this process does.
        made = here.begin_worker("train", within=clock.within(), lease_s=600.0)
        wait(lambda: here.says(made, " ready."), "the worker to be ready")
        return made

    show(begins - timedelta(minutes=2))
    worker = begin()
    assert here.rows("SELECT 1 FROM runs") == []
    show(begins + timedelta(seconds=5))
    wait(lambda: here.rows("SELECT 1 FROM runs"), "the night to begin")
    wait(epochs, "an epoch")
    (run,) = runs.of_schedule(here.engine, 1)
    assert run["until"] == ends

    show(ends - timedelta(hours=1))
    was = len(epochs())
    wait(lambda: len(epochs()) > was, "training to go on until six")
    assert job()["state"] == "running"
    show(ends + timedelta(seconds=1))
    wait(lambda: job()["state"] == "paused", "training to stop at six")
    done = epochs()
    assert done == list(range(1, len(done) + 1))
    assert len(done) < EPOCHS
    dataset = job()["dataset_id"]

    # By day films come in, and the machine is started again; nothing is trained.
    for film in spots.write(tmp_path / "more", 4, 2).rglob("*.png"):
        shutil.copy(film, data / film.parent.name / film.name)
    worker.kill()
    worker.wait()
    show(ends + timedelta(hours=3))
    worker = begin()
    assert (job()["state"], epochs()) == ("paused", done)

    show(begins + timedelta(days=1, seconds=5))
    wait(lambda: job()["finished_at"] is not None, "the training to end the next night")
    assert job()["state"] == "completed", job()["reason"]
    assert epochs() == list(range(1, EPOCHS + 1))
    notes = [e["detail"] for e in jobs.events(here.engine, 1) if e["event"] == "note"]
    assert "going on with the films of the night on which it began" in notes
    assert not [note for note in notes if "is not gone on from" in note]
    assert job()["dataset_id"] == dataset, "the films are those with which it began"
    assert len(nights.films(here.engine, dataset)) == 120
    second, first = runs.of_schedule(here.engine, 1)
    assert (second["outcome"], first["put_aside"]) == ("skipped", 1)
    assert first["candidate_id"] is not None
    with database.reading(here.engine) as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(table)).scalar() == 1
    harm.alive(worker)
