"""Nights with an end: when it is, what becomes of a training that is not done, how it goes on."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import sqlalchemy as sa

from db.base.database import write
from db.base.errors import LeaseLost
from db.base.schema import notices
from db.base.schema import schedules as table
from db.nightly import ends, runs, schedules
from db.queue import jobs
from db.work import claims, control, endings
from tests.db import given
from worker.schedules import timetable

#: A time of the schedules here, later than anything that is written meanwhile.
YEAR = datetime.now(timezone.utc).year + 1
TONIGHT = datetime(YEAR, 3, 10, 22, tzinfo=timezone.utc)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
END = TONIGHT + 8 * HOUR


class Night:
    """What `ends.of` asks of a schedule."""

    def __init__(self, until: str | None, tz: str) -> None:
        self.spec: dict[str, Any] = {"night": {} if until is None else {"until": until}}
        self.tz = tz


@pytest.mark.parametrize(
    ("tz", "begins", "until", "end"),
    [
        ("Europe/Paris", "2027-01-10T22:00+01:00", "06:00", "2027-01-11T06:00+01:00"),
        ("Europe/Paris", "2027-01-10T02:00+01:00", "6:00", "2027-01-10T06:00+01:00"),
        # It starts after its own end, or at it: it is the next day's.
        ("Europe/Paris", "2027-01-10T08:00+01:00", "06:00", "2027-01-11T06:00+01:00"),
        ("Europe/Paris", "2027-01-10T06:00+01:00", "06:00", "2027-01-11T06:00+01:00"),
        ("Asia/Kolkata", "2027-01-10T22:00+05:30", "00:00", "2027-01-11T00:00+05:30"),
        # The night is an hour shorter, and an hour longer.
        ("Europe/Paris", "2027-03-27T22:00+01:00", "06:00", "2027-03-28T06:00+02:00"),
        ("Europe/Paris", "2027-10-30T22:00+02:00", "06:00", "2027-10-31T06:00+01:00"),
        # The hour that is skipped, and the one that comes twice.
        ("Europe/Paris", "2027-03-27T22:00+01:00", "02:30", "2027-03-28T03:00+02:00"),
        ("Europe/Paris", "2027-10-30T22:00+02:00", "02:30", "2027-10-31T02:30+02:00"),
        ("Europe/Paris", "2027-10-31T02:30+01:00", "02:30", "2027-11-01T02:30+01:00"),
        ("UTC", "2027-01-10T22:00+00:00", None, None),
    ],
)  # fmt: skip
def test_a_night_ends_when_the_clocks_of_its_zone_next_show_so(
    tz: str, begins: str, until: str | None, end: str | None
) -> None:
    found = ends.of(Night(until, tz), datetime.fromisoformat(begins), timetable.times)
    assert found == (None if end is None else datetime.fromisoformat(end))


def add(database: sa.Engine, **night: Any) -> int:
    """A schedule whose next time is tonight, and whose nights have an end."""
    number = write(
        database,
        lambda c: schedules.add(
            c, name="nightly", cron="0 22 * * *", tz="UTC", kind="train",
            spec={"job": {"data": "/films"}, "night": {"until": "06:00", **night}},
            catch_up_s=int((12 * HOUR).total_seconds()), created_by="tests",
        ),
    )  # fmt: skip
    early = sa.update(table).values(considered_until=TONIGHT - HOUR)
    write(database, lambda c: c.execute(early))
    return number


def tick(database: sa.Engine, at: datetime) -> list[int]:
    return timetable.tick(database, lambda _: at)


def claim(database: sa.Engine) -> claims.Claimed | None:
    return write(database, lambda c: claims.claim_job(c, "train", "w", 60.0))


def aside(database: sa.Engine) -> int:
    """Let tonight's training be put aside at the end of the night; its run."""
    (run_id,) = tick(database, TONIGHT)
    claimed = claim(database)
    assert claimed is not None
    write(database, lambda c: ends.put_aside(c, claimed.lease, run_id, "it was not done"))
    return run_id


