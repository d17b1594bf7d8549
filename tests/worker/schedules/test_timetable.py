"""The timetable: what instants cron fields mean in a time zone, and ticks that make runs."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from itertools import takewhile
from threading import Barrier
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from db.base import database as connecting
from db.base import workers
from db.base.database import write
from db.base.schema import schedules as table
from db.nightly import runs, schedules
from worker.errors import ConfigError
from worker.schedules import timetable

UTC = timezone.utc
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)

#: Zones and a day on which their clocks change: by an hour at two, at midnight, by half an hour,
#: by two hours, and at the other end of the year; and two that do not change.
CHANGES = [
    ("Europe/Paris", "2027-03-28"), ("Europe/Paris", "2027-10-31"),
    ("America/New_York", "2027-03-14"), ("America/New_York", "2027-11-07"),
    ("America/Santiago", "2027-04-03"), ("America/Santiago", "2027-09-05"),
    ("Africa/Cairo", "2027-04-30"), ("America/Havana", "2027-11-07"),
    ("Australia/Lord_Howe", "2027-04-04"), ("Australia/Lord_Howe", "2027-10-03"),
    ("Antarctica/Troll", "2027-03-28"), ("Antarctica/Troll", "2027-10-31"),
    ("Asia/Kolkata", "2027-03-28"), ("UTC", "2027-10-31"),
]  # fmt: skip

#: Fields that stay at a time of day, and fields that follow the real time.
FIXED = ["30 2 * * *", "0 0 * * *", "0,30 1-3 * * *", "15 2 * * 0", "59 23 * * *", "0 1 * * 6,0"]
FOLLOWING = ["*/10 * * * *", "0 * * * *", "30 */2 * * *", "*/20 1-2 * * 0", "* 2 * * *"]


def at(text: str) -> datetime:
    """An instant; UTC unless it says otherwise."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def around(day: str) -> tuple[datetime, datetime]:
    """From the day before to the end of the day after, wherever one is."""
    return at(day) - DAY, at(day) + 2 * DAY


def on_the_wall(cron: str, after: datetime, until: datetime) -> list[datetime]:
    """Times that match on a clock that is never changed, a day to both sides."""
    naive = CronSim(cron, after.replace(tzinfo=None) - DAY)
    return list(takewhile(lambda wall: wall < until.replace(tzinfo=None) + DAY, naive))


def shown(tz: str, after: datetime, until: datetime) -> Iterator[tuple[datetime, datetime]]:
    """The minutes that pass, and what the clock shows."""
    there, moment = ZoneInfo(tz), after
    while (moment := moment + MINUTE) <= until:
        yield moment, moment.astimezone(there).replace(tzinfo=None, fold=0)


def by_the_real_time(cron: str, tz: str, after: datetime, until: datetime) -> list[datetime]:
    """Each minute at which the clock shows what matches."""
    matching = set(on_the_wall(cron, after, until))
    return [moment for moment, wall in shown(tz, after, until) if wall in matching]


def by_the_time_of_day(cron: str, tz: str, after: datetime, until: datetime) -> list[datetime]:
    """Each minute at which the clock first shows something that matches, or is past it."""
    matching = on_the_wall(cron, after, until)
    found: list[datetime] = []
    latest = after.astimezone(ZoneInfo(tz)).replace(tzinfo=None)
    for moment, wall in shown(tz, after, until):
        if wall > latest:
            if bisect_right(matching, wall) > bisect_right(matching, latest):
                found.append(moment)
            latest = wall
    return found


@pytest.mark.parametrize(("tz", "day"), CHANGES)
def test_fixed_fields_are_once_a_day_also_when_the_clocks_change(tz: str, day: str) -> None:
    after, until = around(day)
    for cron in FIXED:
        expected = by_the_time_of_day(cron, tz, after, until)
        assert timetable.times(cron, tz, after, until) == expected, cron


@pytest.mark.parametrize(("tz", "day"), CHANGES)
def test_wildcard_fields_follow_the_real_time(tz: str, day: str) -> None:
    after, until = around(day)
    for cron in FOLLOWING:
        expected = by_the_real_time(cron, tz, after, until)
        assert timetable.times(cron, tz, after, until) == expected, cron


