"""A shard belongs to one worker at a time, and whoever comes back late writes nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from db.base.database import reading, write
from db.base.errors import LeaseLost
from db.base.schema import item_errors, predictions, refusals, rollups, shards
from db.base.schema import jobs as jobs_table
from db.base.types import now
from db.queue import jobs, leases, listings, results
from db.work import claims, control
from tests.db import given

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


def test_a_lease_that_has_run_out_goes_to_another_worker(database: sa.Engine) -> None:
    given.running(database)
    first = given.claimed(database, "first", given.EXPIRED_S)

    second = given.claimed(database, "second")

    assert (second.shard_no, second.token, second.attempt) == (0, first.token + 1, 2)
    assert write(database, lambda c: claims.claim_shard(c, "third", given.LEASE_S)) is None


def test_whoever_lost_the_lease_writes_nothing(database: sa.Engine) -> None:
    given.running(database, items=3)
    late = given.claimed(database, "late", given.EXPIRED_S)
    holder = given.claimed(database, "holder")

    with pytest.raises(LeaseLost):
        given.commit(database, late, refused=1, errors=1)
    with pytest.raises(LeaseLost):
        write(database, lambda c: results.give_up(c, late, ["a", "b", "c"], "worker_died", "died"))
    write(database, lambda c: leases.hand_back_shard(c, late, "late", in_good_order=True))

    for table in (predictions, refusals, item_errors, rollups):
        assert given.count(database, table) == 0
    row = given.one(database, shards)
    assert (row.state, row.worker_id, row.lease_token) == ("leased", "holder", holder.token)
    given.commit(database, holder)


def test_a_worker_cannot_commit_the_same_shard_twice(database: sa.Engine) -> None:
    given.running(database)
    shard = given.claimed(database)
    given.commit(database, shard)

    with pytest.raises(LeaseLost):
        given.commit(database, shard)

    assert given.count(database, predictions) == 1


def test_a_lease_that_has_run_out_is_still_good_while_nobody_else_claimed(
    database: sa.Engine,
) -> None:
    given.running(database)
    shard = given.claimed(database, lease_s=given.EXPIRED_S)

    assert write(database, lambda c: leases.renew_shards(c, [shard], given.LEASE_S)) == []
    assert write(database, lambda c: claims.claim_shard(c, "other", given.LEASE_S)) is None
    given.commit(database, shard)


def test_renewing_tells_which_leases_are_lost(database: sa.Engine) -> None:
    given.running(database, shards=3)
    lost = given.claimed(database, "slow", given.EXPIRED_S)
    taken = given.claimed(database, "quick")
    kept = given.claimed(database, "slow")
    assert taken.shard_no == lost.shard_no

    assert write(database, lambda c: leases.renew_shards(c, [lost, kept], given.LEASE_S)) == [lost]
    assert given.one(database, shards, shards.c.shard_no == lost.shard_no).worker_id == "quick"


def test_renewing_tells_that_the_job_was_cancelled(database: sa.Engine) -> None:
    job_id = given.running(database)
    shard = given.claimed(database)
    write(database, lambda c: control.cancel(c, job_id, "a person"))

    assert write(database, lambda c: leases.renew_shards(c, [shard], given.LEASE_S)) == [shard]
    with pytest.raises(LeaseLost):
        given.commit(database, shard)


def test_a_shard_handed_back_in_good_order_is_due_at_once_and_not_counted(
    database: sa.Engine,
) -> None:
    given.running(database)
    shard = given.claimed(database)

    write(database, lambda c: leases.hand_back_shard(c, shard, "shutting down", in_good_order=True))

    assert given.one(database, shards).last_error == "shutting down"
    again = given.claimed(database, "another")
    assert (again.attempt, again.token) == (1, shard.token + 1)
    # Should this attempt end without a word, the reason of an earlier one must not stand for it.
    assert again.last_error == "shutting down"
    assert given.one(database, shards).last_error is None


def test_a_shard_handed_back_after_a_failure_waits_and_is_counted(database: sa.Engine) -> None:
    given.running(database)
    shard = given.claimed(database)

    write(database, lambda c: leases.hand_back_shard(c, shard, "GPU fell off", in_good_order=False))

    assert write(database, lambda c: claims.claim_shard(c, "another", given.LEASE_S)) is None
    row = given.one(database, shards)
    assert (row.state, row.attempts, row.last_error) == ("ready", 1, "GPU fell off")
    with reading(database) as connection:
        wait = connection.execute(sa.select(shards.c.not_before, now())).one()
    assert 0 < (wait[0] - wait[1]).total_seconds() <= leases.BACKOFF_S[0]


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


def test_a_shard_that_is_given_up_makes_one_error_row_per_item(database: sa.Engine) -> None:
    job_id = given.running(database, items=3)
    shard = given.claimed(database)

    write(
        database,
        lambda c: results.give_up(c, shard, ["a", "b", "c"], "worker_died", "workers died"),
    )

    with reading(database) as connection:
        rows = connection.execute(
            sa.select(item_errors.c.item_no, item_errors.c.name, item_errors.c.code).order_by(
                item_errors.c.item_no
            )
        ).all()
    assert [tuple(row) for row in rows] == [
        (0, "a", "worker_died"),
        (1, "b", "worker_died"),
        (2, "c", "worker_died"),
    ]
    row = given.one(database, shards)
    assert (row.state, row.n_errors, row.last_error) == ("dead", 3, "workers died")
    assert given.close(database, job_id)
    assert jobs.get(database, job_id)["state"] == "completed_with_errors"
    assert "shard_dead" in [event["event"] for event in jobs.events(database, job_id)]


def test_a_shard_cannot_be_given_up_with_some_of_its_names(database: sa.Engine) -> None:
    given.running(database, items=3)
    shard = given.claimed(database)

    with pytest.raises(ValueError, match="3 items, but 2 names"):
        write(
            database, lambda c: results.give_up(c, shard, ["a", "b"], "worker_died", "workers died")
        )

    assert given.one(database, shards).state == "leased"


def test_a_second_planner_goes_on_where_the_first_ended(database: sa.Engine) -> None:
    job_id = given.queued(database)
    first = write(database, lambda c: claims.claim_job(c, "score", "first", given.EXPIRED_S))
    assert first is not None
    assert (first.planned_items, first.planned_shards, first.attempt) == (0, 0, 1)
    write(database, lambda c: listings.add(c, first.lease, given.new_shards(2, items=5)))

    second = write(database, lambda c: claims.claim_job(c, "score", "second", given.LEASE_S))
    assert second is not None
    assert (second.planned_items, second.planned_shards, second.attempt) == (10, 2, 2)
    write(database, lambda c: listings.add(c, second.lease, given.new_shards(1, items=5)))

    with reading(database) as connection:
        ranges = connection.execute(
            sa.select(shards.c.shard_no, shards.c.first_item, shards.c.n_items)
            .where(shards.c.job_id == job_id)
            .order_by(shards.c.shard_no)
        ).all()
    assert [tuple(row) for row in ranges] == [(0, 0, 5), (1, 5, 5), (2, 10, 5)]


def test_a_planner_that_lost_its_lease_adds_nothing(database: sa.Engine) -> None:
    job_id = given.queued(database)
    first = write(database, lambda c: claims.claim_job(c, "score", "first", given.EXPIRED_S))
    second = write(database, lambda c: claims.claim_job(c, "score", "second", given.LEASE_S))
    assert first is not None
    assert second is not None

    for work in (
        lambda c: listings.add(c, first.lease, given.new_shards(2)),
        lambda c: listings.set_seek_index(c, first.lease, 0, b"index"),
        lambda c: leases.renew(c, first.lease, given.LEASE_S),
        lambda c: listings.complete(c, first.lease, {}),
        lambda c: leases.hand_back(c, first.lease, "late", in_good_order=True),
    ):
        with pytest.raises(LeaseLost):
            write(database, work)

    row = given.one(database, jobs_table, jobs_table.c.id == job_id)
    assert (row.state, row.worker_id, row.planned_shards) == ("planning", "second", 0)
    assert given.count(database, shards) == 0


def test_a_planner_of_a_cancelled_job_adds_nothing(database: sa.Engine) -> None:
    lease = given.planning(database).lease
    write(database, lambda c: control.cancel(c, lease.job_id, "a person"))

    with pytest.raises(LeaseLost):
        write(database, lambda c: leases.renew(c, lease, given.LEASE_S))
    with pytest.raises(LeaseLost):
        write(database, lambda c: listings.add(c, lease, given.new_shards(1)))


def test_a_planner_cannot_go_on_after_its_listing_is_complete(database: sa.Engine) -> None:
    lease = given.planning(database).lease
    write(database, lambda c: listings.complete(c, lease, {"hidden": 2}))

    with pytest.raises(LeaseLost):
        write(database, lambda c: listings.add(c, lease, given.new_shards(1)))

    assert jobs.get(database, lease.job_id)["passed_over"] == {"hidden": 2}


def test_seek_indexes_are_kept_beside_their_source(database: sa.Engine) -> None:
    lease = given.planning(database).lease
    index = bytes(range(256))

    write(database, lambda c: listings.set_seek_index(c, lease, 0, index))

    with reading(database) as connection:
        assert listings.seek_index(connection, lease.job_id, 0) == index
        assert listings.seek_index(connection, lease.job_id, 1) is None
    (source,) = jobs.source_rows(database, lease.job_id)
    assert (source["uri"], source["kind"]) == ("/films.zip", "zip")
    assert "seek_index" not in source


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
