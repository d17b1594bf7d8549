"""People pause, resume and retry jobs, and a job that has too many errors ends by itself."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from db.base.database import reading, write
from db.base.errors import Conflict, LeaseLost, NotFound
from db.base.schema import predictions, shards, sources
from db.queue import budget, jobs, leases, listings, results
from db.work import claims, control, endings
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


@pytest.mark.parametrize(
    ("text", "errors", "listed", "allowed"),
    [
        ("0", 0, 10, True),
        ("0", 1, 10, False),
        (100, 100, 1000, True),
        ("5%", 50, 1000, True),
        ("5%", 51, 1000, False),
        (" 0.5 % ", 5, 1000, True),
        ("100%", 9, 9, True),
    ],
)
def test_a_budget_is_a_number_or_a_share(
    text: str | int, errors: int, listed: int, allowed: bool
) -> None:
    assert budget.parse(text).allows(errors, listed) is allowed


@pytest.mark.parametrize("text", ["", "five", "-1", "101%", "5 percent", "1.5", "%", "\u0665"])
def test_what_is_no_budget_is_refused_at_once(database: sa.Engine, text: str) -> None:
    with pytest.raises(ValueError, match="give a number of items"):
        given.queued(database, spec={"max_errors": text})


def test_a_job_over_its_budget_fails_with_the_numbers_and_what_to_do(database: sa.Engine) -> None:
    job_id = given.running(database, shards=3, items=4, spec={"max_errors": "25%"})
    given.commit(database, given.claimed(database), errors=3)
    assert not given.close(database, job_id)
    given.commit(database, given.claimed(database), errors=1)
    assert endings.waiting_to_close(database) == [job_id]

    assert given.close(database, job_id)

    row = jobs.get(database, job_id)
    assert row["state"] == "failed"
    assert row["reason"] == (
        f"4 of 12 items are in error, and 25% were allowed: see `pneumoq jobs errors {job_id}`, "
        f"then `pneumoq jobs retry {job_id} --failed-only`, or submit with a larger --max-errors"
    )
    assert write(database, lambda c: claims.claim_shard(c, "w", given.LEASE_S)) is None
    assert endings.waiting_to_close(database) == []


def test_a_share_is_not_judged_by_the_first_few_items(database: sa.Engine) -> None:
    counts = {"25%": False, "1": True}
    for text, ends in counts.items():
        lease = given.planning(database, spec={"max_errors": text}).lease
        write(database, lambda c, le=lease: listings.add(c, le, given.new_shards(1, items=4)))  # type: ignore[misc]
        given.commit(database, given.claimed(database), errors=2)

        assert given.close(database, lease.job_id) is ends

        if ends:
            assert "--failed-only" not in jobs.get(database, lease.job_id)["reason"]
            with pytest.raises(LeaseLost):
                write(database, lambda c, le=lease: listings.add(c, le, given.new_shards(1)))  # type: ignore[misc]
        else:
            write(database, lambda c, j=lease.job_id: control.cancel(c, j, "x"))  # type: ignore[misc]


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

    with pytest.raises(ValueError, match="halves of 2 and 2 do not make it up"):
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
