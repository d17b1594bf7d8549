"""Ends of nights: a training that is not done by then is put aside, and goes on the next night.

Its job is paused, which older releases understand too, and its run stays open. The schedule's next
time does not make another run then, but lets this one go on, until the end of that night.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from db.base.schema import job_events, jobs
from db.base.schema import runs as runs_table
from db.base.types import now
from db.nightly import runs, unpromoted
from db.nightly.runs import Times
from db.queue import jobs as job_rows
from db.queue import leases
from db.queue.leases import Lease

#: What becomes of a training that is not done at the end of its night, as `schedule add` has it.
CONTINUE, GIVE_UP = "continue", "give-up"

#: No two times of a clock are further apart than this, whatever becomes of the hour between.
_A_DAY = timedelta(days=2)


def of(schedule: Any, begins: datetime, times: Times) -> datetime | None:
    """When a night that begins now ends; None for a schedule whose nights have no end.

    At the first time after its beginning that the clocks of the schedule's zone show so, by the
    rules of its own times: an end in the hour that is skipped is at the end of that hour, and one
    in the hour that comes twice is in the first.
    """
    until = (schedule.spec.get("night") or {}).get("until")
    if until is None:
        return None
    hour, minute = map(int, until.split(":"))
    found = times(f"{minute} {hour} * * *", schedule.tz, begins, begins + _A_DAY)
    return found[0] if found else None


def put_aside(connection: sa.Connection, lease: Lease, run_id: int, reason: str) -> None:
    """Put a training job aside until its schedule's next time. Fenced."""
    leases.fence(connection, lease)
    connection.execute(
        sa.update(jobs)
        .where(jobs.c.id == lease.job_id)
        .values(
            state="paused",
            reason=reason,
            put_aside_at=now(),
            lease_token=jobs.c.lease_token + 1,
            lease_until=None,
            not_before=None,
            attempts=jobs.c.attempts - 1,
        )
    )
    job_rows.log(connection, lease.job_id, lease.worker_id, "put_aside", reason)
    if runs.note(connection, run_id, put_aside=runs_table.c.put_aside + 1):
        unpromoted.look(connection, run_id)


def goes_on(
    connection: sa.Connection, going: Any, until: datetime | None, at: datetime, who: str
) -> bool:
    """Let an open run's training go on for this night, where an earlier night left it.

    `going` is the run, with its `id`, `job_id` and `until`. It was put aside, or no worker began it
    before its night was over. False where it is something else that is open.
    """
    if going["job_id"] is None:
        return False
    job = job_rows.locked(connection, going["job_id"])
    aside = job.state == "paused" and job.put_aside_at is not None and not _resumed(connection, job)
    late = job.state == "queued" and going["until"] is not None and going["until"] <= at
    if not aside and not late:
        return False
    if aside:
        connection.execute(
            sa.update(jobs)
            .where(jobs.c.id == job.id)
            .values(state="queued", reason=None, put_aside_at=None)
        )
        job_rows.log(connection, job.id, who, "resumed", "its schedule's next time has come")
    runs.note(connection, going["id"], until=until)
    return True


def note(connection: sa.Connection, schedule_id: int, time: datetime, going: Any) -> None:
    """One row for a time at which the run of an earlier one goes on; no notice."""
    skipped = runs.begin(connection, schedule_id, time, "clock", "running")
    if skipped is not None:
        reason = (
            f"the training of the run of {going['scheduled_for']:%Y-%m-%d %H:%M} UTC goes on "
            f"(job {going['job_id']})"
        )
        runs.finish(connection, skipped, "skipped", reason, hook_text=None)


def _resumed(connection: sa.Connection, job: Any) -> bool:
    """Whether a person resumed it, and paused it again, by a release that knows of no nights."""
    resumed = sa.exists().where(
        job_events.c.job_id == job.id,
        job_events.c.event == "resumed",
        job_events.c.at > job.put_aside_at,
    )
    return bool(connection.execute(sa.select(resumed)).scalar_one())


def lift(connection: sa.Connection, job_id: int) -> None:
    """A person lets a job go on: its run has no end any more, and goes on by day too."""
    run = runs.open_of_job(connection, job_id)
    if run is not None:
        runs.note(connection, run.id, until=None)


def waiting(connection: sa.Connection, schedule_id: int) -> int | None:
    """The job of a schedule that was put aside, if there is one."""
    return connection.execute(
        sa.select(jobs.c.id)
        .join(runs_table, runs_table.c.job_id == jobs.c.id)
        .where(
            runs_table.c.schedule_id == schedule_id,
            runs_table.c.finished_at.is_(None),
            jobs.c.state == "paused",
            jobs.c.put_aside_at.is_not(None),
        )
        .limit(1)
    ).scalar()
