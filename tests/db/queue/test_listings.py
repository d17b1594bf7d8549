"""A planner adds shards while it holds its lease, and a shard that kills workers is bisected."""

from __future__ import annotations

from dataclasses import replace

import pytest
import sqlalchemy as sa

from db.base.database import reading, write
from db.base.errors import LeaseLost
from db.base.schema import jobs as jobs_table
from db.base.schema import predictions, shards, sources
from db.queue import jobs, leases, listings
from db.work import claims, control
from tests.db import given


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


def test_shards_whose_commit_was_not_answered_are_not_added_twice(database: sa.Engine) -> None:
    lease = given.planning(database).lease
    new = given.new_shards(2, items=5)
    for _ in range(2):
        write(database, lambda c: listings.add(c, lease, new, first_item=0))
    assert given.count(database, shards) == 2

    with pytest.raises(ValueError, match="somebody else lists it too"):
        write(database, lambda c: listings.add(c, lease, new, first_item=5))
    assert given.count(database, shards) == 2


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


def test_a_bisected_shard_is_two_halves_that_are_tried_twice_each(database: sa.Engine) -> None:
    job_id = given.running(database, shards=2, items=5)
    shard = given.claimed(database)
    halves = [listings.NewShard(source_no=0, n_items=n, listing=bytes([n])) for n in (2, 3)]

    write(database, lambda c: listings.bisect(c, shard, *halves))

    with pytest.raises(LeaseLost):
        given.commit(database, shard)
    found = [given.claimed(database, lease_s=given.EXPIRED_S) for _ in range(2)]
    assert [(s.shard_no, s.first_item, s.n_items, s.listing) for s in found] == [
        (0, 0, 2, b"\x02")
    ] * 2
    assert found[1].attempt == leases.MAX_ATTEMPTS
    assert given.claimed(database).attempt > leases.MAX_ATTEMPTS
    given.claimed(database)
    second = given.claimed(database)
    assert (second.shard_no, second.first_item, second.n_items, second.listing) == (
        2, 2, 3, b"\x03",
    )  # fmt: skip
    row = jobs.get(database, job_id)
    assert (row["planned_items"], row["planned_shards"]) == (10, 3)
    event = jobs.events(database, job_id)[-1]
    assert (event["event"], event["detail"]) == (
        "shard_bisected", "shard 0 of 5 items: the second half is shard 2 now",
    )  # fmt: skip


def test_halves_that_do_not_make_up_the_shard_are_refused(database: sa.Engine) -> None:
    given.running(database, items=5)
    shard = given.claimed(database)
    halves = given.new_shards(2, items=2)

    with pytest.raises(ValueError, match="parts of 2 and 2 do not make it up"):
        write(database, lambda c: listings.bisect(c, shard, *halves))


def test_a_planner_goes_on_while_its_shards_are_bisected(database: sa.Engine) -> None:
    lease = given.planning(database).lease
    write(database, lambda c: listings.add(c, lease, given.new_shards(1, items=4)))
    shard = given.claimed(database)
    write(database, lambda c: listings.bisect(c, shard, *given.new_shards(2, items=2)))
    write(database, lambda c: listings.add(c, lease, given.new_shards(1, items=4)))
    write(database, lambda c: listings.complete(c, lease, {}))

    for _ in range(3):
        given.commit(database, given.claimed(database))

    assert given.close(database, lease.job_id)
    assert given.count(database, predictions) == 8
    assert given.count(database, sources) == 1


def test_a_cut_shard_is_in_the_same_hands_part_by_part(database: sa.Engine) -> None:
    job_id = given.running(database, shards=2, items=5)
    shard = replace(given.claimed(database), unread={1: 2, 4: 1})
    new = [listings.NewShard(source_no=0, n_items=n, listing=bytes([n])) for n in (1, 3, 1)]

    parts = write(database, lambda c: listings.cut(c, shard, new))

    assert [(p.shard_no, p.first_item, p.n_items, p.listing, p.unread) for p in parts] == [
        (0, 0, 1, b"\x01", {}), (2, 1, 3, b"\x03", {1: 2}), (3, 4, 1, b"\x01", {4: 1}),
    ]  # fmt: skip
    assert write(database, lambda c: leases.renew_shards(c, parts, given.LEASE_S)) == []
    given.commit(database, parts[1])
    for part in (parts[0], parts[2]):
        write(database, lambda c, p=part: leases.hand_back_shard(c, p, "x", in_good_order=True))
    again = given.claimed(database)
    assert (again.shard_no, again.attempt, again.unread) == (0, 1, {})
    given.claimed(database)  # the second that was planned
    last = given.claimed(database)
    assert (last.shard_no, last.attempt, last.unread) == (3, 1, {4: 1})
    with pytest.raises(LeaseLost):
        write(database, lambda c: listings.cut(c, shard, new))
    row = jobs.get(database, job_id)
    assert (row["planned_items"], row["planned_shards"]) == (10, 4)


def test_a_shard_whose_cut_was_not_answered_is_not_cut_again(database: sa.Engine) -> None:
    given.running(database, items=5)
    shard = given.claimed(database)
    new = [listings.NewShard(source_no=0, n_items=n, listing=bytes([n])) for n in (2, 3)]
    write(database, lambda c: listings.cut(c, shard, new))
    with pytest.raises(LeaseLost):
        write(database, lambda c: listings.cut(c, shard, new))
