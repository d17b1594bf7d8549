"""Four hundred nights of one schedule, by a clock that the test drives, through the real calls.

Two beats tick, sometimes at the same instant; three are killed, one at each step; a worker vanishes
with the job in its hands; the machine is off for a week and once for an hour; the clocks change
twice.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from db.base.database import reading, write
from db.base.schema import jobs as jobs_table
from db.base.schema import runs as runs_table
from db.base.schema import schedules as schedules_table
from db.nightly import runs, schedules
from db.queue import leases
from db.work import claims, endings
from tests.support import soak
from tests.support.paths import ROOT
from worker.schedules import timetable

database_url = soak.database_url

NIGHTS = 400
ZONE = ZoneInfo("Europe/Paris")
#: In the hour that is skipped in March and comes twice in October.
CRON, AT = "30 2 * * *", (2, 30)
CATCH_UP = timedelta(hours=6)

#: Nights on which something happens.
WORKER_GONE, JOB_LOST = 90, 150
#: And after which step a beat is killed.
BEATS_KILLED = {20: "run", 120: "tick", 200: "commit"}
OFF_FOR_A_WEEK = range(230, 237)
OFF_FOR_AN_HOUR = 260
STILL_GOING = 300
TOGETHER = range(0, NIGHTS, 25)


#: Ticks, and dies: with the run written and its job not, before it commits, or before it notifies.
KILLED_BEAT = """
import os, signal, sys
from datetime import datetime
import sqlalchemy as sa
from db.base import database
from db.nightly import schedules
from worker.schedules import timetable

url, at, last_step = sys.argv[1], datetime.fromisoformat(sys.argv[2]), sys.argv[3]
engine = database.connect(url)

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def after(connection, cursor, statement, *_):
    if last_step == "run" and statement.startswith("INSERT INTO runs"):
        die()

sa.event.listen(engine, "after_cursor_execute", after)
with database.writing(engine) as connection:
    assert schedules.tick(connection, 1, at, timetable.times) is not None
    if last_step == "tick":
        die()
assert last_step == "commit"
die()
"""


def instant(day: date) -> datetime:
    """When the night of a date is due, worked out without cron."""
    wall = datetime(day.year, day.month, day.day, *AT, tzinfo=ZONE)
    there = wall.astimezone(timezone.utc).astimezone(ZONE)
    if there.replace(tzinfo=None) != wall.replace(tzinfo=None):
        # 02:30 does not exist: the clocks go from 02:00 to 03:00, when it runs.
        wall = datetime(day.year, day.month, day.day, 3, 0, tzinfo=ZONE)
    return wall.astimezone(timezone.utc)


def tick(engine: sa.Engine, at: datetime) -> list[int]:
    return timetable.tick(engine, lambda _: at)


def work(engine: sa.Engine, worker: str = "w", lease_s: float = 60.0) -> claims.Claimed | None:
    """Claim what is due, as a training worker does."""
    return write(engine, lambda c: claims.claim_job(c, "train", worker, lease_s))


def close(engine: sa.Engine, claimed: claims.Claimed) -> None:
    """End a night's job as one that kept the champion."""

    def end(connection: sa.Connection) -> None:
        leases.fence(connection, claimed.lease)
        run = runs.of_job(connection, claimed.lease.job_id)
        assert run is not None
        assert runs.finish(connection, run.id, "kept", "no better")
        endings.finish(connection, claimed.lease.job_id, "completed", "w")

    write(engine, end)


def test_four_hundred_nights_give_exactly_the_runs_expected_once_each(
    database: sa.Engine, database_url: str
) -> None:
    # Later than anything that is written meanwhile, or the clock would not be believed.
    first = date(datetime.now(timezone.utc).year + 1, 9, 1)
    nights = [first + timedelta(days=n) for n in range(NIGHTS)]
    due = [instant(night) for night in nights]
    changes = {moment.astimezone(ZONE).utcoffset() for moment in due}
    assert len(changes) == 2, "both changes of the clocks are among them"
    schedule_id = write(
        database,
        lambda c: schedules.add(
            c, name="nightly", cron=CRON, tz="Europe/Paris", kind="train",
            spec={"job": {"data": "/films"}}, catch_up_s=int(CATCH_UP.total_seconds()),
            created_by="tests",
        ),
    )  # fmt: skip
    assert schedule_id == 1
    write(
        database,
        lambda c: c.execute(
            sa.update(schedules_table).values(considered_until=due[0] - timedelta(hours=3))
        ),
    )
    expected: list[tuple[datetime, str, str]] = []
    going: claims.Claimed | None = None

    for n, moment in enumerate(due):
        if n in OFF_FOR_A_WEEK:
            continue
        if n == OFF_FOR_A_WEEK.stop:
            # The machine comes back at noon, too late to make up for the last of them.
            assert tick(database, due[n - 1] + timedelta(hours=10)) == []
            expected.append((due[n - 1], "missed", "clock"))
        assert tick(database, moment - timedelta(minutes=7)) == []

        last_step = BEATS_KILLED.get(n)
        if last_step is not None:
            beat = subprocess.run(
                [sys.executable, "-c", KILLED_BEAT, database_url, moment.isoformat(), last_step],
                cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
            )  # fmt: skip
            assert beat.returncode == -9, beat.stderr
            if last_step != "commit":
                assert work(database) is None, "what was not committed was not made"

        if n in TOGETHER:
            with ThreadPoolExecutor(2) as pool:
                made = list(pool.map(lambda _, at=moment: tick(database, at), range(2)))
        elif n == OFF_FOR_AN_HOUR:
            made = [tick(database, moment + timedelta(hours=1)) for _ in range(2)]
        else:
            made = [tick(database, moment + timedelta(seconds=n % 60)) for _ in range(2)]
        if going is not None:
            assert sum(map(len, made)) == 0, "a run that is still going is not doubled"
            expected.append((moment, "skipped", "clock"))
            close(database, going)
            going = None
            continue
        # What was committed is not made again, but its job is on the queue.
        assert sum(map(len, made)) == (last_step != "commit"), f"night {n}: {made}"
        expected.append((moment, "kept", "catch_up" if n == OFF_FOR_AN_HOUR else "clock"))

        if n == WORKER_GONE:
            gone = work(database, "gone", lease_s=-1.0)
            assert gone is not None
        claimed = work(database)
        assert claimed is not None
        if n == JOB_LOST:
            write(
                database,
                lambda c, held=claimed: leases.hand_back(c, held.lease, "x", in_good_order=True),
            )
            claimed = work(database)
            assert claimed is not None
        assert work(database) is None, "there is one job a night"
        if n == STILL_GOING:
            going = claimed
            continue
        close(database, claimed)

    with reading(database) as connection:
        found = connection.execute(
            sa.select(runs_table.c.scheduled_for, runs_table.c.outcome, runs_table.c.cause)
            .order_by(runs_table.c.scheduled_for)
        ).all()  # fmt: skip
        made_jobs: list[Any] = list(
            connection.execute(
                sa.select(jobs_table.c.scheduled_for).order_by(jobs_table.c.scheduled_for)
            ).scalars()
        )
        (missed,) = connection.execute(
            sa.select(runs_table.c.reason).where(runs_table.c.outcome == "missed")
        ).scalars()
    assert [tuple(row) for row in found] == expected
    assert made_jobs == [moment for moment, outcome, _ in expected if outcome == "kept"]
    assert len(made_jobs) == NIGHTS - len(OFF_FOR_A_WEEK) - 1
    assert missed.startswith("no worker ran at 7 times, from ")
