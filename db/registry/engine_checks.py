"""Proofs: a new model is tried on every kind of worker that is there, before it is promoted.

One worker of each kind is at it; where that one vanishes another takes its place. What a worker
finds is written only while it is still its to write.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import sqlalchemy as sa

from db.base import database, workers
from db.base.schema import proofs, runs
from db.base.types import now

#: A kind of worker that ended so many times while it proved a model has shown enough.
MAX_ATTEMPTS = 3


class Due(NamedTuple):
    """A model to be proved by a kind of worker."""

    run_id: int
    model_id: int
    kind: str


def due(engine: sa.Engine, kind: str, gone_after_s: float) -> bool:
    """Whether a worker of this kind would find something to prove."""
    there = workers.alive_ids(engine, gone_after_s)
    with database.reading(engine) as connection:
        return any(_free(row, there) for row in connection.execute(_open(kind)))


def claim(
    connection: sa.Connection, kind: str, worker_id: str, there: Collection[str]
) -> Due | None:
    """Take the oldest proof of this kind that nobody among the workers `there` is at."""
    for row in connection.execute(_open(kind)).all():
        if not _free(row, there):
            continue
        if row.attempts is None:
            try:
                with connection.begin_nested():
                    connection.execute(sa.insert(proofs).values(run_id=row.id, kind=kind))
            except sa.exc.IntegrityError:
                continue  # another one of this kind was first
        ours = sa.and_(proofs.c.run_id == row.id, proofs.c.kind == kind)
        if (row.attempts or 0) >= MAX_ATTEMPTS:
            connection.execute(
                sa.update(proofs)
                .where(ours, proofs.c.passed.is_(None))
                .values(
                    passed=False,
                    detail=f"its worker ended each of the {row.attempts} times before it was done",
                    finished_at=now(),
                )
            )
            continue
        taken = connection.execute(
            sa.update(proofs)
            .where(
                ours,
                proofs.c.passed.is_(None),
                proofs.c.worker_id.is_not_distinct_from(row.worker_id),
            )
            .values(worker_id=worker_id, attempts=proofs.c.attempts + 1, began_at=now())
        )
        if taken.rowcount == 1:
            return Due(row.id, row.candidate_id, kind)
    return None


def decide(
    connection: sa.Connection, proof: Due, worker_id: str, passed: bool, detail: str
) -> bool:
    """Write what was found; False where it is another worker's by now, or decided."""
    written = connection.execute(
        sa.update(proofs)
        .where(_held(proof, worker_id))
        .values(passed=passed, detail=detail, finished_at=now())
    )
    return written.rowcount == 1


def hand_back(connection: sa.Connection, proof: Due, worker_id: str) -> None:
    """Let another worker do it: this one is told to stop, which does not count."""
    connection.execute(
        sa.update(proofs)
        .where(_held(proof, worker_id))
        .values(worker_id=None, attempts=proofs.c.attempts - 1)
    )


def of_run(connection: sa.Connection, run_id: int) -> list[sa.RowMapping]:
    """The proofs of a run, by kind."""
    return list(
        connection.execute(
            sa.select(proofs).where(proofs.c.run_id == run_id).order_by(proofs.c.kind)
        ).mappings()
    )


def _held(proof: Due, worker_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(
        proofs.c.run_id == proof.run_id,
        proofs.c.kind == proof.kind,
        proofs.c.worker_id == worker_id,
        proofs.c.passed.is_(None),
    )


def _open(kind: str) -> sa.Select[tuple[int, int, str, int]]:
    """Models that this kind has not decided on, oldest first; `attempts` NULL: not begun."""
    return (
        sa.select(runs.c.id, runs.c.candidate_id, proofs.c.worker_id, proofs.c.attempts)
        .outerjoin(proofs, sa.and_(proofs.c.run_id == runs.c.id, proofs.c.kind == kind))
        .where(runs.c.state == "proving", runs.c.finished_at.is_(None), proofs.c.passed.is_(None))
        .order_by(runs.c.id)
    )


def _free(row: sa.Row[tuple[int, int, str, int]], there: Collection[str]) -> bool:
    return row.worker_id is None or row.worker_id not in there
