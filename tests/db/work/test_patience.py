"""Jobs that wait for sources that no worker can read: noticed, paused, resumed, and let go."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa

from db.base.database import reading, write, writing
from db.base.errors import Conflict
from db.base.schema import jobs as jobs_table
from db.base.schema import notices, shards, sources
from db.base.schema import outages as outages_table
from db.nightly import schedules
from db.queue import jobs, leases, listings, outages
from db.queue.listings import NewShard
from db.work import claims, control, patience, turns
from tests.db import given

HOUR_S = 3600.0


def two_sources(database: sa.Engine, **options: object) -> int:
    """A planned job of two sources with a shard each."""
    rows = [
        {"uri": f"/{name}.zip", "kind": "zip", "fingerprint": name} for name in ("first", "second")
    ]
    lease = given.planning(database, source_rows=rows, **options).lease

    def plan(connection: sa.Connection) -> None:
        new = [NewShard(source_no=n, n_items=1, listing=b"listing") for n in range(2)]
        listings.add(connection, lease, new)
        listings.complete(connection, lease, {})

    write(database, plan)
    return lease.job_id


def away(database: sa.Engine, job_id: int, source_no: int = 0, *, for_s: float = 0.0) -> None:
    """A worker finds, so long ago, that it cannot read a source."""
    write(database, lambda c: outages.note(c, job_id, source_no, "w", f"{source_no} is away"))
    mine = (sources.c.job_id == job_id, sources.c.source_no == source_no)
    ago = schedules.database_clock(database) - timedelta(seconds=for_s)
    with writing(database) as connection:
        connection.execute(sa.update(sources).where(*mine).values(trouble_at=ago))
        # As whoever hands its shards back does.
        handed_back = (shards.c.job_id == job_id, shards.c.source_no == source_no)
        now = schedules.database_clock(database)
        connection.execute(
            sa.update(shards).where(*handed_back, shards.c.state == "ready").values(not_before=now)
        )


def look(database: sa.Engine) -> list[int]:
    """What a sweep does: the jobs that it pauses."""
    return [
        job_id
        for job_id in patience.waiting(database)
        if write(database, lambda c, j=job_id: patience.look(c, j, "w"))  # type: ignore[misc]
    ]


def told(database: sa.Engine) -> list[str]:
    """The events of which hooks got a notice."""
    with reading(database) as connection:
        found = connection.execute(sa.select(notices.c.payload).order_by(notices.c.id)).scalars()
        return [payload["event"] for payload in found]


def test_a_job_is_paused_only_when_nothing_else_of_it_is_left_and_its_patience_is_over(
    database: sa.Engine,
) -> None:
    job_id = two_sources(database)
    away(database, job_id, for_s=7 * HOUR_S)
    assert look(database) == [], "the other source is left to do"
    shard = write(
        database,
        lambda c: claims.claim_shard(
            c, "w", given.LEASE_S, away=turns.Away(uris=frozenset({"/first.zip"}))
        ),
    )
    assert shard is not None and shard.source_no == 1
    assert look(database) == [], "it is being done"
    given.commit(database, shard)
    away(database, job_id, for_s=5 * HOUR_S)
    assert look(database) == [], "six hours are not over"
    assert told(database) == ["source_away"]
    away(database, job_id, for_s=7 * HOUR_S)
    assert look(database) == [job_id]
    job = jobs.get(database, job_id)
    assert (job["state"], "0 is away" in job["reason"]) == ("paused", True)
    assert told(database) == ["source_away"], "one outage is one notice"


def test_a_job_of_which_a_source_is_read_now_and_then_is_not_paused(database: sa.Engine) -> None:
    job_id = given.running(database, shards=2)
    away(database, job_id, for_s=7 * HOUR_S)
    shard = given.claimed(database)
    given.commit(database, shard)
    write(database, lambda c: outages.read(c, job_id, 0))
    away(database, job_id, for_s=0.0)
    assert look(database) == []
    assert told(database) == []


def test_patience_is_the_jobs_own_and_a_plan_that_waits_is_waited_for_too(
    database: sa.Engine,
) -> None:
    claimed = given.planning(database, spec={"source_patience_s": 60})
    away(database, claimed.lease.job_id, for_s=50.0)
    assert look(database) == [], "its planner is at it"
    write(database, lambda c: leases.hand_back(c, claimed.lease, "away", in_good_order=True))
    assert look(database) == []
    away(database, claimed.lease.job_id, for_s=70.0)
    assert look(database) == [claimed.lease.job_id]


def test_resuming_counts_the_patience_anew_and_the_outage_ends_with_a_notice(
    database: sa.Engine,
) -> None:
    job_id = given.running(database)
    away(database, job_id, for_s=7 * HOUR_S)
    assert look(database) == [job_id]
    write(database, lambda c: control.resume(c, job_id, "kim"))
    job = jobs.get(database, job_id)
    assert (job["state"], job["reason"], job["out_of_patience_at"]) == ("running", None, None)
    assert look(database) == []
    away(database, job_id, for_s=HOUR_S)
    assert look(database) == []
    shard = given.claimed(database)
    given.commit(database, shard)
    write(database, lambda c: outages.read(c, job_id, 0))
    given.close(database, job_id)
    assert told(database) == ["source_away", "source_back"]
    assert given.one(database, outages_table).ended_at is not None


def test_only_a_job_paused_by_its_patience_is_let_go(database: sa.Engine) -> None:
    by_hand, by_patience, taken_over = (given.running(database) for _ in range(3))
    write(database, lambda c: control.pause(c, by_hand, "kim"))
    for job_id in (by_patience, taken_over):
        away(database, job_id, for_s=7 * HOUR_S)
    assert look(database) == [by_patience, taken_over]
    write(database, lambda c: control.pause(c, taken_over, "kim", "I look after it"))
    with pytest.raises(Conflict, match="paused already"):
        write(database, lambda c: control.pause(c, taken_over, "kim"))
    for job_id in (by_hand, taken_over):
        assert not write(database, lambda c, j=job_id: patience.let_go(c, j))  # type: ignore[misc]
    assert write(database, lambda c: patience.let_go(c, by_patience))
    assert [jobs.get(database, n)["state"] for n in (by_hand, by_patience, taken_over)] == [
        "paused", "failed", "paused",
    ]  # fmt: skip
    assert "failed" not in told(database), "the outage was told of"


def test_training_does_not_wait_for_a_scoring_job_that_waits_for_its_sources(
    database: sa.Engine,
) -> None:
    job_id = given.running(database, priority=5)

    def urgent() -> str | None:
        with reading(database) as connection:
            return claims.more_urgent(connection, 0)

    assert urgent() is not None
    away(database, job_id)
    assert urgent() is None


def test_hooks_hear_that_a_job_completed_with_errors(database: sa.Engine) -> None:
    job_id = given.running(database)
    given.commit(database, given.claimed(database), errors=1)
    given.close(database, job_id)
    assert told(database) == ["completed_with_errors"]
    assert given.one(database, notices).event == "with_errors"
    assert "completed with errors" in given.one(database, notices).payload["text"]


def test_a_retry_begins_without_the_trouble_of_the_job_before_it(database: sa.Engine) -> None:
    job_id = given.running(database)
    away(database, job_id, for_s=7 * HOUR_S)
    write(database, lambda c: control.cancel(c, job_id, "kim"))
    again = write(database, lambda c: control.retry(c, job_id, "kim"))
    assert given.one(database, sources, sources.c.job_id == again).trouble_at is None


def test_items_that_could_not_be_read_are_tried_a_minute_later_and_keep_their_count(
    database: sa.Engine,
) -> None:
    job_id = given.running(database, items=3)
    shard = given.claimed(database)
    write(
        database,
        lambda c: leases.hand_back_shard(c, shard, "EIO", in_good_order=True, unread={1: 1}),
    )
    assert write(database, lambda c: claims.claim_shard(c, "w", given.LEASE_S)) is None
    row = given.one(database, shards)
    wait = row.not_before - schedules.database_clock(database)
    assert timedelta(seconds=55) < wait <= timedelta(seconds=60)
    with writing(database) as connection:
        connection.execute(sa.update(shards).values(not_before=None))
    again = given.claimed(database)
    assert (again.job_id, again.attempt, again.unread) == (job_id, 1, {1: 1})


def test_a_planner_leaves_a_job_alone_that_it_could_not_read(database: sa.Engine) -> None:
    first, second = given.queued(database), given.queued(database)
    left = turns.Away(jobs=frozenset({first}))
    claimed = write(database, lambda c: claims.claim_job(c, "score", "w", given.LEASE_S, left))
    assert claimed is not None and claimed.lease.job_id == second
    assert not claims.anything_due(database, "score", away=left)
    assert given.one(database, jobs_table, jobs_table.c.id == first).state == "queued"


def test_what_nobody_has_tried_of_late_is_not_given_up(database: sa.Engine) -> None:
    job_id = given.running(database)
    away(database, job_id, for_s=7 * HOUR_S)
    # All workers were off since, or had more urgent work.
    ago = schedules.database_clock(database) - timedelta(seconds=HOUR_S)
    with writing(database) as connection:
        connection.execute(sa.update(shards).values(not_before=ago))
    assert look(database) == []
    assert told(database) == []
    shard = given.claimed(database)
    write(database, lambda c: leases.hand_back_shard(c, shard, "away", in_good_order=True))
    assert look(database) == [job_id]


def test_a_source_of_which_shards_are_done_is_read_whoever_does_them(database: sa.Engine) -> None:
    job_id = given.running(database, shards=2)
    away(database, job_id, for_s=7 * HOUR_S)
    given.commit(database, given.claimed(database))  # as release 0.2.0, which notes no more
    assert look(database) == []
    assert told(database) == []
