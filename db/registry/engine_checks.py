"""Engine checks: a new model is tried on every kind of worker that is there before its promotion.

One worker of each kind does the check; where that one vanishes another takes its place. A worker
writes its result only while the check is still its own. (Their table is `proofs`.)
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import sqlalchemy as sa

from db.base import database, workers
from db.base.schema import proofs as checks
from db.base.schema import runs
from db.base.types import now

#: A kind of worker that ended so many times while it checked a model is not tried again.
MAX_ATTEMPTS = 3


class Due(NamedTuple):
    """A model to be checked by a kind of worker."""

    run_id: int
    model_id: int
    kind: str


def due(engine: sa.Engine, kind: str, gone_after_s: float) -> bool:
    """Whether a worker of this kind would find something to check."""
    there = workers.alive_ids(engine, gone_after_s)
    with database.reading(engine) as connection:
        return any(_free(row, there) for row in connection.execute(_open(kind)))


def claim(
    connection: sa.Connection, kind: str, worker_id: str, there: Collection[str]
) -> Due | None:
    """Take the oldest check of this kind that none of the workers `there` has."""
    for row in connection.execute(_open(kind)).all():
        if not _free(row, there):
            continue
        if row.attempts is None:
            try:
                with connection.begin_nested():
                    connection.execute(sa.insert(checks).values(run_id=row.id, kind=kind))
            except sa.exc.IntegrityError:
                continue  # another one of this kind was first
        ours = sa.and_(checks.c.run_id == row.id, checks.c.kind == kind)
        if (row.attempts or 0) >= MAX_ATTEMPTS:
            connection.execute(
                sa.update(checks)
                .where(ours, checks.c.passed.is_(None))
                .values(
                    passed=False,
                    detail=f"its worker ended each of the {row.attempts} times before it was done",
                    finished_at=now(),
                )
            )
            continue
        taken = connection.execute(
            sa.update(checks)
            .where(
                ours,
                checks.c.passed.is_(None),
                checks.c.worker_id.is_not_distinct_from(row.worker_id),
            )
            .values(worker_id=worker_id, attempts=checks.c.attempts + 1, began_at=now())
        )
        if taken.rowcount == 1:
            return Due(row.id, row.candidate_id, kind)
    return None


def decide(
    connection: sa.Connection, check: Due, worker_id: str, passed: bool, detail: str
) -> bool:
    """Write the result; False where the check is another worker's by now, or decided."""
    written = connection.execute(
        sa.update(checks)
        .where(_held(check, worker_id))
        .values(passed=passed, detail=detail, finished_at=now())
    )
    return written.rowcount == 1


def hand_back(connection: sa.Connection, check: Due, worker_id: str) -> None:
    """Let another worker do it: this one is stopping, which does not count."""
    connection.execute(
        sa.update(checks)
        .where(_held(check, worker_id))
        .values(worker_id=None, attempts=checks.c.attempts - 1)
    )


def of_run(connection: sa.Connection, run_id: int) -> list[sa.RowMapping]:
    """The checks of a run, by kind."""
    return list(
        connection.execute(
            sa.select(checks).where(checks.c.run_id == run_id).order_by(checks.c.kind)
        ).mappings()
    )


def _held(check: Due, worker_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(
        checks.c.run_id == check.run_id,
        checks.c.kind == check.kind,
        checks.c.worker_id == worker_id,
        checks.c.passed.is_(None),
    )


def _open(kind: str) -> sa.Select[tuple[int, int, str, int]]:
    """Models that this kind has not decided on, oldest first; `attempts` NULL: not begun."""
    return (
        sa.select(runs.c.id, runs.c.candidate_id, checks.c.worker_id, checks.c.attempts)
        .outerjoin(checks, sa.and_(checks.c.run_id == runs.c.id, checks.c.kind == kind))
        .where(runs.c.state == "proving", runs.c.finished_at.is_(None), checks.c.passed.is_(None))
        .order_by(runs.c.id)
    )


def _free(row: sa.Row[tuple[int, int, str, int]], there: Collection[str]) -> bool:
    return row.worker_id is None or row.worker_id not in there
