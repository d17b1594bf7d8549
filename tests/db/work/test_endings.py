"""A job ends exactly once, when all is done or its error budget is exceeded, and for good."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from db.base.database import write
from db.base.errors import Conflict, LeaseLost
from db.base.schema import FINAL_JOB_STATES, JOB_STATES
from db.queue import jobs, listings
from db.queue.leases import Lease
from db.work import claims, control, endings
from tests.db import given

#: Times that a race is run.
RACES = 40


def _claim(database: sa.Engine, lease_s: float = given.LEASE_S) -> claims.Claimed | None:
    return write(database, lambda c: claims.claim_job(c, "train", "worker", lease_s))


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
        assert given.events(database, job_id).count("completed") == 1
    assert endings.waiting_to_close(database) == []


def test_many_sweeps_close_a_job_exactly_once(database: sa.Engine) -> None:
    job_id = given.running(database)
    given.commit(database, given.claimed(database))
    assert endings.waiting_to_close(database) == [job_id]

    closed = given.together(*[lambda: given.close(database, job_id)] * 4)

    assert sorted(closed) == [False, False, False, True]  # type: ignore[type-var]
    assert given.events(database, job_id).count("completed") == 1


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
    assert given.events(database, job_id) == ["submitted", state]


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


def _held(database: sa.Engine, lease_s: float = given.LEASE_S) -> Lease:
    given.queued(database, "train")
    found = write(database, lambda c: claims.claim_job(c, "train", "worker", lease_s))
    assert found is not None
    return found.lease


def test_a_training_job_completes_with_the_model_it_made(database: sa.Engine) -> None:
    lease = _held(database)

    write(database, lambda c: endings.complete_training(c, lease, 1))

    row = jobs.get(database, lease.job_id)
    assert (row["state"], row["model_id"]) == ("completed", 1)
    with pytest.raises(LeaseLost):
        write(database, lambda c: endings.complete_training(c, lease, 1))
    with pytest.raises(Conflict):
        write(database, lambda c: control.cancel(c, lease.job_id, "a person"))


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
