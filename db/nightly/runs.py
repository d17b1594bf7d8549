"""Runs: what a schedule did at each of its times, and what became of it.

A run is made once per schedule and time, in the transaction that makes its job; the job's end, or
the verdict on the model that it made, ends it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from db.base import database, outbox
from db.base.errors import NotFound
from db.base.schema import runs, schedules
from db.base.types import now
from db.nightly import unpromoted

#: cron, zone, after, until → the times after the one and up to the other, as instants.
Times = Callable[[str, str, datetime, datetime], Sequence[datetime]]

#: Outcomes of which hooks get a notice here; a failed job has a notice of its own.
_NOTIFIED = ("promoted", "kept", "skipped", "missed")


def begin(
    connection: sa.Connection,
    schedule_id: int,
    scheduled_for: datetime,
    cause: str,
    state: str,
    **columns: Any,
) -> int | None:
    """Insert an open run (`due` or `running`); None where this schedule has one for this time."""
    run_id, inserted = database.find_or_insert(
        connection,
        sa.select(runs.c.id).where(
            runs.c.schedule_id == schedule_id, runs.c.scheduled_for == scheduled_for
        ),
        sa.insert(runs)
        .values(
            schedule_id=schedule_id,
            scheduled_for=scheduled_for,
            cause=cause,
            state=state,
            created_at=now(),
            **columns,
        )
        .returning(runs.c.id),
    )
    return run_id if inserted else None


def note(connection: sa.Connection, run_id: int, **columns: Any) -> bool:
    """Write columns of a run that is still open; False where it is not."""
    changed = connection.execute(
        sa.update(runs).where(runs.c.id == run_id, runs.c.finished_at.is_(None)).values(**columns)
    )
    return changed.rowcount == 1


def finish(
    connection: sa.Connection,
    run_id: int,
    outcome: str,
    reason: str | None,
    *,
    hook_text: str | None = "",
    **columns: Any,
) -> bool:
    """End a run, once; False where it has ended already.

    `reason` is for who looks at the run; `hook_text` is what hooks get, which may name
    nothing from outside: no path and no film; with None they get no notice. `columns` are written
    along.
    """
    changed = note(
        connection, run_id, state="done", outcome=outcome, reason=reason, finished_at=now(),
        **columns,
    )  # fmt: skip
    if changed and outcome in _NOTIFIED and hook_text is not None:
        model_id = connection.execute(
            sa.select(runs.c.candidate_id).where(runs.c.id == run_id)
        ).scalar()
        outbox.add(connection, outcome, run_id=run_id, model_id=model_id, text=hook_text)
    if changed and outcome in unpromoted.OUTCOMES:
        unpromoted.look(connection, run_id)
    return changed


def open_of_job(connection: sa.Connection, job_id: int) -> sa.Row[Any] | None:
    """The open run that made a job, as its `id`, `reason` and its schedule's `kind`, or None.

    It is locked, to be ended.
    """
    columns = [runs.c.id, runs.c.reason, schedules.c.kind]
    return connection.execute(
        sa.select(*columns)
        .join(schedules, schedules.c.id == runs.c.schedule_id)
        .where(runs.c.job_id == job_id, runs.c.finished_at.is_(None))
        .with_for_update(key_share=True, of=runs)
    ).one_or_none()


def of_job(connection: sa.Connection, job_id: int) -> sa.Row[Any] | None:
    """The run that made a job, with its schedule's `name`, `kind`, `spec` and `tz`.

    The schedule's frozen films are `schedule_evaluation_id`.
    """
    return connection.execute(
        sa.select(
            runs,
            schedules.c.name,
            schedules.c.kind,
            schedules.c.spec,
            schedules.c.tz,
            schedules.c.evaluation_id.label("schedule_evaluation_id"),
        )
        .join(schedules, schedules.c.id == runs.c.schedule_id)
        .where(runs.c.job_id == job_id)
    ).one_or_none()


def get(engine: sa.Engine, run_id: int) -> sa.RowMapping:
    """One run's row; NotFound where there is none."""
    with database.reading(engine) as connection:
        row = connection.execute(sa.select(runs).where(runs.c.id == run_id)).mappings().first()
    if row is None:
        raise NotFound(f"there is no run {run_id}; `pneumoq schedule runs` lists them")
    return row


def of_schedule(engine: sa.Engine, schedule_id: int, limit: int = 20) -> list[sa.RowMapping]:
    """A schedule's newest runs first."""
    with database.reading(engine) as connection:
        return list(
            connection.execute(
                sa.select(runs)
                .where(runs.c.schedule_id == schedule_id)
                .order_by(runs.c.scheduled_for.desc(), runs.c.id.desc())
                .limit(limit)
            ).mappings()
        )


def of_candidate(engine: sa.Engine, model_id: int) -> list[sa.RowMapping]:
    """The runs in which a model was the new one, oldest first."""
    with database.reading(engine) as connection:
        return list(
            connection.execute(
                sa.select(runs).where(runs.c.candidate_id == model_id).order_by(runs.c.id)
            ).mappings()
        )


def in_state(engine: sa.Engine, state: str) -> list[sa.RowMapping]:
    """Open runs in a state, oldest first, with their schedule's `name`, `kind` and `spec`."""
    with database.reading(engine) as connection:
        return list(
            connection.execute(
                sa.select(runs, schedules.c.name, schedules.c.kind, schedules.c.spec)
                .join(schedules, schedules.c.id == runs.c.schedule_id)
                # The index has open runs only, of which there are few.
                .where(runs.c.state == state, runs.c.finished_at.is_(None))
                .order_by(runs.c.id)
            ).mappings()
        )
