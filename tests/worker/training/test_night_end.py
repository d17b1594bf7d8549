"""A worker at the end of a night: training stops at a checkpoint, is put aside, or given up."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from db.base import database as connecting
from db.base import outbox
from db.base.schema import runs as runs_table
from db.base.schema import schedules as schedules_table
from db.nightly import ends, runs, schedules
from db.nightly.nights import last_decided
from db.queue import jobs
from db.queue.training import epoch_rows
from tests.support.broken import away
from tests.worker import samples, spots
from tests.worker.training import stand_in_child
from trainer.data import frozen, gathering
from trainer.judging.gate import Reason
from worker import config
from worker.machine.heartbeat import Heartbeat
from worker.training import kept_films, loop
from worker.training.night import NightEnd
from worker.training.night_child import Films

HOUR = timedelta(hours=1)


class Nights:
    """A schedule whose nights end, and a worker that trains with the stand-in."""

    def __init__(self, engine: sa.Engine, home: Path, data: Path, **night: Any) -> None:
        self.settings = config.load(
            {
                "PNEUMOQ_HOME": str(home),
                "PNEUMOQ_DATABASE_URL": engine.url.render_as_string(hide_password=False),
            }
        )
        self.engine = engine
        self.heartbeat = Heartbeat(engine, "w", lease_s=60.0)
        self.heartbeat.start()
        spec = {
            "job": {**samples.TRAINING, "data": str(data), "epochs": 10_000},
            "night": {"until": "06:00", **night},
        }
        connecting.write(
            engine,
            lambda c: schedules.add(
                c, name="nightly", cron="0 22 * * *", tz="Europe/Paris", kind="train", spec=spec,
                catch_up_s=60, created_by="tests",
            ),
        )  # fmt: skip
        now = schedules.database_clock(engine)

        def make(connection: sa.Connection) -> int | None:
            row = connection.execute(sa.select(schedules_table)).one()
            return schedules.make_run(connection, row, now, "clock", now + HOUR)

        made = connecting.write(engine, make)
        assert made is not None
        self.run_id = made
        self.job_id = int(runs.get(engine, made)["job_id"])

    def until(self, seconds: float) -> None:
        """Let the night end in so many seconds."""
        end = schedules.database_clock(self.engine) + timedelta(seconds=seconds)
        move = sa.update(runs_table).values(until=end)
        connecting.write(self.engine, lambda c: c.execute(move))

    def work(self) -> None:
        """Train what is due."""
        loop.Trainer(
            self.settings, self.engine, "w", self.heartbeat, threading.Event()
        ).drain()  # fmt: skip

    def until_more_is_learned(self) -> int:
        """Let nights pass, each longer than the one before; how many it took."""
        before = len(self.epochs())
        for count in range(1, 8):
            self.until(2.0**count)
            self.work()
            if len(self.epochs()) > before:
                return count
            self.goes_on()
        raise AssertionError("nothing was learned")

    def close(self) -> None:
        self.heartbeat.end()

    def epochs(self) -> list[int]:
        return [row["epoch"] for row in epoch_rows(self.engine, self.job_id)]

    def job(self) -> sa.RowMapping:
        return jobs.get(self.engine, self.job_id)

    def run(self) -> sa.RowMapping:
        return runs.get(self.engine, self.run_id)

    def goes_on(self) -> None:
        """The next night begins."""

        def go(connection: sa.Connection) -> bool:
            run = connection.execute(sa.select(runs_table)).mappings().one()
            at = connection.execute(sa.select(runs_table.c.until)).scalar_one()
            return ends.goes_on(connection, run, at + HOUR, at, "schedule nightly")

        assert connecting.write(self.engine, go)


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """SQLite: what both databases are asked is tested apart."""
    return sqlite_url


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return spots.write(tmp_path / "films", 4, 1)


@pytest.fixture
def nights(database: sa.Engine, tmp_path: Path, data: Path, stand_in: str) -> Iterator[Nights]:
    with closing(Nights(database, tmp_path / "home", data)) as made:
        yield made


def test_at_the_end_of_the_night_training_stops_at_a_checkpoint_and_goes_on_from_there(
    nights: Nights,
) -> None:
    count = nights.until_more_is_learned()
    done = nights.epochs()
    job, run = nights.job(), nights.run()
    assert (job["state"], run["state"], run["put_aside"]) == ("paused", "running", count)
    assert job["reason"] == (
        "the training was not done at 06:00 in Europe/Paris, the end of its night; schedule "
        "nightly goes on with it at its next time"
    )
    assert outbox.recent(nights.engine) == []

    nights.goes_on()
    more = nights.until_more_is_learned()
    again = nights.epochs()
    assert again == list(range(1, len(again) + 1))
    assert len(again) > len(done), "it went on"
    notes = [e["detail"] for e in jobs.events(nights.engine, nights.job_id) if e["event"] == "note"]
    assert any(note.startswith("continuing after epoch ") for note in notes)
    assert nights.run()["put_aside"] == count + more


def test_a_training_that_is_claimed_after_the_end_of_its_night_is_not_begun(
    nights: Nights,
) -> None:
    nights.until(-1.0)
    nights.work()
    assert (nights.job()["state"], nights.run()["put_aside"]) == ("paused", 1)
    assert nights.epochs() == []
    assert not list((nights.settings.home / "training").rglob(stand_in_child.CHECKPOINT))


def test_a_training_that_is_late_is_given_up_where_that_was_asked_for(
    database: sa.Engine, tmp_path: Path, data: Path, stand_in: str
) -> None:
    with closing(Nights(database, tmp_path / "home", data, if_late="give-up")) as nights:
        nights.until(1.0)
        nights.work()
        reason = (
            "the training was not done at 06:00 in Europe/Paris, the end of its night, and was "
            "given up"
        )
        job, run = nights.job(), nights.run()
        assert (job["state"], job["reason"]) == ("cancelled", reason)
        assert (run["outcome"], run["reason"]) == ("kept", reason)
        (told,) = outbox.recent(database)
        assert (told["event"], told["payload"]["text"]) == ("kept", reason)
        # It had looked at the films. That nothing has changed since is no reason to train nothing.
        looked = sa.update(runs_table).values(snapshot={"hash": "of the films"})
        connecting.write(database, lambda c: c.execute(looked))
        assert last_decided(database, run["schedule_id"]) is None
        assert list((nights.settings.home / "training").rglob(stand_in_child.CHECKPOINT))


def test_while_the_database_is_away_the_night_ends_all_the_same(
    breakable: away.Breakable,
) -> None:
    engine = connecting.connect(breakable.url)
    try:
        now = schedules.database_clock(engine)
        end = NightEnd(engine, now + timedelta(seconds=0.5))
        assert not end.passed()
        with breakable.away():
            samples.wait(end.passed, "the night to end")
        assert not NightEnd(engine, None).passed()
    finally:
        engine.dispose()


def test_what_is_kept_of_a_night_s_films_is_what_they_were(tmp_path: Path) -> None:
    gathered = gathering.gather([spots.write(tmp_path / "films", 4, 1)])
    judged = frozen.of_source(tmp_path / "films")
    films = Films(
        gathered=gathered, positive="PNEUMONIA", judged=judged[:3], missing=judged[3:], told="so",
        against=(Reason(text="a group", shareable="one"),),
    )  # fmt: skip
    assert kept_films.kept(tmp_path) is None
    kept_films.keep(tmp_path, films)
    assert kept_films.kept(tmp_path) == films