def test_a_training_that_was_put_aside_waits_by_day_and_goes_on_the_next_night(
    database: sa.Engine,
) -> None:
    number = add(database)
    run_id = aside(database)
    run = runs.get(database, run_id)
    job_id = run["job_id"]
    assert (run["until"], run["put_aside"], run["state"]) == (END, 1, "running")
    job = jobs.get(database, job_id)
    assert (job["state"], job["reason"]) == ("paused", "it was not done")
    assert job["attempts"] == 0, "it is no attempt that failed"
    assert claim(database) is None
    assert tick(database, END + HOUR) == []

    assert tick(database, TONIGHT + DAY) == [run_id]
    claimed = claim(database)
    assert claimed is not None
    assert claimed.lease.job_id == job_id
    assert runs.get(database, run_id)["until"] == END + DAY
    assert jobs.get(database, job_id)["reason"] is None
    _, second = reversed(runs.of_schedule(database, number))
    assert (second["scheduled_for"], second["outcome"]) == (TONIGHT + DAY, "skipped")
    assert second["reason"] == (
        f"the training of the run of {TONIGHT:%Y-%m-%d %H:%M} UTC goes on (job {job_id})"
    )
    assert given.count(database, notices) == 0, "nobody is told of that"
    assert [e["event"] for e in jobs.events(database, job_id)] == [
        "submitted", "running", "put_aside", "resumed", "running",
    ]  # fmt: skip
    # Once it is over, the next night is one of its own.
    write(database, lambda c: runs.finish(c, run_id, "kept", None))
    write(database, lambda c: endings.finish(c, job_id, "completed", "w"))
    (third,) = tick(database, TONIGHT + 2 * DAY)
    assert third not in (run_id, second["id"])


def test_a_training_that_no_worker_began_has_the_next_night_too(database: sa.Engine) -> None:
    add(database)
    (run_id,) = tick(database, TONIGHT)
    assert tick(database, TONIGHT + DAY) == [run_id]
    assert runs.get(database, run_id)["until"] == END + DAY


def test_a_training_that_still_runs_at_the_next_time_is_not_doubled(database: sa.Engine) -> None:
    # By a worker of an older release, which knows of no end.
    number = add(database)
    tick(database, TONIGHT)
    assert claim(database) is not None
    assert tick(database, TONIGHT + DAY) == []
    newest = runs.of_schedule(database, number)[0]
    assert newest["outcome"] == "skipped"
    assert "was still going on" in newest["reason"]


def test_a_night_that_is_over_is_not_made_up_for(database: sa.Engine) -> None:
    number = add(database)
    assert tick(database, END + MINUTE) == []
    (run,) = runs.of_schedule(database, number)
    assert run["outcome"] == "missed"


def test_a_night_that_is_not_over_is_made_up_for_until_it_ends(database: sa.Engine) -> None:
    add(database)
    (run_id,) = tick(database, END - HOUR)
    run = runs.get(database, run_id)
    assert (run["cause"], run["until"]) == ("catch_up", END)


def test_what_a_person_resumes_goes_on_by_day_to_its_end(database: sa.Engine) -> None:
    number = add(database)
    run_id = aside(database)
    job_id = runs.get(database, run_id)["job_id"]
    write(database, lambda c: control.resume(c, job_id, "kim"))
    assert runs.get(database, run_id)["until"] is None
    assert claim(database) is not None
    assert tick(database, TONIGHT + DAY) == []
    assert "was still going on" in runs.of_schedule(database, number)[0]["reason"]


def test_what_a_person_pauses_stays_paused(database: sa.Engine) -> None:
    add(database)
    run_id = aside(database)
    job_id = runs.get(database, run_id)["job_id"]
    write(database, lambda c: control.pause(c, job_id, "kim"))
    assert tick(database, TONIGHT + DAY) == []
    assert jobs.get(database, job_id)["state"] == "paused"


def test_what_a_person_resumed_and_paused_by_an_older_release_stays_paused(
    database: sa.Engine,
) -> None:
    add(database)
    run_id = aside(database)
    job_id = runs.get(database, run_id)["job_id"]
    before = jobs.get(database, job_id)["put_aside_at"]

    def as_before(connection: sa.Connection) -> None:
        control.resume(connection, job_id, "kim")
        control.pause(connection, job_id, "kim")
        values = {"at": before - HOUR, "id": job_id}
        connection.execute(
            sa.text("UPDATE jobs SET put_aside_at = :at WHERE id = :id").bindparams(
                sa.bindparam("at", type_=table.c.created_at.type)
            ),
            values,
        )

    write(database, as_before)
    assert tick(database, TONIGHT + DAY) == []
    assert jobs.get(database, job_id)["state"] == "paused"


def test_a_run_by_hand_lets_it_go_on(database: sa.Engine) -> None:
    add(database)
    run_id = aside(database)
    made = write(database, lambda c: schedules.run_now(c, "nightly", timetable.times, "kim"))
    assert made == run_id
    until = runs.get(database, run_id)["until"]
    assert until is not None
    now = schedules.database_clock(database)
    assert now < until <= now + DAY
    assert (until.hour, until.minute) == (6, 0)
    assert claim(database) is not None


def test_a_worker_that_lost_its_claim_puts_nothing_aside(database: sa.Engine) -> None:
    add(database)
    (run_id,) = tick(database, TONIGHT)
    claimed = claim(database)
    assert claimed is not None
    job_id = claimed.lease.job_id
    write(database, lambda c: control.cancel(c, job_id, "kim"))
    with pytest.raises(LeaseLost):
        write(database, lambda c: ends.put_aside(c, claimed.lease, run_id, "late"))
    assert runs.get(database, run_id)["put_aside"] == 0
