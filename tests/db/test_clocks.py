"""A clock that was ahead: nothing waits for the times that it wrote, once the clock is right."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa

from db.base import outbox, workers
from db.base.database import reading, write
from db.base.schema import notices, shards, sources
from db.base.schema import schedules as schedules_table
from db.base.schema import watched as watched_table
from db.base.types import due, pending
from db.base.types import now as database_now
from db.nightly import runs, schedules, watched
from db.nightly.watched import Seen
from db.queue import leases, outages
from db.registry import engine_checks
from db.work import claims, patience
from tests.db import given
from worker import config

DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
SETTLE_S = 60.0


def daily(cron: str, tz: str, after: datetime, until: datetime) -> list[datetime]:
    """The times of a schedule that runs every day, at the minute that its cron field says."""
    first = after.replace(hour=0, minute=0, second=0, microsecond=0) + int(cron) * MINUTE
    while first <= after:
        first += DAY
    return [first + n * DAY for n in range(max((until - first) // DAY + 1, 0))]


def add(database: sa.Engine, kind: str = "train", cron: str = "0", catch_up_s: int = 60) -> int:
    """A schedule; of scoring it watches a folder."""
    return write(
        database,
        lambda c: schedules.add(
            c, name=kind, cron=cron, tz="UTC", kind=kind, spec={"job": {"data": "/films"}},
            catch_up_s=catch_up_s, created_by="tests",
        ),
    )  # fmt: skip


def register(database: sa.Engine, name: str, lease_s: float | None = None) -> None:
    """A worker that scores and sends notices; without a length of its leases one of 0.2.0."""
    write(
        database,
        lambda c: workers.register(
            c, name, host=name, pid=1, queues="score", engine="x", versions={outbox.SENDS: "yes"},
            lease_s=lease_s,
        ),
    )  # fmt: skip


def a_look(database: sa.Engine, number: int) -> int:
    """A run of a schedule that a worker who looked has left for another look."""
    at = schedules.database_clock(database)

    def make(connection: sa.Connection) -> int:
        run_id = runs.begin(connection, number, at, "clock", "due")
        assert run_id is not None
        assert watched.claim(connection, run_id, "gone", (), SETTLE_S)
        watched.again(connection, run_id, "gone", SETTLE_S)
        return run_id

    return write(database, make)


@pytest.mark.parametrize(("ahead_s", "is_due"), [(-1, True), (50, False), (70, True)])
def test_what_is_further_ahead_than_it_can_be_is_due(
    database: sa.Engine, ahead_s: float, is_due: bool
) -> None:
    with reading(database) as connection:
        at = connection.execute(sa.select(database_now(ahead_s))).scalar_one()
        stored = sa.literal(at, database_now().type)
        found = connection.execute(sa.select(due(stored, 60.0), pending(stored, 60.0))).one()
    assert (bool(found[0]), bool(found[1])) == (is_due, not is_due)


def test_no_worker_may_hold_a_lease_longer_than_what_is_taken_for_one() -> None:
    assert config.MOST["lease_s"] == leases.LONGEST_S


@pytest.mark.parametrize("kind", ["train", "score"])
def test_a_job_is_held_no_longer_ahead_than_its_worker_s_leases_are(
    database: sa.Engine, kind: str
) -> None:
    given.queued(database, kind)
    register(database, "gone", lease_s=60.0)
    write(database, lambda c: claims.claim_job(c, kind, "gone", 60.0))
    assert not claims.anything_due(database, kind)
    given.clock_was_ahead(database, days=0, minutes=1)
    found = write(database, lambda c: claims.claim_job(c, kind, "worker", given.LEASE_S))
    assert found is not None and found.attempt == 2


def test_a_shard_is_held_no_longer_ahead_than_its_worker_s_leases_are(
    database: sa.Engine,
) -> None:
    given.running(database, shards=3)
    for name, lease_s in (("brief", 60.0), ("long", 3600.0), ("of 0.2.0", None)):
        register(database, name, lease_s)
        given.claimed(database, name, lease_s or 60.0)
    given.clock_was_ahead(database, days=0, minutes=1)
    assert given.claimed(database, "worker").shard_no == 0
    assert given.claimed(database, "worker").shard_no == 1
    assert not claims.anything_due(database, "score"), "nobody knows how long that lease is"
    given.clock_was_ahead(database, days=0, minutes=60)
    register(database, "worker", given.LEASE_S)
    assert {given.claimed(database, "worker").shard_no for _ in range(3)} == {0, 1, 2}


def test_a_worker_s_lease_is_held_to_its_own_length_beside_workers_of_other_lengths(
    database: sa.Engine,
) -> None:
    given.running(database, shards=2)
    for name, lease_s in (("brief", 60.0), ("long", 1800.0)):
        register(database, name, lease_s)
        given.claimed(database, name, lease_s)
    assert not claims.anything_due(database, "score")
    # A clock that was set back by a little is right enough.
    seconds_ahead(database, leases.TOLERANCE_S - 1)
    assert not claims.anything_due(database, "score")


def seconds_ahead(database: sa.Engine, seconds: float) -> None:
    """Leases were written by a clock so many seconds ahead of the one of now."""
    with reading(database) as connection:
        found = connection.execute(sa.select(shards.c.shard_no, shards.c.lease_until)).all()
    for number, until in found:
        later = sa.update(shards).where(shards.c.shard_no == number)
        moved = later.values(lease_until=until + timedelta(seconds=seconds))
        write(database, lambda c, m=moved: c.execute(m))  # type: ignore[misc]


@pytest.mark.parametrize("kind", ["train", "score"])
def test_a_job_that_was_claimed_by_a_clock_that_was_ahead_is_claimed_again(
    database: sa.Engine, kind: str
) -> None:
    job_id = given.queued(database, kind)
    write(database, lambda c: claims.claim_job(c, kind, "gone", given.LEASE_S))
    assert not claims.anything_due(database, kind)
    given.clock_was_ahead(database)
    assert claims.anything_due(database, kind)
    found = write(database, lambda c: claims.claim_job(c, kind, "worker", given.LEASE_S))
    assert found is not None and (found.lease.job_id, found.attempt) == (job_id, 2)


def test_a_job_that_was_put_off_by_a_clock_that_was_ahead_is_claimed(database: sa.Engine) -> None:
    given.queued(database, "train")
    found = write(database, lambda c: claims.claim_job(c, "train", "gone", given.LEASE_S))
    assert found is not None
    write(database, lambda c: leases.hand_back(c, found.lease, "x", in_good_order=False))
    assert not claims.anything_due(database, "train")
    given.clock_was_ahead(database)
    assert write(database, lambda c: claims.claim_job(c, "train", "worker", given.LEASE_S))


def test_a_shard_that_was_claimed_by_a_clock_that_was_ahead_is_claimed_again(
    database: sa.Engine,
) -> None:
    given.running(database)
    given.claimed(database, "gone")
    given.clock_was_ahead(database)
    assert given.claimed(database, "worker").attempt == 2


def test_a_shard_that_was_put_off_by_a_clock_that_was_ahead_is_claimed(
    database: sa.Engine,
) -> None:
    given.running(database)
    shard = given.claimed(database, "gone")
    write(database, lambda c: leases.hand_back_shard(c, shard, "x", in_good_order=False))
    assert not claims.anything_due(database, "score")
    given.clock_was_ahead(database)
    assert given.claimed(database, "worker").attempt == 2


def test_who_held_a_stream_by_a_clock_that_was_ahead_keeps_nobody_from_its_other_shards(
    database: sa.Engine,
) -> None:
    given.running(database, shards=2)
    write(database, lambda c: c.execute(sa.update(sources).values(streams=True)))
    given.claimed(database, "gone")
    assert not claims.anything_due(database, "score")
    given.clock_was_ahead(database)
    assert [given.claimed(database, "worker").shard_no for _ in range(2)] == [0, 1]


def test_a_stalled_job_is_seen_though_a_lease_in_it_lies_ahead(database: sa.Engine) -> None:
    job_id = given.running(database)
    given.claimed(database, "gone")
    write(database, lambda c: outages.note(c, job_id, 0, "w", "away"))
    given.clock_was_ahead(database)
    assert patience.waiting(database) == [job_id]


def test_patience_begins_anew_where_a_trouble_was_noted_by_a_clock_that_was_ahead(
    database: sa.Engine,
) -> None:
    job_id = given.running(database)
    write(database, lambda c: outages.note(c, job_id, 0, "gone", "away"))
    given.clock_was_ahead(database)
    write(database, lambda c: outages.note(c, job_id, 0, "w", "away"))
    noted = given.one(database, sources).trouble_at
    assert abs(noted - schedules.database_clock(database)) < MINUTE
    write(database, lambda c: outages.note(c, job_id, 0, "w", "away"))
    assert given.one(database, sources).trouble_at == noted, "it is counted from the first time"


def test_a_worker_that_was_seen_by_a_clock_that_was_ahead_is_not_there(
    database: sa.Engine,
) -> None:
    register(database, "gone")
    given.clock_was_ahead(database)
    register(database, "here")
    assert workers.alive_ids(database) == {"here"}
    assert [row["id"] for row in workers.serving(database, None)] == ["here"]


def test_an_engine_check_goes_to_another_worker_than_one_seen_by_a_clock_that_was_ahead(
    database: sa.Engine,
) -> None:
    number = add(database)

    def prove(connection: sa.Connection) -> None:
        at = connection.execute(sa.select(database_now())).scalar_one()
        runs.begin(connection, number, at, "clock", "proving", candidate_id=1)
        assert engine_checks.claim(connection, "cpu", "gone", ())

    register(database, "gone")
    write(database, prove)
    assert not engine_checks.due(database, "cpu", 60.0)
    given.clock_was_ahead(database)
    assert engine_checks.due(database, "cpu", 60.0)


def test_a_run_that_was_put_off_by_a_clock_that_was_ahead_is_looked_at(
    database: sa.Engine,
) -> None:
    run_id = a_look(database, add(database, "score"))

    def claim() -> bool:
        return write(database, lambda c: watched.claim(c, run_id, "worker", (), SETTLE_S))

    assert not claim(), "it waits"
    given.clock_was_ahead(database)
    assert claim()


def test_a_file_that_was_seen_by_a_clock_that_was_ahead_begins_to_settle_anew(
    database: sa.Engine,
) -> None:
    number = add(database, "score")
    first = a_look(database, number)
    write(database, lambda c: runs.note(c, first, worker_id="gone"))
    watched.observe(database, first, "gone", number, [Seen("/in/a.jpg", 10, 1)])
    given.clock_was_ahead(database)
    write(database, lambda c: runs.note(c, first, worker_id="worker"))
    watched.observe(database, first, "worker", number, [Seen("/in/a.jpg", 10, 1)])
    since = given.one(database, watched_table).since
    assert abs(since - schedules.database_clock(database)) < MINUTE
    watched.observe(database, first, "worker", number, [Seen("/in/a.jpg", 10, 1)])
    assert given.one(database, watched_table).since == since


def test_a_notice_that_was_claimed_or_put_off_by_a_clock_that_was_ahead_is_sent(
    database: sa.Engine,
) -> None:
    write(database, lambda c: outbox.add(c, "test"))
    for errors in ([], ["webhook: no"]):
        notice = write(database, lambda c: outbox.claim(c, "gone"))
        assert notice is not None
        if errors:
            write(database, lambda c, n=notice: outbox.record_result(c, n, ["webhook: no"]))  # type: ignore[misc]
        assert write(database, lambda c: outbox.claim(c, "worker")) is None, "it waits"
        given.clock_was_ahead(database)
    assert write(database, lambda c: outbox.claim(c, "worker"))


def test_no_notice_waits_for_a_machine_that_was_seen_by_a_clock_that_was_ahead(
    database: sa.Engine,
) -> None:
    register(database, "gone")
    write(database, lambda c: outbox.add(c, "test"))
    assert write(database, outbox.mark_undelivered) == 0
    given.clock_was_ahead(database, days=3)
    assert write(database, outbox.mark_undelivered) == 1


def test_a_schedule_goes_on_after_a_clock_was_ahead(database: sa.Engine) -> None:
    at = schedules.database_clock(database)
    soon = str((at.hour * 60 + at.minute + 5) % (24 * 60))  # five minutes from now, each day
    number = add(database, cron=soon)
    at = schedules.database_clock(database)

    def tick(moment: datetime) -> int | None:
        return write(database, lambda c: schedules.tick(c, number, moment, daily))

    # The clock goes ahead by a bit more than a day: a time to come is missed, and a worker is seen.
    assert tick(at + DAY + HOUR) is None
    register(database, "gone")
    with reading(database) as connection:
        (late,) = connection.execute(sa.select(sa.text("outcome FROM runs"))).all()
    assert late[0] == "missed"
    given_rows = sa.update(workers.workers).values(
        started_at=at + DAY + HOUR, seen_at=at + DAY + HOUR
    )
    write(database, lambda c: c.execute(given_rows))

    assert schedules.clock_behind(database, at) is None, "it is right now"
    assert tick(at + MINUTE) is None, "times begin anew"
    run_id = tick(at + 6 * MINUTE)
    assert run_id is not None
    assert runs.get(database, run_id)["state"] == "running"
    assert given.one(database, schedules_table).considered_until < at + HOUR
    with reading(database) as connection:
        found = connection.execute(sa.select(notices.c.run_id, notices.c.event)).all()
    assert (None, "missed") in [tuple(row) for row in found], "what was told stays"
    assert tick(at + DAY + 6 * MINUTE) is None, "that run is going on still"


def test_a_run_that_a_clock_made_too_early_is_not_made_once_more(database: sa.Engine) -> None:
    at = schedules.database_clock(database)
    number = add(database, cron=str(at.hour * 60 + at.minute), catch_up_s=3600)

    def tick(moment: datetime) -> int | None:
        return write(database, lambda c: schedules.tick(c, number, moment, daily))

    early = tick(at + DAY + MINUTE)
    assert early is not None
    write(database, lambda c: runs.finish(c, early, "kept", None))
    assert tick(at + MINUTE) is None
    assert tick(at + DAY + MINUTE) is None, "this time has its run"
    assert tick(at + 2 * DAY + MINUTE) is not None, "and the next one gets its own"


def test_a_clock_that_is_behind_all_that_goes_on_is_not_believed(database: sa.Engine) -> None:
    at = schedules.database_clock(database)
    add(database)
    for _ in range(3):
        given.queued(database, "train")  # each writes an event
        given.clock_was_ahead(database)
    write(database, lambda c: c.execute(sa.update(schedules_table).values(created_at=at)))
    assert schedules.clock_behind(database, at + 2 * HOUR) is not None
