"""Proofs: of each kind of worker one is at a new model, whoever else looks at the same moment."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from db.base import workers
from db.base.database import reading, write
from db.base.schema import proofs as checks_table
from db.nightly import runs, schedules
from db.registry import engine_checks, models
from db.registry.engine_checks import Due
from tests.db import given

CPU, GPU = "OpenVINO 1 on a processor", "TensorRT 10.3.0 on Orin (8.7)"


@pytest.fixture
def candidate(database: sa.Engine, tmp_path: Path) -> int:
    return write(
        database, lambda c: models.register(c, given.model(tmp_path, "candidate"), "tests")
    )


def checking(database: sa.Engine, candidate: int, count: int = 1) -> list[int]:
    """Runs of one schedule whose model is to be checked."""

    def add(connection: sa.Connection) -> list[int]:
        schedule = schedules.add(
            connection, name="nightly", cron="0 2 * * *", tz="UTC", kind="train",
            spec={"job": {"data": "/films"}, "night": {}}, catch_up_s=60, created_by="tests",
        )  # fmt: skip
        made = [
            runs.begin(
                connection, schedule, at + timedelta(days=n), "clock", "proving",
                champion_id=1, candidate_id=candidate,
            )
            for n in range(count)
        ]  # fmt: skip
        return [run_id for run_id in made if run_id is not None]

    at = schedules.database_clock(database)
    return write(database, add)


def claim(database: sa.Engine, worker: str, *there: str, kind: str = CPU) -> Due | None:
    return write(database, lambda c: engine_checks.claim(c, kind, worker, there))


def held(database: sa.Engine) -> list[tuple[str, str | None, int, bool | None]]:
    columns = (
        checks_table.c.kind, checks_table.c.worker_id, checks_table.c.attempts,
        checks_table.c.passed,
    )  # fmt: skip
    with reading(database) as connection:
        found = connection.execute(sa.select(*columns).order_by(checks_table.c.kind))
        return [tuple(row) for row in found]


def test_of_workers_of_a_kind_that_look_at_once_one_has_it(
    database: sa.Engine, candidate: int
) -> None:
    (run_id,) = checking(database, candidate)
    names = ("a", "b", "c", "d")
    found = given.together(
        *[lambda n=n: claim(database, n, *(set(names) - {n})) for n in names]  # type: ignore[misc]
    )
    assert [f for f in found if f is not None] == [Due(run_id, candidate, CPU)]
    ((kind, worker, attempts, passed),) = held(database)
    assert (kind, attempts, passed) == (CPU, 1, None)
    assert found[names.index(str(worker))] is not None, "the one whose name is in the row has it"


def test_of_workers_that_take_over_at_once_one_has_it(database: sa.Engine, candidate: int) -> None:
    checking(database, candidate)
    assert claim(database, "gone") is not None
    names = ("a", "b", "c", "d")
    found = given.together(
        *[lambda n=n: claim(database, n, *(set(names) - {n})) for n in names]  # type: ignore[misc]
    )
    assert len([f for f in found if f is not None]) == 1
    assert [row[2] for row in held(database)] == [2]


def test_each_kind_has_a_proof_of_its_own_and_the_oldest_model_goes_first(
    database: sa.Engine, candidate: int
) -> None:
    first, second = checking(database, candidate, 2)
    assert claim(database, "a", "g") == Due(first, candidate, CPU)
    assert claim(database, "g", "a", kind=GPU) == Due(first, candidate, GPU)
    assert claim(database, "b", "a", "g") == Due(second, candidate, CPU)
    assert claim(database, "c", "a", "b", "g") is None


def test_a_worker_finds_something_due_only_while_nobody_there_is_at_it(
    database: sa.Engine, candidate: int
) -> None:
    assert not engine_checks.due(database, CPU, 60.0)
    (run_id,) = checking(database, candidate)
    assert engine_checks.due(database, CPU, 60.0)
    write(
        database,
        lambda c: workers.register(
            c, "a", host="a", pid=1, queues="score", engine="x", versions={"proves": CPU}
        ),
    )
    assert claim(database, "a", "a") is not None
    assert not engine_checks.due(database, CPU, 60.0)
    assert engine_checks.due(database, GPU, 60.0)
    write(database, lambda c: workers.deregister(c, "a"))
    assert engine_checks.due(database, CPU, 60.0), "who was at it has ended"
    write(database, lambda c: runs.finish(c, run_id, "kept", "changed by hand"))
    assert not engine_checks.due(database, CPU, 60.0), "the run has ended"
    assert claim(database, "b") is None


def test_what_is_decided_stays_and_is_nobody_s_to_begin_anew(
    database: sa.Engine, candidate: int
) -> None:
    checking(database, candidate)
    due = claim(database, "a")
    assert due is not None

    def decide(worker: str, passed: bool) -> bool:
        return write(database, lambda c: engine_checks.decide(c, due, worker, passed, "fp32 runs"))

    assert not decide("b", False), "b does not have it"
    assert decide("a", True)
    assert not decide("a", False), "it is decided"
    write(database, lambda c: engine_checks.hand_back(c, due, "a"))
    assert held(database) == [(CPU, "a", 1, True)]
    assert claim(database, "b") is None


def test_a_kind_whose_worker_ended_each_time_is_decided_and_the_next_model_is_tried(
    database: sa.Engine, candidate: int
) -> None:
    first, second = checking(database, candidate, 2)
    for name in ("a", "b", "c"):
        found = claim(database, name)
        assert found is not None
        assert found.run_id == first
    assert claim(database, "d") == Due(second, candidate, CPU)
    row = given.one(database, checks_table, checks_table.c.run_id == first)
    assert row.passed is False
    assert row.finished_at is not None
    assert row.detail == "its worker ended each of the 3 times before it was done"