def test_half_past_two_in_paris_around_both_changes() -> None:
    def night(day: str) -> list[datetime]:
        return timetable.times("30 2 * * *", "Europe/Paris", at(day) - HOUR, at(day) + 10 * HOUR)

    assert night("2027-03-27") == [at("2027-03-27 02:30+01:00")]
    assert night("2027-03-28") == [at("2027-03-28 03:00+02:00")]  # 02:30 is skipped
    assert night("2027-03-29") == [at("2027-03-29 02:30+02:00")]
    assert night("2027-10-31") == [at("2027-10-31 02:30+02:00")]  # and comes again an hour later


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(CHANGES),
    st.sampled_from(FIXED + FOLLOWING),
    st.lists(st.integers(0, 3 * 24 * 3600), max_size=12),
)
def test_many_ticks_find_the_same_times_as_one_look(
    change: tuple[str, str], cron: str, ticks: list[int]
) -> None:
    tz, day = change
    after, until = around(day)
    found: list[datetime] = []
    considered = after
    for moment in [*(after + timedelta(seconds=s) for s in sorted(ticks)), until]:
        new = timetable.times(cron, tz, considered, moment)
        found += new
        considered = new[-1] if new else considered  # as a schedule's row has it
    assert found == timetable.times(cron, tz, after, until)
    assert found == sorted(set(found))


def test_the_end_is_among_the_times_and_the_beginning_is_not() -> None:
    noon = at("2027-01-01 12:00")
    assert timetable.times("0 12 * * *", "UTC", noon - DAY, noon) == [noon]
    assert timetable.times("0 12 * * *", "UTC", noon, noon + DAY - MINUTE) == []


def test_of_very_many_times_the_newest_are_listed() -> None:
    end = at("2027-01-31 12:00")
    found = timetable.times("* * * * *", "Europe/Paris", end - 20 * DAY, end)
    assert len(found) == timetable.MOST_TIMES
    assert (found[0], found[-1]) == (end - (timetable.MOST_TIMES - 1) * MINUTE, end)


