"""A job is a row: claimed by one worker, closed exactly once, and its end is final."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from db.base.database import reading, write
from db.base.errors import Conflict, LeaseLost, NotFound
from db.base.schema import FINAL_JOB_STATES, JOB_STATES, job_events
from db.base.schema import jobs as jobs_table
from db.queue import jobs, leases, listings
from db.work import claims, control, endings
from tests.db import given

#: Times that a race is run.
RACES = 40


def _claim(database: sa.Engine, lease_s: float = given.LEASE_S) -> claims.Claimed | None:
    return write(database, lambda c: claims.claim_job(c, "train", "worker", lease_s))


def _events(database: sa.Engine, job_id: int) -> list[str]:
    return [event["event"] for event in jobs.events(database, job_id)]


def test_the_last_two_shards_close_the_job_exactly_once(database: sa.Engine) -> None:
    for _ in range(RACES):
        job_id = given.running(database, shards=2)
        both = [given.claimed(database, f"worker {n}") for n in range(2)]

        def finish(shard: Any, job_id: int = job_id) -> bool:
            given.commit(database, shard)
            return given.close(database, job_id)

        closed = given.together(*[lambda s=shard: finish(s) for shard in both])

        assert sorted(closed) == [False, True], closed  # type: ignore[type-var]
        row = jobs.get(database, job_id)
        assert row["state"] == "completed"
        assert row["finished_at"] is not None
        assert _events(database, job_id).count("completed") == 1
    assert endings.waiting_to_close(database) == []


def test_many_sweeps_close_a_job_exactly_once(database: sa.Engine) -> None:
    job_id = given.running(database)
    given.commit(database, given.claimed(database))
    assert endings.waiting_to_close(database) == [job_id]

    closed = given.together(*[lambda: given.close(database, job_id)] * 4)

    assert sorted(closed) == [False, False, False, True]  # type: ignore[type-var]
    assert _events(database, job_id).count("completed") == 1


def test_a_job_is_not_closed_before_its_listing_is_complete(database: sa.Engine) -> None:
    lease = given.planning(database).lease

    assert not given.close(database, lease.job_id)

    write(database, lambda c: listings.complete(c, lease, {}))
    assert given.close(database, lease.job_id)
    assert jobs.get(database, lease.job_id)["state"] == "completed"


def test_a_job_is_not_closed_while_a_shard_is_open(database: sa.Engine) -> None:
    job_id = given.running(database, shards=2)
    given.commit(database, given.claimed(database))

    assert not given.close(database, job_id)

    given.claimed(database)
    assert not given.close(database, job_id)
    assert endings.waiting_to_close(database) == []


@pytest.mark.parametrize(
    ("counts", "state"),
    [
        ({}, "completed"),
        ({"refused": 2}, "completed"),
        ({"errors": 1}, "completed_with_errors"),
    ],
)
def test_only_errors_make_a_job_complete_with_errors(
    database: sa.Engine, counts: dict[str, int], state: str
) -> None:
    job_id = given.running(database, items=3)
    given.commit(database, given.claimed(database), **counts)

    given.close(database, job_id)

    assert jobs.get(database, job_id)["state"] == state


def test_a_job_that_does_not_exist_is_not_closed(database: sa.Engine) -> None:
    assert not given.close(database, 4711)


@pytest.mark.parametrize("state", FINAL_JOB_STATES)
def test_a_final_state_is_final(database: sa.Engine, state: str) -> None:
    job_id = given.queued(database, "train")
    write(database, lambda c: endings.finish(c, job_id, state, "tests", "a reason"))
    before = jobs.get(database, job_id)

    with pytest.raises(Conflict, match=f"already {state}"):
        write(database, lambda c: control.cancel(c, job_id, "a person"))
    with pytest.raises(Conflict, match="final states are final"):
        write(database, lambda c: endings.finish(c, job_id, "completed", "tests"))

    assert _claim(database) is None
    assert jobs.get(database, job_id) == before
    assert _events(database, job_id) == ["submitted", state]


@pytest.mark.parametrize("state", JOB_STATES)
def test_the_database_ties_the_end_of_a_job_to_final_states(
    database: sa.Engine, state: str
) -> None:
    job_id = given.queued(database, "train")
    final = state in FINAL_JOB_STATES
    wrong = None if final else "2026-01-31T02:00:00.000Z"
    statement = sa.text("UPDATE jobs SET state = :state, finished_at = :at WHERE id = :id")
    if database.dialect.name == "postgresql":
        statement = sa.text(
            "UPDATE jobs SET state = :state, finished_at = CAST(:at AS timestamptz) WHERE id = :id"
        )

    with pytest.raises(IntegrityError, match="ck_jobs_finished"):
        write(database, lambda c: c.execute(statement, {"state": state, "at": wrong, "id": job_id}))

    right = "2026-01-31T02:00:00.000Z" if final else None
    write(database, lambda c: c.execute(statement, {"state": state, "at": right, "id": job_id}))


def test_the_database_knows_the_states_there_are(database: sa.Engine) -> None:
    given.running(database)
    for table in ("jobs", "shards"):
        with pytest.raises(IntegrityError, match=f"ck_{table}_"):
            write(database, lambda c, t=table: c.exec_driver_sql(f"UPDATE {t} SET state = 'lost'"))  # type: ignore[misc]


def test_a_shard_is_not_done_before_each_item_has_an_outcome(database: sa.Engine) -> None:
    given.running(database, items=3)

    with pytest.raises(IntegrityError, match="ck_shards_complete"):
        write(
            database,
            lambda c: c.exec_driver_sql(
                "UPDATE shards SET state = 'done', n_errors = 2, "
                "finished_at = (SELECT created_at FROM jobs)"
            ),
        )


def test_the_same_key_is_the_same_job(database: sa.Engine) -> None:
    first = given.queued(database, key="nightly")
    again = given.queued(database, key="nightly", priority=3)
    other = given.queued(database, key="weekly")

    assert first == again != other
    assert jobs.get(database, first)["priority"] == 0
    assert _events(database, first) == ["submitted"]
    assert given.count(database, jobs_table) == 2


def test_jobs_without_a_key_are_different_jobs(database: sa.Engine) -> None:
    assert given.queued(database) != given.queued(database)


def test_the_history_of_a_job_is_kept_in_order(database: sa.Engine) -> None:
    job_id = given.running(database)
    given.commit(database, given.claimed(database))
    given.close(database, job_id)

    events = jobs.events(database, job_id)

    assert [(e["event"], e["who"], e["detail"]) for e in events] == [
        ("submitted", "tests", None),
        ("planning", "planner", "attempt 1"),
        ("planned", "planner", None),
        ("completed", "closer", None),
    ]
    assert [e["at"] for e in events] == sorted(e["at"] for e in events)
    row = jobs.get(database, job_id)
    assert row["created_at"] <= row["started_at"] <= row["planned_at"] <= row["finished_at"]


def test_the_history_says_who_cancelled_and_why(database: sa.Engine) -> None:
    job_id = given.queued(database)
    write(database, lambda c: control.cancel(c, job_id, "kim@ward", "wrong folder"))

    last = jobs.events(database, job_id)[-1]

    assert (last["event"], last["who"], last["detail"]) == ("cancelled", "kim@ward", "wrong folder")
    assert jobs.get(database, job_id)["reason"] == "wrong folder"


def test_a_job_that_is_absent_is_named(database: sa.Engine) -> None:
    for ask in (jobs.get, jobs.progress, jobs.events):
        with pytest.raises(NotFound, match="there is no job 4711; `pneumoq jobs ls`"):
            ask(database, 4711)
    with pytest.raises(NotFound, match="there is no job 4711"):
        write(database, lambda c: control.cancel(c, 4711, "a person"))


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
    assert _events(database, job_id)[-1] == "failed"


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

    assert _events(database, job_id)[-1] == "handed_back"


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


def test_progress_is_the_sum_of_the_shards(database: sa.Engine) -> None:
    job_id = given.running(database, shards=3, items=4)
    given.commit(database, given.claimed(database), errors=1)
    given.commit(database, given.claimed(database), refused=2)

    row = jobs.progress(database, job_id)

    assert (row["items"], row["done"], row["shards"], row["shards_done"]) == (12, 8, 3, 2)
    assert (row["predictions"], row["refused"], row["errors"]) == (5, 2, 1)
    assert row["created_at"] == jobs.get(database, job_id)["created_at"]
    assert row["finished_at"] is None


def test_the_newest_jobs_are_listed_first(database: sa.Engine) -> None:
    first, second, third = (given.queued(database, kind) for kind in ("train", "score", "train"))
    write(database, lambda c: control.cancel(c, third, "a person"))

    def listed(**options: Any) -> list[int]:
        return [row["job_id"] for row in jobs.recent(database, **options)]

    assert listed() == [third, second, first]
    assert listed(limit=2) == [third, second]
    assert listed(only_open=True) == [second, first]
    assert listed(kind="train") == [third, first]
    assert listed(kind="train", only_open=True) == [first]


def test_events_are_written_in_the_same_transaction_as_the_change(database: sa.Engine) -> None:
    job_id = given.queued(database)

    def work(connection: sa.Connection) -> None:
        control.cancel(connection, job_id, "a person")
        raise RuntimeError("after the change")

    with pytest.raises(RuntimeError):
        write(database, work)

    assert _events(database, job_id) == ["submitted"]
    with reading(database) as connection:
        assert connection.execute(sa.select(sa.func.count(job_events.c.id))).scalar_one() == 1
