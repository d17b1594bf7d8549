"""A lease is held by one worker at a time; whoever lost it writes nothing."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from db.base.database import reading, write
from db.base.errors import LeaseLost
from db.base.schema import (
    item_errors,
    predictions,
    refusals,
    rollups,
    shards,
)
from db.base.types import now
from db.queue import jobs, leases, results
from db.work import claims, control
from tests.db import given


def _claim(database: sa.Engine, lease_s: float = given.LEASE_S) -> claims.Claimed | None:
    return write(database, lambda c: claims.claim_job(c, "train", "worker", lease_s))


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


@pytest.mark.parametrize("kind", ["train", "score"])
def test_a_job_handed_back_in_good_order_is_due_at_once_and_not_counted(
    database: sa.Engine, kind: str
) -> None:
    job_id = given.queued(database, kind)
    for _ in range(claims.MAX_ATTEMPTS[kind] + 1):
        found = write(database, lambda c: claims.claim_job(c, kind, "worker", given.LEASE_S))
        assert found is not None
        assert (found.lease.job_id, found.attempt) == (job_id, 1)
        write(
            database,
            lambda c, f=found: leases.hand_back(c, f.lease, "shutting down", in_good_order=True),  # type: ignore[misc]
        )

    assert given.events(database, job_id)[-1] == "handed_back"


@pytest.mark.parametrize("kind", ["train", "score"])
def test_a_job_handed_back_after_a_failure_waits_and_is_counted(
    database: sa.Engine, kind: str
) -> None:
    job_id = given.queued(database, kind)
    found = write(database, lambda c: claims.claim_job(c, kind, "worker", given.LEASE_S))
    assert found is not None

    write(database, lambda c: leases.hand_back(c, found.lease, "no GPU", in_good_order=False))

    assert write(database, lambda c: claims.claim_job(c, kind, "worker", given.LEASE_S)) is None
    row = jobs.get(database, job_id)
    assert row["attempts"] == 1
    assert row["not_before"] > row["created_at"]
    with pytest.raises(LeaseLost):
        write(database, lambda c: leases.renew(c, found.lease, given.LEASE_S))


def test_a_lease_is_renewed_for_as_long_as_it_is_held(database: sa.Engine) -> None:
    job_id = given.queued(database, "train")
    found = _claim(database, given.EXPIRED_S)
    assert found is not None

    write(database, lambda c: leases.renew(c, found.lease, given.LEASE_S))

    assert _claim(database) is None
    write(database, lambda c: control.cancel(c, job_id, "a person"))
    with pytest.raises(LeaseLost):
        write(database, lambda c: leases.renew(c, found.lease, given.LEASE_S))
