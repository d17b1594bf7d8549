"""Notices: what hooks are told, written in the transaction of what happened, and sent afterwards.

A payload holds numbers, names that people gave to schedules and models, and figures; never a path,
a film's name, or anything from outside: a webhook may be read by anyone.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from db.schema import jobs, models, notices, runs, schedules
from db.types import now


def add(
    connection: sa.Connection,
    event: str,
    *,
    job_id: int | None = None,
    run_id: int | None = None,
    model_id: int | None = None,
    text: str = "",
    **facts: Any,
) -> None:
    """Write down that something happened, to be told to the hooks.

    `event` is one of `schema.NOTICES`; `text` a sentence and `facts` figures that may be read by
    anyone. A run's job and schedule, a job's run, and names are looked up here.
    """
    if run_id is None and job_id is not None:
        run_id = connection.execute(sa.select(runs.c.id).where(runs.c.job_id == job_id)).scalar()
    payload: dict[str, Any] = {"event": event, "text": text, **facts}
    if run_id is not None:
        run = connection.execute(
            sa.select(schedules.c.name, schedules.c.kind, runs.c.scheduled_for, runs.c.job_id)
            .join(schedules, schedules.c.id == runs.c.schedule_id)
            .where(runs.c.id == run_id)
        ).one()
        job_id = run.job_id if job_id is None else job_id
        payload |= {
            "run": run_id, "schedule": run.name, "kind": run.kind,
            "scheduled_for": run.scheduled_for.isoformat(timespec="seconds"),
        }  # fmt: skip
    if job_id is not None:
        payload["job"] = job_id
        payload["kind"] = connection.execute(
            sa.select(jobs.c.kind).where(jobs.c.id == job_id)
        ).scalar_one()
    if model_id is not None:
        payload["model"] = model_id
        payload["model_name"] = connection.execute(
            sa.select(models.c.name).where(models.c.id == model_id)
        ).scalar_one()
    connection.execute(
        sa.insert(notices).values(
            at=now(),
            event=event,
            payload=payload,
            job_id=job_id,
            run_id=run_id,
            model_id=model_id,
            state="waiting",
        )
    )
