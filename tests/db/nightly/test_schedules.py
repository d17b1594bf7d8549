"""Schedules as rows: added, paused, removed, and each of their times dealt with once."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from db.base.database import reading, write
from db.base.errors import Conflict, NotFound
from db.base.schema import jobs as jobs_table
from db.base.schema import notices as notices_table
from db.base.schema import schedules as table
from db.nightly import runs, schedules
from db.queue import jobs
from db.registry import aliases, models
from db.work import claims, endings
from tests.db import given
from trainer.data import labelled

#: A time of the schedules here, later than anything that is written meanwhile.
TONIGHT = datetime(datetime.now(timezone.utc).year + 1, 3, 10, 2, tzinfo=timezone.utc)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
CATCH_UP = 6 * HOUR


def nightly(cron: str, tz: str, after: datetime, until: datetime) -> list[datetime]:
    """The times of a schedule of every night at two, without any cron."""
    assert (cron, tz) == ("0 2 * * *", "UTC")
    first = after.replace(hour=2, minute=0, second=0, microsecond=0)
    while first <= after:
        first += DAY
    return [first + n * DAY for n in range(max((until - first) // DAY + 1, 0))]


def add(database: sa.Engine, name: str = "nightly", **values: Any) -> int:
    """A schedule whose next time is tonight."""
    fields: dict[str, Any] = {
        "cron": "0 2 * * *", "tz": "UTC", "kind": "train", "spec": {"job": {"data": "/films"}},
        "catch_up_s": int(CATCH_UP.total_seconds()), "created_by": "tests",
    } | values  # fmt: skip
    number = write(database, lambda c: schedules.add(c, name=name, **fields))
    considered(database, TONIGHT - HOUR)
    return number


def considered(database: sa.Engine, until: datetime) -> None:
    write(database, lambda c: c.execute(sa.update(table).values(considered_until=until)))


def tick(database: sa.Engine, number: int, at: datetime) -> int | None:
    return write(database, lambda c: schedules.tick(c, number, at, nightly))


def end(database: sa.Engine, run_id: int, outcome: str = "kept") -> None:
    assert write(database, lambda c: runs.finish(c, run_id, outcome, None))


def outcomes(database: sa.Engine, number: int) -> list[tuple[datetime, str, str | None]]:
    """A schedule's runs, oldest first."""
    return [
        (run["scheduled_for"], run["cause"], run["outcome"])
        for run in reversed(runs.of_schedule(database, number, 100))
    ]


@pytest.mark.parametrize("name", ["nightly", "1", "été_2.b-c", "train", "a" * 48])
def test_a_good_name_has_no_fault(name: str) -> None:
    assert schedules.name_fault(name) is None


@pytest.mark.parametrize("name", ["", "a b", "a#1", "a/b", "a\n", "a" * 49])
def test_a_bad_name_has_a_fault(name: str) -> None:
    assert schedules.name_fault(name) is not None


def test_a_schedule_of_before_keeps_its_rules_about_names_and_its_first_job_says_none(
    database: sa.Engine,
) -> None:
    number = add(database)
    add(database, "today", spec={"job": {"data": "/films", "naming": 2}, "night": {"keep": 3}})
    for night in range(2):
        run_id = tick(database, number, TONIGHT + night * DAY)
        assert run_id is not None
        end(database, run_id)
    write(database, lambda c: schedules.run_now(c, "today"))
    specs = [jobs.get(database, job)["spec"] for job in (1, 2, 3)]
    assert specs == [
        {"data": "/films"},
        {"data": "/films", "naming": schedules.FIRST_NAMING},
        {"data": "/films", "naming": 2},
    ]
    assert schedules.get(database, "today")["spec"]["night"] == {"keep": 3}
    assert schedules.FIRST_NAMING == labelled.FIRST_NAMING


def test_a_name_is_given_once(database: sa.Engine) -> None:
    number = add(database)
    with pytest.raises(Conflict, match="there is a schedule 'nightly' already; `pneumoq schedule"):
        add(database)
    assert schedules.get(database, "nightly")["id"] == number


def test_a_new_schedule_s_times_begin_now(database: sa.Engine) -> None:
    before = schedules.database_clock(database)
    write(
        database,
        lambda c: schedules.add(
            c, name="new", cron="0 2 * * *", tz="UTC", kind="train", spec={}, catch_up_s=0,
            created_by="tests",
        ),
    )  # fmt: skip
    until = schedules.get(database, "new")["considered_until"]
    assert before <= until <= schedules.database_clock(database)


