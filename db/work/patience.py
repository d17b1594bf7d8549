"""Patience: what becomes of jobs of which nothing is left but what no worker can read.

Hooks get a notice, and after the job's patience it is paused. Once a person resumes it, it is
counted anew. One that a schedule made does not keep that schedule from its next time: it ends then
as failed, and its files wait again as if they had not been taken.
"""

from __future__ import annotations

import sqlalchemy as sa

from db.base import database
from db.base.schema import job_events, jobs, sources
from db.base.types import now
from db.queue import jobs as job_rows
from db.queue import outages
from db.work import control, endings


def waiting(engine: sa.Engine) -> list[int]:
    """Jobs of which nothing is left but what no worker can read."""
    with database.reading(engine) as connection:
        found = connection.execute(
            sa.select(jobs.c.id)
            .where(jobs.c.finished_at.is_(None), outages.stalled())
            .order_by(jobs.c.id)
        )
        return list(found.scalars())


def look(connection: sa.Connection, job_id: int, who: str) -> bool:
    """Give notice of such a job when it is time, and pause it when its patience is over.

    Whether it was paused.
    """
    row = job_rows.locked(connection, job_id)
    if not connection.execute(
        sa.select(jobs.c.id).where(jobs.c.id == job_id, outages.stalled())
    ).first():
        return False
    patience_s = float(row.spec.get("source_patience_s", outages.PATIENCE_S))
    if not outages.without_an_answer(connection, job_id, min(patience_s, outages.NOTICE_S)):
        return False
    why = connection.execute(
        sa.select(sources.c.trouble)
        .where(sources.c.job_id == job_id, sources.c.trouble_at.is_not(None))
        .order_by(sources.c.source_no)
        .limit(1)
    ).scalar_one()
    if not outages.without_an_answer(connection, job_id, patience_s):
        outages.begin(connection, why, job_id=job_id)
        return False
    reason = (
        f"no worker could read what is left of it for {_span(patience_s)} (--source-patience): "
        f"{why}; `pneumoq jobs resume {job_id}` tries again"
    )
    control.pause(connection, job_id, who, reason)  # its shards come before its outage
    outages.begin(connection, why, job_id=job_id)
    connection.execute(
        sa.update(jobs).where(jobs.c.id == job_id).values(out_of_patience_at=now(), reason=reason)
    )
    return True


def let_go(connection: sa.Connection, job_id: int) -> bool:
    """End a job that was paused by its patience, and by no person; whether it was one.

    Its files wait again without an attempt counted. What it predicted answers for them then.
    """
    row = job_rows.locked(connection, job_id)
    if row.state != "paused" or row.out_of_patience_at is None:
        return False
    # Release 0.2.0 resumes it and leaves the column as it is: who paused it since was a person.
    resumed = sa.exists().where(
        job_events.c.job_id == job_id,
        job_events.c.event == "resumed",
        job_events.c.at > row.out_of_patience_at,
    )
    if connection.execute(sa.select(resumed)).scalar_one():
        return False
    endings.finish(connection, job_id, "failed", "schedule", row.reason, in_outage=True)
    return True


def _span(seconds: float) -> str:
    for length, unit in ((3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:g} s"
