"""Pause, resume, cancel and retry do what they say, and refuse what they cannot do."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from db.base.database import reading, write
from db.base.errors import Conflict, LeaseLost, NotFound
from db.base.schema import shards
from db.queue import jobs, leases, listings, results
from db.work import claims, control
from tests.db import given


def _pause(database: sa.Engine, job_id: int) -> None:
    write(database, lambda c: control.pause(c, job_id, "kim@ward", "the scanner needs the disk"))


def _resume(database: sa.Engine, job_id: int) -> None:
    write(database, lambda c: control.resume(c, job_id, "kim@ward"))


def _retry(database: sa.Engine, job_id: int, **changes: object) -> int:
    return write(database, lambda c: control.retry(c, job_id, "kim@ward", **changes))  # type: ignore[arg-type]


def test_a_paused_job_gives_its_shards_away_without_counting_the_attempt(
    database: sa.Engine,
) -> None:
    job_id = given.running(database, shards=2)
    shard = given.claimed(database)

    _pause(database, job_id)

    row = given.one(database, shards, shards.c.shard_no == 0)
    assert (row.state, row.attempts, row.lease_until) == ("ready", 0, None)
    assert write(database, lambda c: claims.claim_shard(c, "other", given.LEASE_S)) is None
    assert not claims.anything_due(database, "score")
    assert write(database, lambda c: leases.renew_shards(c, [shard], given.LEASE_S)) == [shard]
    with pytest.raises(LeaseLost, match="paused"):
        given.commit(database, shard)
    last = jobs.events(database, job_id)[-1]
    assert (last["event"], last["who"], last["detail"]) == (
        "paused", "kim@ward", "the scanner needs the disk",
    )  # fmt: skip


def test_a_resumed_job_goes_on_where_it_was(database: sa.Engine) -> None:
    job_id = given.running(database, shards=2)
    given.commit(database, given.claimed(database))
    late = given.claimed(database)
    _pause(database, job_id)

    _resume(database, job_id)

    with pytest.raises(LeaseLost):
        given.commit(database, late)
    again = given.claimed(database)
    assert (again.shard_no, again.attempt) == (1, 1)
    given.commit(database, again)
    assert given.close(database, job_id)
    assert jobs.get(database, job_id)["state"] == "completed"


def test_a_job_paused_while_it_is_planned_is_planned_on(database: sa.Engine) -> None:
    lease = given.planning(database).lease
    write(database, lambda c: listings.add(c, lease, given.new_shards(1, items=3)))

    _pause(database, lease.job_id)

    for work in (
        lambda c: listings.add(c, lease, given.new_shards(1)),
        lambda c: leases.renew(c, lease, given.LEASE_S),
        lambda c: listings.complete(c, lease, {}),
    ):
        with pytest.raises(LeaseLost):
            write(database, work)
    assert write(database, lambda c: claims.claim_job(c, "score", "w", given.LEASE_S)) is None
    _resume(database, lease.job_id)
    claimed = write(database, lambda c: claims.claim_job(c, "score", "w", given.LEASE_S))
    assert claimed is not None
    assert (claimed.attempt, claimed.planned_items) == (1, 3)


def test_a_claim_waits_for_a_pause_that_is_under_way(database: sa.Engine) -> None:
    job_id = given.running(database)

    claimed = given.meanwhile(
        database,
        lambda c: control.pause(c, job_id, "kim@ward"),
        lambda: write(database, lambda c: claims.claim_shard(c, "worker", given.LEASE_S)),
    )

    assert claimed is None
    assert given.one(database, shards).state == "ready"


def test_what_cannot_be_paused_or_resumed_says_why(database: sa.Engine) -> None:
    ended = given.running(database)
    write(database, lambda c: control.cancel(c, ended, "kim@ward"))
    paused = given.running(database)
    _pause(database, paused)
    training = given.queued(database, "train")
    write(database, lambda c: claims.claim_job(c, "train", "worker", given.LEASE_S))

    for job_id, words in ((ended, "already cancelled"), (paused, f"jobs resume {paused}"),
                          (training, "cannot be paused")):  # fmt: skip
        with pytest.raises(Conflict, match=words):
            _pause(database, job_id)
    with pytest.raises(Conflict, match="is cancelled, not paused"):
        _resume(database, ended)
    with pytest.raises(NotFound):
        _pause(database, 4711)


def test_a_paused_job_can_be_cancelled(database: sa.Engine) -> None:
    job_id = given.running(database)
    _pause(database, job_id)

    write(database, lambda c: control.cancel(c, job_id, "kim@ward"))

    assert jobs.get(database, job_id)["state"] == "cancelled"


def test_a_retry_is_a_new_job_with_the_same_work(database: sa.Engine) -> None:
    job_id = given.running(database, priority=3, spec={"keep_cam": "all", "max_errors": "1"},
                           precision="int8", engine="tensorrt")  # fmt: skip
    write(database, lambda c: control.cancel(c, job_id, "kim@ward"))

    new = jobs.get(database, _retry(database, job_id, max_errors=None, priority=5))

    assert (new["state"], new["parent_job_id"], new["priority"]) == ("queued", job_id, 5)
    assert (new["model_id"], new["precision"], new["spec"]) == (1, "int8", {"keep_cam": "all"})
    assert new["engine"] == "tensorrt"
    first, second = (
        {k: v for k, v in dict(row).items() if k != "job_id"}
        for n in (job_id, new["id"])
        for row in jobs.source_rows(database, n)
    )
    assert first == second


def test_a_retry_may_ask_for_another_engine_or_for_any(database: sa.Engine) -> None:
    job_id = given.running(database, engine="tensorrt")
    write(database, lambda c: control.cancel(c, job_id, "kim@ward"))

    assert jobs.get(database, _retry(database, job_id, engine="onnx"))["engine"] == "onnx"
    assert jobs.get(database, _retry(database, job_id, engine=None))["engine"] is None


def test_only_what_failed_is_to_be_retried(database: sa.Engine) -> None:
    job_id = given.running(database, shards=4, items=3)
    given.commit(database, given.claimed(database))
    given.commit(database, given.claimed(database), refused=1, errors=1)
    dead = given.claimed(database)
    write(database, lambda c: results.give_up(c, dead, ["a", "b", "c"], "x", "died"))
    write(database, lambda c: control.cancel(c, job_id, "kim@ward"))

    new = jobs.get(database, _retry(database, job_id, failed_only=True))

    assert new["spec"]["failed_only"] is True
    with reading(database) as connection:
        found = listings.after(connection, job_id, to_retry=True)
        assert [s.shard_no for s in found] == [1, 2, 3]
        assert [listings.items_to_retry(connection, job_id, s.shard_no) for s in found] == [
            [4], [6, 7, 8], [9, 10, 11],
        ]  # fmt: skip
        page = listings.after(connection, job_id, after_shard_no=0, limit=2)
        assert [(s.shard_no, s.first_item, s.listing) for s in page] == [
            (1, 3, b"listing"), (2, 6, b"listing"),
        ]  # fmt: skip


def test_what_cannot_be_retried_says_why(database: sa.Engine) -> None:
    running = given.running(database)
    with pytest.raises(Conflict, match="is running; wait until it has ended"):
        _retry(database, running)
    given.commit(database, given.claimed(database))
    given.close(database, running)
    with pytest.raises(Conflict, match="no item of job"):
        _retry(database, running, failed_only=True)
    unplanned = given.planning(database).lease.job_id
    write(database, lambda c: control.cancel(c, unplanned, "kim@ward"))
    with pytest.raises(Conflict, match="before its listing was complete"):
        _retry(database, unplanned, failed_only=True)
    training = given.queued(database, "train")
    write(database, lambda c: control.cancel(c, training, "kim@ward"))
    with pytest.raises(Conflict, match="no scoring job"):
        _retry(database, training, failed_only=True)
    assert jobs.get(database, _retry(database, training))["kind"] == "train"


def test_the_history_says_who_cancelled_and_why(database: sa.Engine) -> None:
    job_id = given.queued(database)
    write(database, lambda c: control.cancel(c, job_id, "kim@ward", "wrong folder"))

    last = jobs.events(database, job_id)[-1]

    assert (last["event"], last["who"], last["detail"]) == ("cancelled", "kim@ward", "wrong folder")
    assert jobs.get(database, job_id)["reason"] == "wrong folder"