def test_removing_frees_the_name_and_keeps_the_runs(database: sa.Engine) -> None:
    first = add(database)
    run_id = tick(database, first, TONIGHT)
    write(database, lambda c: schedules.remove(c, "nightly"))
    for name in ("nightly", f"nightly#{first}"):
        with pytest.raises(NotFound, match="`pneumoq schedule ls` lists them"):
            schedules.get(database, name)
    with pytest.raises(NotFound):
        write(database, lambda c: schedules.remove(c, "nightly"))
    assert schedules.listing(database) == []
    second = add(database)
    assert second != first
    assert [run["id"] for run in runs.of_schedule(database, first)] == [run_id]
    assert runs.of_schedule(database, second) == []


def test_a_removed_schedule_makes_no_runs_even_where_a_tick_has_begun(database: sa.Engine) -> None:
    number = add(database)
    assert schedules.active(database) == [number]
    write(database, lambda c: schedules.remove(c, "nightly"))
    assert schedules.active(database) == []
    assert tick(database, number, TONIGHT) is None
    assert outcomes(database, number) == []


def test_a_paused_schedule_makes_no_runs_and_does_not_make_up_for_them(
    database: sa.Engine,
) -> None:
    number = add(database)
    write(database, lambda c: schedules.set_paused(c, "nightly", True))
    assert schedules.active(database) == []
    considered(database, TONIGHT - HOUR)
    assert tick(database, number, TONIGHT) is None
    write(database, lambda c: schedules.set_paused(c, "nightly", False))
    row = schedules.get(database, "nightly")
    assert not row["paused"]
    assert abs(row["considered_until"] - schedules.database_clock(database)) < MINUTE
    considered(database, TONIGHT + HOUR)  # it was resumed then
    assert tick(database, number, TONIGHT + 2 * HOUR) is None
    assert outcomes(database, number) == []
    assert tick(database, number, TONIGHT + DAY) is not None


def test_what_is_paused_already_or_not_at_all_is_refused(database: sa.Engine) -> None:
    add(database)
    with pytest.raises(Conflict, match="schedule 'nightly' is not paused already"):
        write(database, lambda c: schedules.set_paused(c, "nightly", False))
    write(database, lambda c: schedules.set_paused(c, "nightly", True))
    with pytest.raises(Conflict, match="schedule 'nightly' is paused already"):
        write(database, lambda c: schedules.set_paused(c, "nightly", True))
    with pytest.raises(NotFound, match="there is no schedule 'weekly'"):
        write(database, lambda c: schedules.set_paused(c, "weekly", True))


@pytest.mark.parametrize(
    ("late", "expected"),
    [
        (timedelta(), ("clock", None)),
        (2 * MINUTE, ("clock", None)),
        (3 * MINUTE, ("catch_up", None)),
        (CATCH_UP, ("catch_up", None)),
        (CATCH_UP + timedelta(seconds=1), ("clock", "missed")),
    ],
)
def test_a_time_is_made_up_for_within_the_span(
    sqlite_database: sa.Engine, late: timedelta, expected: tuple[str, str | None]
) -> None:
    number = add(sqlite_database)
    made = tick(sqlite_database, number, TONIGHT + late)
    assert (made is None) == (expected[1] == "missed")
    assert outcomes(sqlite_database, number) == [(TONIGHT, *expected)]
    assert tick(sqlite_database, number, TONIGHT + late) is None, "once"
    assert len(outcomes(sqlite_database, number)) == 1


def test_where_nothing_is_made_up_for_what_is_on_time_runs_all_the_same(
    sqlite_database: sa.Engine,
) -> None:
    number = add(sqlite_database, catch_up_s=0)
    made = tick(sqlite_database, number, TONIGHT + timedelta(seconds=50))
    assert made is not None
    end(sqlite_database, made)
    assert tick(sqlite_database, number, TONIGHT + DAY + 3 * MINUTE) is None
    assert outcomes(sqlite_database, number)[-1] == (TONIGHT + DAY, "clock", "missed")


