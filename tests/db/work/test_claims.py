"""Claims: each job and each shard goes to one worker, the most urgent first."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from db.base.database import write
from db.base.errors import LeaseLost
from db.base.schema import shards
from db.queue import jobs, leases, listings
from db.work import claims, control
from tests.db import given


def _claim(database: sa.Engine, lease_s: float = given.LEASE_S) -> claims.Claimed | None:
    return write(database, lambda c: claims.claim_job(c, "train", "worker", lease_s))


def test_jobs_are_claimed_by_priority_then_age(database: sa.Engine) -> None:
    old, new = given.queued(database, "train"), given.queued(database, "train")
    urgent = given.queued(database, "train", priority=1)
    given.queued(database, "score", priority=9)

    order = [_claim(database) for _ in range(4)]

    assert [found and found.lease.job_id for found in order] == [urgent, old, new, None]


def test_a_training_job_whose_worker_vanished_is_claimed_again(database: sa.Engine) -> None:
    job_id = given.queued(database, "train")
    first = _claim(database, given.EXPIRED_S)
    second = _claim(database)
    assert first is not None
    assert second is not None

    assert (second.lease.job_id, second.attempt) == (job_id, 2)
    assert second.lease.token > first.lease.token
    with pytest.raises(LeaseLost):
        write(database, lambda c: leases.renew(c, first.lease, given.LEASE_S))


def test_planning_outlasts_a_shard_that_ends_its_planners_worker_each_time(
    database: sa.Engine,
) -> None:
    job_id = given.queued(database)
    for _ in range(leases.MAX_ATTEMPTS):  # then that shard is given up or cut in two
        write(database, lambda c: claims.claim_job(c, "score", "planner", given.EXPIRED_S))

    found = write(database, lambda c: claims.claim_job(c, "score", "planner", given.LEASE_S))

    assert found is not None
    assert found.lease.job_id == job_id


@pytest.mark.parametrize("kind", ["train", "score"])
def test_a_job_whose_attempts_are_used_up_fails_and_says_so(database: sa.Engine, kind: str) -> None:
    job_id = given.queued(database, kind)
    after = given.queued(database, kind)
    for attempt in range(1, claims.MAX_ATTEMPTS[kind] + 1):
        found = write(database, lambda c: claims.claim_job(c, kind, "worker", given.EXPIRED_S))
        assert found is not None
        assert (found.lease.job_id, found.attempt) == (job_id, attempt)

    # The next claim ends it and goes on to the next job.
    found = write(database, lambda c: claims.claim_job(c, kind, "worker", given.LEASE_S))

    assert found is not None
    assert found.lease.job_id == after
    row = jobs.get(database, job_id)
    assert row["state"] == "failed"
    assert f"given up after {claims.MAX_ATTEMPTS[kind]} attempts" in row["reason"]
    assert given.events(database, job_id)[-1] == "failed"


def test_what_is_due_is_known_per_queue(database: sa.Engine) -> None:
    def due() -> tuple[bool, bool]:
        return claims.anything_due(database, "score"), claims.anything_due(database, "train")

    assert due() == (False, False)
    given.queued(database, "train")
    assert due() == (False, True)
    _claim(database)
    assert due() == (False, False)
    lease = given.planning(database).lease
    assert due() == (False, False)
    write(database, lambda c: listings.add(c, lease, given.new_shards(1)))
    assert due() == (True, False)
    given.claimed(database)
    assert due() == (False, False)


def test_work_for_another_engine_is_not_due_for_a_worker(database: sa.Engine) -> None:
    given.running(database, engine="tensorrt")

    assert claims.anything_due(database, "score")
    assert claims.anything_due(database, "score", kinds={"auto", "tensorrt"})
    assert not claims.anything_due(database, "score", kinds={"auto", "onnx"})
    given.queued(database, engine="tensorrt")  # to be planned, which any worker can
    assert claims.anything_due(database, "score", kinds={"auto", "onnx"})


#: Workers that claim at the same time, and shards that they share.
WORKERS, SHARDS = 8, 40


def test_each_shard_is_claimed_by_exactly_one_of_many_workers(database: sa.Engine) -> None:
    given.running(database, shards=SHARDS)

    def worker(name: str) -> Callable[[], list[leases.Shard]]:
        def claim_all() -> list[leases.Shard]:
            mine = []
            while shard := write(database, lambda c: claims.claim_shard(c, name, given.LEASE_S)):
                mine.append(shard)
            return mine

        return claim_all

    hauls = given.together(*[worker(f"worker {n}") for n in range(WORKERS)])

    claimed = []
    for n, haul in enumerate(hauls):
        assert isinstance(haul, list), haul
        assert {s.worker_id for s in haul} <= {f"worker {n}"}
        claimed += haul
    assert sorted(s.shard_no for s in claimed) == list(range(SHARDS))
    assert {(s.token, s.attempt) for s in claimed} == {(1, 1)}


def test_each_job_is_claimed_by_exactly_one_of_many_workers(database: sa.Engine) -> None:
    ids = [given.queued(database, "train") for _ in range(10)]

    def claim_all() -> list[int]:
        mine = []
        while found := write(database, lambda c: claims.claim_job(c, "train", "w", given.LEASE_S)):
            mine.append(found.lease.job_id)
        return mine

    hauls = given.together(*[claim_all] * WORKERS)

    claimed = [job_id for haul in hauls if isinstance(haul, list) for job_id in haul]
    assert sorted(claimed) == ids


def test_a_claimed_shard_says_what_is_in_it(database: sa.Engine) -> None:
    job_id = given.running(database, shards=2, items=3, priority=7)
    given.claimed(database)

    shard = given.claimed(database, "second")

    assert shard == leases.Shard(
        job_id=job_id,
        shard_no=1,
        token=1,
        worker_id="second",
        attempt=1,
        source_no=0,
        first_item=3,
        n_items=3,
        listing=b"listing",
        model_id=1,
        priority=7,
        spec={"precision": "fp32"},
        last_error=None,
    )


def test_the_last_word_of_an_earlier_attempt_stands_for_no_later_one(database: sa.Engine) -> None:
    given.running(database)
    shard = given.claimed(database)
    write(database, lambda c: leases.hand_back_shard(c, shard, "shutting down", in_good_order=True))

    again = given.claimed(database, "another")

    assert again.last_error == "shutting down"
    # Should this attempt end without a word, the row must not tell the earlier one's reason.
    assert given.one(database, shards).last_error is None


def test_priority_goes_before_age_and_age_before_place(database: sa.Engine) -> None:
    old = given.running(database, shards=2)
    new = given.running(database, shards=2)
    urgent = given.running(database, shards=1, priority=5)

    order = [given.claimed(database) for _ in range(5)]

    assert [(s.job_id, s.shard_no) for s in order] == [
        (urgent, 0),
        (old, 0),
        (old, 1),
        (new, 0),
        (new, 1),
    ]


def test_shards_can_be_claimed_while_the_planner_still_lists(database: sa.Engine) -> None:
    lease = given.planning(database).lease
    write(database, lambda c: listings.add(c, lease, given.new_shards(1)))

    given.commit(database, given.claimed(database))

    assert not given.close(database, lease.job_id)


def test_a_claim_waits_for_a_pause_that_is_under_way_and_takes_nothing(
    database: sa.Engine,
) -> None:
    job_id = given.running(database)

    found = given.meanwhile(
        database,
        lambda c: control.pause(c, job_id, "a person"),
        lambda: write(database, lambda c: claims.claim_shard(c, "worker", given.LEASE_S)),
    )

    assert found is None


def test_a_shard_whose_attempts_are_used_up_is_handed_out_to_be_given_up(
    database: sa.Engine,
) -> None:
    given.running(database, items=3)
    attempts = [
        given.claimed(database, lease_s=given.EXPIRED_S).attempt for _ in range(leases.MAX_ATTEMPTS)
    ]
    assert max(attempts) == leases.MAX_ATTEMPTS

    last = given.claimed(database)

    assert last.attempt > leases.MAX_ATTEMPTS


def test_a_job_that_cannot_be_planned_any_more_does_not_hide_the_shards_that_are_due(
    database: sa.Engine,
) -> None:
    due = given.running(database)
    doomed = given.queued(database, priority=1)
    for _ in range(claims.MAX_ATTEMPTS["score"]):
        write(database, lambda c: claims.claim_job(c, "score", "planner", given.EXPIRED_S))

    found = write(database, lambda c: claims.claim_best(c, "worker", given.LEASE_S, planning=True))

    assert isinstance(found, leases.Shard)
    assert found.job_id == due
    assert jobs.get(database, doomed)["state"] == "failed"


def test_a_worker_gets_no_shard_of_a_job_that_asks_for_another_engine(database: sa.Engine) -> None:
    tensorrt = given.running(database, priority=2, engine="tensorrt")
    onnx = given.running(database, priority=1, engine="onnx")
    either = given.running(database)

    def claim(*kinds: str) -> leases.Shard | None:
        return write(database, lambda c: claims.claim_shard(c, "w", given.LEASE_S, kinds=kinds))

    found = claim("auto", "onnx")
    assert found is not None
    assert (found.job_id, found.engine) == (onnx, "onnx")
    found = claim("auto", "onnx")
    assert found is not None
    assert (found.job_id, found.engine) == (either, None)
    assert claim("auto", "onnx") is None
    assert claim() is None
    found = claim("auto", "tensorrt")
    assert found is not None
    assert (found.job_id, found.engine) == (tensorrt, "tensorrt")


def test_without_kinds_a_worker_gets_shards_of_every_job(database: sa.Engine) -> None:
    job_id = given.running(database, engine="tensorrt")

    assert given.claimed(database).job_id == job_id


def test_any_worker_plans_a_job_whose_engine_it_lacks(database: sa.Engine) -> None:
    job_id = given.queued(database, engine="tensorrt")

    def next_of(*kinds: str, planning: bool = True) -> leases.Shard | claims.Claimed | None:
        return write(
            database,
            lambda c: claims.claim_best(c, "w", given.LEASE_S, planning=planning, kinds=kinds),
        )

    found = next_of("auto", "onnx")
    assert isinstance(found, claims.Claimed)
    assert found.lease.job_id == job_id
    write(database, lambda c: listings.add(c, found.lease, given.new_shards(1)))
    assert next_of("auto", "onnx") is None
    assert isinstance(next_of("auto", "tensorrt", planning=False), leases.Shard)


def test_an_urgent_job_of_another_engine_does_not_hide_what_a_worker_can_score(
    database: sa.Engine,
) -> None:
    given.running(database, priority=9, engine="tensorrt")
    to_plan = given.queued(database, priority=1)
    mine = given.running(database, priority=5)

    found = write(
        database,
        lambda c: claims.claim_best(c, "w", given.LEASE_S, planning=True, kinds={"auto", "onnx"}),
    )

    assert isinstance(found, leases.Shard)
    assert found.job_id == mine
    assert jobs.get(database, to_plan)["state"] == "queued"


def test_training_waits_for_scoring_of_higher_priority_only(database: sa.Engine) -> None:
    given.queued(database, "train", priority=1)
    same = given.queued(database, priority=1)
    assert claims.urgent(database) is None
    higher = given.queued(database, priority=2)
    assert claims.urgent(database) == (f"scoring job {higher} goes first: its priority is 2, not 1")
    write(database, lambda c: control.cancel(c, higher, "tester"))
    assert claims.urgent(database) is None
    write(database, lambda c: control.cancel(c, same, "tester"))
    assert claims.urgent(database) is None
