"""The outbox: notices for the hooks, written in the transaction of the event, and sent afterwards.

A payload holds numbers, names that people gave to schedules and models, and figures; never a path,
a film's name, or anything from outside: a webhook may be read by anyone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from db.base import database, locks
from db.base.errors import NotFound
from db.base.schema import jobs, models, notices, runs, schedules, workers
from db.base.types import due, lately, now

#: Seconds before attempt 2, 3, … at sending a notice; after the last of them it is given up.
BACKOFF_S = (10.0, 60.0, 600.0, 3600.0, 21_600.0)

#: Whoever sends a notice has it for so long, in seconds: longer than all hooks may take together.
HELD_S = 60.0

#: A machine whose latest worker could send, and was seen within so many seconds, will send again.
SENDS_AGAIN_S = 86_400.0

#: Events whose names are longer than notices.event has room for → what stands there.
_SHORT = {"completed_with_errors": "with_errors"}

#: What a notice says instead of its event's name.
_IN_WORDS = {
    "completed_with_errors": "completed with errors",
    "source_away": "no worker can read its sources, so that they wait",
    "source_back": "its sources are read again",
    "not_taken": "archives in its folder cannot be read, so that they are not taken",
    "given_up": "files were given up after three attempts, and are not scored unless they change",
}

#: In workers.versions: that a worker has hooks, and sends notices.
SENDS = "hooks"


@dataclass(frozen=True, kw_only=True)
class Notice:
    """A notice that this process has just claimed, to be sent."""

    id: int
    at: datetime
    payload: dict[str, Any]
    #: 1 for the first attempt; a result is only written by the latest.
    attempt: int
    #: Why the latest attempt failed, a line for each hook that did not take it.
    last_error: str | None
    who: str

    @property
    def sent(self) -> dict[str, Any]:
        """What is sent: the same `id` again is the same notice."""
        return {"id": self.id, "at": self.at.isoformat(timespec="seconds"), **self.payload}


def add(
    connection: sa.Connection,
    event: str,
    *,
    job_id: int | None = None,
    run_id: int | None = None,
    model_id: int | None = None,
    text: str = "",
    **facts: Any,
) -> int:
    """Write a notice of an event, to be sent to the hooks.

    `event` is one of `schema.NOTICES`, or a longer name of one; `text` a sentence and `facts`
    figures that may be read by anyone. A run's job and schedule, a job's run, and names are looked
    up here; without a text, a sentence is made of them. Returns the notice's number.
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
    payload["text"] = text or _plainly(payload)
    return int(
        connection.execute(
            sa.insert(notices)
            .values(
                at=now(),
                event=_SHORT.get(event, event),
                payload=payload,
                job_id=job_id,
                run_id=run_id,
                model_id=model_id,
                state="waiting",
            )
            .returning(notices.c.id)
        ).scalar_one()
    )


def _plainly(payload: dict[str, Any]) -> str:
    """A sentence for a person who reads nothing else of it."""
    job, schedule = payload.get("job"), payload.get("schedule")
    event = _IN_WORDS.get(payload["event"], payload["event"])
    if schedule is not None:
        many = f" ({payload['files']})" if "files" in payload else ""
        what = f"schedule {schedule}, {payload['scheduled_for']}: {event}{many}"
        return f"{what}; `pneumoq schedule show {schedule}` says why"
    if job is not None:
        return f"job {job} ({payload['kind']}): {event}; `pneumoq jobs show {job}`"
    return str(event)