def test_times_that_came_to_nothing_are_one_row_that_counts_them(
    sqlite_database: sa.Engine,
) -> None:
    number = add(sqlite_database)
    made = tick(sqlite_database, number, TONIGHT + 7 * DAY + HOUR)
    assert made is not None
    assert outcomes(sqlite_database, number) == [
        (TONIGHT + 6 * DAY, "clock", "missed"),
        (TONIGHT + 7 * DAY, "catch_up", None),
    ]
    (missed,) = [r for r in runs.of_schedule(sqlite_database, number) if r["outcome"]]
    first, last = (f"{TONIGHT + n * DAY:%Y-%m-%d %H:%M}" for n in (0, 6))
    assert missed["reason"] == (
        f"no worker ran at 7 times, from {first} to {last} UTC, nor until the next time"
    )
    with reading(sqlite_database) as connection:
        (event,) = connection.execute(sa.select(notices_table.c.event)).scalars()
    assert event == "missed"


def test_one_time_that_came_to_nothing_is_told_as_one(sqlite_database: sa.Engine) -> None:
    number = add(sqlite_database)
    tick(sqlite_database, number, TONIGHT + 12 * HOUR)
    (run,) = runs.of_schedule(sqlite_database, number)
    assert run["reason"] == (
        f"no worker ran at {TONIGHT:%Y-%m-%d %H:%M} UTC, nor in time to make up for it"
    )
    assert run["finished_at"] is not None


def test_a_run_that_is_still_open_is_not_doubled(database: sa.Engine) -> None:
    number = add(database)
    first = tick(database, number, TONIGHT)
    assert first is not None
    assert tick(database, number, TONIGHT + DAY) is None
    assert outcomes(database, number) == [
        (TONIGHT, "clock", None), (TONIGHT + DAY, "clock", "skipped"),
    ]  # fmt: skip
    skipped = runs.of_schedule(database, number)[0]
    job_id = runs.get(database, first)["job_id"]
    with reading(database) as connection:
        assert connection.execute(sa.select(notices_table.c.event)).scalars().all() == ["skipped"]
    assert skipped["reason"] == (
        f"the run of {TONIGHT:%Y-%m-%d %H:%M} UTC was still going on (job {job_id})"
    )
    end(database, first)
    assert tick(database, number, TONIGHT + 2 * DAY) is not None


def test_a_folder_that_is_still_looked_through_is_not_looked_through_twice(
    sqlite_database: sa.Engine,
) -> None:
    number = add(sqlite_database, kind="score", spec={"job": {"sources": ["/inbox"]}})
    first = tick(sqlite_database, number, TONIGHT)
    assert first is not None
    run = runs.get(sqlite_database, first)
    assert (run["state"], run["job_id"], run["champion_id"]) == ("due", None, None)
    tick(sqlite_database, number, TONIGHT + DAY)
    assert (
        "was still going on (its folder)" in runs.of_schedule(sqlite_database, number)[0]["reason"]
    )
    with reading(sqlite_database) as connection:
        events = connection.execute(sa.select(notices_table.c.event)).scalars().all()
    assert events == [], "it is looked at every few minutes: hooks are left in peace"


def test_a_clock_that_goes_back_does_nothing_twice(sqlite_database: sa.Engine) -> None:
    number = add(sqlite_database)
    made = tick(sqlite_database, number, TONIGHT + MINUTE)
    assert made is not None
    end(sqlite_database, made)
    for moment in (TONIGHT - HOUR, TONIGHT, TONIGHT + MINUTE):
        assert tick(sqlite_database, number, moment) is None
    assert len(outcomes(sqlite_database, number)) == 1


def test_a_tick_that_is_rolled_back_leaves_neither_run_nor_job(database: sa.Engine) -> None:
    number = add(database)

    class Died(Exception):
        pass

    def dies(connection: sa.Connection) -> None:
        assert schedules.tick(connection, number, TONIGHT, nightly) is not None
        raise Died

    with pytest.raises(Died):
        write(database, dies)
    assert outcomes(database, number) == []
    with reading(database) as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(jobs_table)).scalar() == 0
    assert tick(database, number, TONIGHT + MINUTE) is not None


def test_a_night_s_job_is_the_schedule_s_with_its_time_and_its_champion(
    database: sa.Engine,
) -> None:
    number = add(database, spec={"job": {"data": "/films", "epochs": 3}, "priority": -5})
    made = tick(database, number, TONIGHT)
    assert made is not None
    run = runs.get(database, made)
    job = jobs.get(database, run["job_id"])
    assert (run["state"], run["champion_id"]) == ("running", 1)
    assert (job["kind"], job["state"], job["spec"]) == (
        "train", "queued", {"data": "/films", "epochs": 3},
    )  # fmt: skip
    assert (job["priority"], job["submitted_by"]) == (-5, "schedule nightly")
    assert (job["schedule_id"], job["scheduled_for"]) == (number, TONIGHT)


