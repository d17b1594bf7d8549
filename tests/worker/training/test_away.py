"""The database is away for longer than anybody's patience, and a training in hand goes on."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from db.base import database as connecting
from db.base.schema import jobs as jobs_table
from db.base.types import now
from db.queue import jobs
from db.queue import training as rows
from tests.support import processes as running
from tests.support.broken import away
from tests.worker import samples
from tests.worker.training import stand_in_child
from worker import config
from worker.config import Settings
from worker.machine.heartbeat import Heartbeat
from worker.training import loop

LEASE_S = 0.5

#: Seconds for which the database is away: longer than patience and lease.
AWAY_S = 2.0


@pytest.fixture
def settings(breakable: away.Breakable, tmp_path: Path) -> Settings:
    return config.load(
        {
            "PNEUMOQ_HOME": str(tmp_path / "home"),
            "PNEUMOQ_DATABASE_URL": breakable.url,
            "PNEUMOQ_LEASE_S": str(LEASE_S),
        }
    )


@pytest.fixture
def engine(breakable: away.Breakable) -> Iterator[sa.Engine]:
    made = connecting.connect(breakable.url, connecting.PATIENCE_S)
    yield made
    made.dispose()


class Training:
    """A worker's training of one job by the stand-in, in a thread."""

    def __init__(self, settings: Settings, engine: sa.Engine, data: Path, epochs: int) -> None:
        self.settings, self.engine = settings, engine
        spec = {**samples.TRAINING, "data": str(data), "epochs": epochs}
        self.job_id = connecting.write(
            engine, lambda c: jobs.submit(c, kind="train", spec=spec, submitted_by="tests")
        )
        self.stop = threading.Event()
        self.heartbeat = Heartbeat(engine, "w", lease_s=LEASE_S)
        self.heartbeat.start()
        trainer = loop.Trainer(settings, engine, "w", self.heartbeat, self.stop)
        self._pool = ThreadPoolExecutor(1)
        self.work = self._pool.submit(trainer.drain)
        samples.wait(self.epochs, "the first epoch")

    def epochs(self) -> list[int]:
        """The epochs that are rows."""
        return [row["epoch"] for row in rows.epoch_rows(self.engine, self.job_id)]

    def saved(self) -> int:
        """How many epochs the newest checkpoint holds."""
        (folder,) = (self.settings.home / "training" / f"job-{self.job_id}").glob("attempt-*")
        return stand_in_child.finished(folder)

    def events(self) -> list[str]:
        """The words of the job's history."""
        return [str(event["event"]) for event in jobs.events(self.engine, self.job_id)]

    def end(self) -> BaseException | None:
        """Wait for the end: what it raised, if it did."""
        raised = self.work.exception(samples.PATIENCE_S)
        self._pool.shutdown()
        self.heartbeat.end()
        return raised


def children(module: str) -> list[int]:
    return running.children(os.getpid(), module)


def test_a_training_goes_on_without_the_database_and_reports_when_it_is_back(
    settings: Settings, engine: sa.Engine, breakable: away.Breakable, labelled: Path, stand_in: str
) -> None:
    made = Training(settings, engine, labelled, epochs=60)
    process = children(stand_in)
    assert len(process) == 1
    with breakable.away():
        before = made.saved()
        time.sleep(AWAY_S)
        assert children(stand_in) == process, "it was not ended"
        assert made.saved() > before + 3, "it has saved checkpoints meanwhile"
    assert made.end() is None
    job = jobs.get(engine, made.job_id)
    assert (job["state"], job["attempts"]) == ("completed", 1)
    assert made.epochs() == list(range(1, 61)), "every epoch was reported, once"
    assert made.events().count("running") == 1


def test_a_training_that_ends_without_the_database_registers_its_model_when_it_is_back(
    settings: Settings, engine: sa.Engine, breakable: away.Breakable, labelled: Path, stand_in: str
) -> None:
    made = Training(settings, engine, labelled, epochs=8)
    with breakable.away():
        samples.wait(lambda: not children(stand_in), "the training process to end")
        time.sleep(AWAY_S)
        assert not made.work.done(), "it waits"
    assert made.end() is None
    job = jobs.get(engine, made.job_id)
    assert (job["state"], job["attempts"]) == ("completed", 1)
    assert job["model_id"] is not None
    assert made.epochs() == list(range(1, 9))


def test_a_training_whose_lease_another_took_while_the_database_was_away_is_given_up(
    settings: Settings, engine: sa.Engine, breakable: away.Breakable, labelled: Path, stand_in: str
) -> None:
    made = Training(settings, engine, labelled, epochs=10_000)
    made.heartbeat.end()  # so that another is faster
    done = len(made.epochs())
    with breakable.away():
        time.sleep(AWAY_S)
        assert children(stand_in)
    taken = sa.update(jobs_table).values(
        lease_token=jobs_table.c.lease_token + 1, worker_id="another", lease_until=now(600)
    )
    connecting.write(engine, lambda c: c.execute(taken))
    assert made.work.exception(samples.PATIENCE_S) is None
    assert not children(stand_in)
    job = jobs.get(engine, made.job_id)
    assert (job["state"], job["worker_id"]) == ("running", "another"), "nothing is written of it"
    assert "handed_back" not in made.events()
    assert len(made.epochs()) >= done


def test_a_worker_that_is_stopped_without_the_database_ends_and_leaves_a_checkpoint(
    settings: Settings, engine: sa.Engine, breakable: away.Breakable, labelled: Path, stand_in: str
) -> None:
    made = Training(settings, engine, labelled, epochs=10_000)
    with breakable.away():
        time.sleep(1.0)
        made.stop.set()
        raised = made.work.exception(samples.PATIENCE_S)
        assert raised is not None and connecting.away(raised), "it does not wait for ever"
        assert not children(stand_in)
    made.end()
    assert made.saved() >= len(made.epochs())