@pytest.mark.parametrize(
    ("cron", "said"),
    [
        ("0 2 * *", "has 4"),
        ("@daily", "cron has five fields (minute, hour, day of the month, month, day of the week)"),
        ("0 0 2 * * *", "has 6"),
        ("60 2 * * *", "'60' is no minute for cron"),
        ("0 24 * * *", "'24' is no hour for cron"),
        ("0 2 0 * *", "'0' is no day of the month for cron"),
        ("0 2 * 13 *", "'13' is no month for cron"),
        ("0 2 * * mon-foo", "'mon-foo' is no day of the week for cron (in '0 2 * * mon-foo')"),
        ("*/0 2 * * *", "'*/0' is no minute for cron"),
        ("0 2-1 * * *", "'2-1' is no hour for cron"),
        ("0 2 30 2 *", "'0 2 30 2 *' is never"),
        ("0 2 31 4,6,9,11 *", "'0 2 31 4,6,9,11 *' is never"),
    ],
)  # fmt: skip
def test_fields_that_mean_nothing_are_named(cron: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        timetable.check(cron, "Europe/Paris", at("2027-01-01"))
    assert said in str(caught.value)


@pytest.mark.parametrize("cron", ["0 2 * * MON-FRI", "0 2 * jan,Jul sun", "5-59/5 0 L * *"])
def test_names_steps_and_ranges_are_understood(cron: str) -> None:
    assert timetable.check(cron, "Europe/Paris", at("2027-01-01")) > at("2027-01-01")


def test_what_is_rare_is_not_taken_for_never() -> None:
    # A 29th of February that is a Sunday.
    first = timetable.check("0 2 29 2 */7", "UTC", at("2027-01-01"))
    assert first == at("2032-02-29 02:00")
    assert timetable.following("0 2 29 2 */7", "UTC", first) == at("2060-02-29 02:00")


@pytest.mark.parametrize(
    ("tz", "said"),
    [
        ("Europe/Pari", "did you mean Europe/Paris"),
        ("europe/paris", "Europe/Paris"),
        ("Paris", "there is no time zone 'Paris'"),
        ("../../etc/passwd", "give one like Europe/Paris"),
        ("Europe", "there is no time zone 'Europe'"),
        ("Europe/Paris\0", "there is no time zone"),
    ],
)
def test_an_unknown_zone_is_refused_with_those_that_are_near(tz: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        timetable.check("0 2 * * *", tz, at("2027-01-01"))
    assert said in str(caught.value)


def a_schedule(database: sa.Engine, name: str = "nightly", **values: object) -> int:
    """A schedule whose times are at two every night, and begin long before any test's."""
    fields = {
        "cron": "0 2 * * *", "tz": "UTC", "kind": "train", "spec": {"job": {"data": "/films"}},
        "catch_up_s": 3600, "created_by": "tests",
    } | values  # fmt: skip
    number = write(database, lambda c: schedules.add(c, name=name, **fields))  # type: ignore[arg-type]
    considered = {"considered_until": TONIGHT - HOUR}
    write(
        database,
        lambda c: c.execute(sa.update(table).where(table.c.id == number).values(considered)),
    )
    return number


def tick(database: sa.Engine, moment: datetime) -> list[int]:
    return timetable.tick(database, lambda _: moment)


#: A time of `a_schedule`, later than anything that is written meanwhile.
TONIGHT = at(f"{datetime.now(UTC).year + 1}-03-10 02:00")


@pytest.fixture
def here(sqlite_url: str) -> Iterator[sa.Engine]:
    """A migrated database without a row, on SQLite only."""
    engine = connecting.connect(sqlite_url)
    yield engine
    engine.dispose()


def test_two_tickers_at_the_same_moment_make_one_run(database: sa.Engine) -> None:
    numbers = [a_schedule(database, name) for name in ("a", "b", "c")]
    together = Barrier(2)

    def one_of_two(_: int) -> list[int]:
        together.wait()
        return tick(database, TONIGHT)

    for _ in range(5):
        with ThreadPoolExecutor(2) as pool:
            made = list(pool.map(one_of_two, range(2)))
    for number in numbers:
        (run,) = runs.of_schedule(database, number)
        assert (run["scheduled_for"], run["cause"], run["state"]) == (TONIGHT, "clock", "running")
    assert made == [[], []], "what was made once is not made again"


def test_a_clock_that_is_behind_makes_nothing_and_says_so_once(
    here: sa.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    # Half a day from now, whenever this is run: what is missed is not also made up for.
    number = a_schedule(here, cron=f"0 {(datetime.now(UTC).hour + 12) % 24} * * *")
    write(
        here,
        lambda c: workers.register(
            c, "w", host="h", pid=1, queues="train", engine=None, versions={}
        ),
    )
    seen = workers.alive(here)[0]["seen_at"]
    write(here, lambda c: c.execute(sa.update(table).values(considered_until=seen - 3 * DAY)))
    for seconds in (3 * 3600, 62, 3 * 3600):
        assert tick(here, seen - timedelta(seconds=seconds)) == []
    assert runs.of_schedule(here, number) == []
    (said,) = caplog.messages
    assert said.startswith("no schedule runs: the clock says ")
    assert "3:00:00 earlier than what was written last; set it (timedatectl)" in said

    tick(here, seen - timedelta(seconds=59))
    (run,) = runs.of_schedule(here, number)
    assert run["outcome"] == "missed", "a little behind is believed"
    tick(here, seen - HOUR)
    assert len(caplog.messages) == 2, "the next time it is wrong, it is said again"


def test_a_zone_that_this_machine_does_not_know_stops_no_other_schedule(
    here: sa.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    strange, known = a_schedule(here, "strange", tz="Mars/Olympus"), a_schedule(here, "known")
    (made,) = [*tick(here, TONIGHT), *tick(here, TONIGHT)]
    assert runs.get(here, made)["schedule_id"] == known
    (said,) = caplog.messages
    assert said.startswith(f"schedule {strange} does not run here: there is no time zone 'Mars")


def test_fields_that_mean_nothing_here_stop_no_other_schedule(
    here: sa.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    strange, known = a_schedule(here, "strange", cron="0 2 * * Tuesdays"), a_schedule(here, "known")
    (made,) = tick(here, TONIGHT)
    assert runs.get(here, made)["schedule_id"] == known
    (said,) = caplog.messages
    assert said.startswith(
        f"schedule {strange} does not run here: '0 2 * * Tuesdays' means nothing here: "
    )


def test_by_default_the_time_is_the_database_s(database: sa.Engine) -> None:
    number = a_schedule(database, cron="* * * * *", catch_up_s=0)
    before = schedules.database_clock(database)
    write(database, lambda c: c.execute(sa.update(table).values(considered_until=before - MINUTE)))
    (made,) = timetable.tick(database)
    run = runs.get(database, made)
    assert run["schedule_id"] == number
    assert abs(run["scheduled_for"] - before) <= MINUTE
    assert (run["scheduled_for"].second, run["cause"]) == (0, "clock")