def test_a_warm_start_is_from_the_champion_of_that_moment(
    sqlite_database: sa.Engine, tmp_path: Path
) -> None:
    spec = {"job": {"data": "/films", "warm_start": True, "naming": 2}}
    number = add(sqlite_database, spec=spec)
    first = tick(sqlite_database, number, TONIGHT)
    assert first is not None
    new = given.model(tmp_path, "second")
    second = write(sqlite_database, lambda c: models.register(c, new, "tests"))
    write(sqlite_database, lambda c: aliases.move(c, aliases.CHAMPION, second, "tests", "x"))
    end(sqlite_database, first)
    later = tick(sqlite_database, number, TONIGHT + DAY)
    assert later is not None
    for made, champion in ((first, 1), (later, second)):
        run = runs.get(sqlite_database, made)
        assert run["champion_id"] == champion
        assert jobs.get(sqlite_database, run["job_id"])["spec"]["warm_start"] == champion
    assert schedules.get(sqlite_database, "nightly")["spec"] == spec


def test_a_warm_start_without_a_champion_is_an_ordinary_one(sqlite_url: str) -> None:
    from db.base import database as connecting

    engine = connecting.connect(sqlite_url)
    number = add(engine, spec={"job": {"data": "/films", "warm_start": True}})
    made = tick(engine, number, TONIGHT)
    assert made is not None
    run = runs.get(engine, made)
    assert run["champion_id"] is None
    assert jobs.get(engine, run["job_id"])["spec"]["warm_start"] is None
    engine.dispose()


def test_a_run_by_hand_is_for_this_moment_and_beside_the_times(database: sa.Engine) -> None:
    number = add(database)
    write(database, lambda c: schedules.set_paused(c, "nightly", True))
    made = write(database, lambda c: schedules.run_now(c, "nightly"))
    run = runs.get(database, made)
    assert run["cause"] == "hand"
    assert abs(run["scheduled_for"] - schedules.database_clock(database)) < MINUTE
    end(database, made)
    write(database, lambda c: schedules.set_paused(c, "nightly", False))
    considered(database, TONIGHT - HOUR)
    assert tick(database, number, TONIGHT) is not None


def test_a_run_by_hand_is_refused_while_one_is_open(database: sa.Engine) -> None:
    add(database)
    made = write(database, lambda c: schedules.run_now(c, "nightly"))
    job_id = runs.get(database, made)["job_id"]
    with pytest.raises(Conflict, match=rf"UTC is still going on \(job {job_id}\)$"):
        write(database, lambda c: schedules.run_now(c, "nightly"))
    end(database, made)
    assert write(database, lambda c: schedules.run_now(c, "nightly")) != made


def test_a_job_that_fails_settles_its_run(sqlite_database: sa.Engine) -> None:
    number = add(sqlite_database)
    made = tick(sqlite_database, number, TONIGHT)
    assert made is not None
    claimed = write(sqlite_database, lambda c: claims.claim_job(c, "train", "w", 60.0))
    assert claimed is not None
    write(
        sqlite_database, lambda c: endings.finish(c, claimed.lease.job_id, "failed", "w", "no disk")
    )
    run = runs.get(sqlite_database, made)
    assert (run["state"], run["outcome"], run["reason"]) == ("done", "failed", "no disk")
    assert tick(sqlite_database, number, TONIGHT + DAY) is not None


def test_the_list_has_each_schedule_with_its_last_run(sqlite_database: sa.Engine) -> None:
    number = add(sqlite_database, "b")
    add(sqlite_database, "a", kind="score", spec={"job": {}})
    first = tick(sqlite_database, number, TONIGHT)
    assert first is not None
    end(sqlite_database, first)
    last = tick(sqlite_database, number, TONIGHT + DAY)
    listed = [
        (row["name"], row["run_id"], row["run_state"], row["run_for"])
        for row in schedules.listing(sqlite_database)
    ]
    assert listed == [("a", None, None, None), ("b", last, "running", TONIGHT + DAY)]


def test_a_clock_is_behind_what_was_written_last_or_it_is_not(sqlite_database: sa.Engine) -> None:
    given.queued(sqlite_database)  # which writes an event
    at = schedules.database_clock(sqlite_database)
    for ahead in (timedelta(), 10 * DAY, timedelta(seconds=-55)):
        assert schedules.clock_behind(sqlite_database, at + ahead) is None
    behind = schedules.clock_behind(sqlite_database, at - HOUR)
    assert behind is not None and abs(behind - HOUR) < MINUTE
