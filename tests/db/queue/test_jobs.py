"""A job is a row: submitted once, with its history, and what is asked about it."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from db.base.database import reading, write
from db.base.errors import NotFound
from db.base.schema import job_events
from db.base.schema import jobs as jobs_table
from db.queue import jobs
from db.work import control
from tests.db import given


def test_the_same_key_is_the_same_job(database: sa.Engine) -> None:
    first = given.queued(database, key="nightly")
    again = given.queued(database, key="nightly", priority=3)
    other = given.queued(database, key="weekly")

    assert first == again != other
    assert jobs.get(database, first)["priority"] == 0
    assert given.events(database, first) == ["submitted"]
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


def test_a_job_that_is_absent_is_named(database: sa.Engine) -> None:
    for ask in (jobs.get, jobs.progress, jobs.events):
        with pytest.raises(NotFound, match="there is no job 4711; `pneumoq jobs ls`"):
            ask(database, 4711)
    with pytest.raises(NotFound, match="there is no job 4711"):
        write(database, lambda c: control.cancel(c, 4711, "a person"))


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

    assert given.events(database, job_id) == ["submitted"]
    with reading(database) as connection:
        assert connection.execute(sa.select(sa.func.count(job_events.c.id))).scalar_one() == 1