def claim(connection: sa.Connection, who: str, notice_id: int | None = None) -> Notice | None:
    """Claim the notice that has waited longest of those that are due, or this one if it waits.

    One whose sender did not come back is due again after HELD_S; one that was tried as often as
    BACKOFF_S allows is given up here.
    """
    waiting = sa.select(notices).where(notices.c.state == "waiting")
    if notice_id is None:
        waiting = waiting.where(due(notices.c.not_before, max(*BACKOFF_S, HELD_S)))
    else:
        waiting = waiting.where(notices.c.id == notice_id)
    while True:
        row = connection.execute(
            waiting.order_by(notices.c.id).limit(1).with_for_update(skip_locked=True)
        ).one_or_none()
        if row is None:
            return None
        if row.attempts <= len(BACKOFF_S):
            break
        connection.execute(
            sa.update(notices)
            .where(notices.c.id == row.id)
            .values(
                state="given_up",
                last_error=row.last_error or "its worker ended each time before it was sent",
            )
        )
    connection.execute(
        sa.update(notices)
        .where(notices.c.id == row.id)
        .values(worker_id=who, attempts=row.attempts + 1, not_before=now(HELD_S))
    )
    return Notice(
        id=row.id,
        at=row.at,
        payload=row.payload,
        attempt=row.attempts + 1,
        last_error=row.last_error,
        who=who,
    )


def record_result(connection: sa.Connection, notice: Notice, errors: Sequence[str]) -> str:
    """Record how sending went: delivered, or in `errors` a line for each hook that did not take it.

    Returns the notice's state. Where another has claimed it meanwhile, nothing is written.
    """
    row = connection.execute(
        sa.select(notices.c.state, notices.c.attempts, notices.c.worker_id)
        .where(notices.c.id == notice.id)
        .with_for_update()
    ).one_or_none()
    if row is None:
        raise NotFound(f"there is no notice {notice.id}; `pneumoq notices ls` lists them")
    if (row.state, row.attempts, row.worker_id) != ("waiting", notice.attempt, notice.who):
        return str(row.state)
    state, not_before = "delivered", None
    if errors:
        state = "waiting" if notice.attempt <= len(BACKOFF_S) else "given_up"
        not_before = now(BACKOFF_S[notice.attempt - 1]) if state == "waiting" else None
    connection.execute(
        sa.update(notices)
        .where(notices.c.id == notice.id)
        .values(
            state=state,
            not_before=not_before,
            sent_at=now(),
            last_error="\n".join(errors) or None,
        )
    )
    return state


def mark_undelivered(connection: sa.Connection) -> int:
    """Give up the notices that wait while no hook is set anywhere; returns how many.

    A machine whose latest worker has hooks sends them, if only once it is on again.
    """
    latest = connection.execute(
        sa.select(workers.c.host, workers.c.versions)
        .where(lately(workers.c.seen_at, SENDS_AGAIN_S))
        .order_by(workers.c.started_at)
    ).all()
    if any(SENDS in versions for versions in {row.host: row.versions for row in latest}.values()):
        return 0
    waits = notices.c.state == "waiting"
    locks.in_order(connection, sa.select(notices.c.id).where(waits).order_by(notices.c.id))
    return connection.execute(
        sa.update(notices).where(waits).values(state="unheard", not_before=None)
    ).rowcount


def waiting(engine: sa.Engine) -> bool:
    """Whether any notice is still to be sent, now or later."""
    there = sa.exists().where(notices.c.state == "waiting")
    with database.reading(engine) as connection:
        return bool(connection.execute(sa.select(there)).scalar_one())


def get(engine: sa.Engine, notice_id: int) -> sa.RowMapping:
    """One notice's row; NotFound where there is none."""
    with database.reading(engine) as connection:
        row = (
            connection.execute(sa.select(notices).where(notices.c.id == notice_id))
            .mappings()
            .first()
        )
    if row is None:
        raise NotFound(f"there is no notice {notice_id}; `pneumoq notices ls` lists them")
    return row


def recent(engine: sa.Engine, limit: int = 20, state: str | None = None) -> list[sa.RowMapping]:
    """The newest notices first: all, or those in a state."""
    select = sa.select(notices).order_by(notices.c.id.desc()).limit(limit)
    if state is not None:
        select = select.where(notices.c.state == state)
    with database.reading(engine) as connection:
        return list(connection.execute(select).mappings())
