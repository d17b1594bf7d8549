"""What people do to jobs that are there: pause, resume, cancel, retry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from db.base import locks
from db.base.errors import Conflict
from db.base.schema import FINAL_JOB_STATES, jobs, shards, sources
from db.nightly import ends
from db.queue import jobs as job_rows
from db.queue import outages
from db.work import endings

#: Options of `retry` that are columns of jobs; all others go into the spec.
_COLUMNS = frozenset({"model_id", "precision", "engine", "priority", "key", "share"})


def pause(connection: sa.Connection, job_id: int, who: str, reason: str | None = None) -> None:
    """Take a job's work away from its workers until it is resumed; no attempt is counted.

    What is committed stays. Workers notice within a heartbeat, and what they were at is refused.
    """
    row = job_rows.locked(connection, job_id)
    if row.state in FINAL_JOB_STATES:
        raise Conflict(f"job {job_id} is already {row.state}; there is nothing to pause")
    if row.state == "paused":
        if row.out_of_patience_at is None and row.put_aside_at is None:
            raise Conflict(
                f"job {job_id} is paused already; `pneumoq jobs resume {job_id}` goes on"
            )
        # From now on it is a person's: its schedule does not end it, nor go on with it.
        connection.execute(
            sa.update(jobs)
            .where(jobs.c.id == job_id)
            .values(out_of_patience_at=None, put_aside_at=None)
        )
        job_rows.log(connection, job_id, who, "paused", reason)
        return
    if row.kind == "train" and row.state != "queued":
        raise Conflict(
            f"job {job_id} is training, which cannot be paused; `pneumoq jobs cancel {job_id}` "
            "ends it"
        )
    leased = row.state == "planning" and row.lease_until is not None
    connection.execute(
        sa.update(jobs)
        .where(jobs.c.id == job_id)
        .values(
            state="paused",
            lease_token=jobs.c.lease_token + 1,
            lease_until=None,
            attempts=jobs.c.attempts - (1 if leased and row.attempts else 0),
        )
    )
    leased_ones = (shards.c.job_id == job_id, shards.c.state == "leased")
    locks.in_order(
        connection, sa.select(shards.c.shard_no).where(*leased_ones).order_by(shards.c.shard_no)
    )
    connection.execute(
        sa.update(shards)
        .where(*leased_ones)
        .values(state="ready", lease_until=None, attempts=shards.c.attempts - 1)
    )
    job_rows.log(connection, job_id, who, "paused", reason)


def resume(connection: sa.Connection, job_id: int, who: str, reason: str | None = None) -> None:
    """Let a paused job go on where it was; the patience with its sources is counted anew.

    A training that was put aside at the end of its night goes on now, and by day too.
    """
    row = job_rows.locked(connection, job_id)
    if row.state != "paused":
        raise Conflict(f"job {job_id} is {row.state}, not paused; there is nothing to resume")
    state = "queued" if row.planned_at is None else "running"
    connection.execute(
        sa.update(jobs)
        .where(jobs.c.id == job_id)
        .values(state=state, out_of_patience_at=None, put_aside_at=None, reason=None)
    )
    outages.forget(connection, job_id)
    if row.kind == "train":
        ends.lift(connection, job_id)
    job_rows.log(connection, job_id, who, "resumed", reason)


def cancel(connection: sa.Connection, job_id: int, who: str, reason: str | None = None) -> None:
    """End a job now. What is committed stays; workers notice within a heartbeat and stop."""
    row = job_rows.locked(connection, job_id)
    if row.state in FINAL_JOB_STATES:
        raise Conflict(f"job {job_id} is already {row.state}")
    endings.finish(connection, job_id, "cancelled", who, reason or f"cancelled by {who}")


def retry(
    connection: sa.Connection, job_id: int, who: str, *, failed_only: bool = False, **changes: Any
) -> int:
    """A new job that does an ended one again: its number.

    With `failed_only` it does the items that are in error or have no outcome. `changes` replace
    options: `model_id`, `precision`, `engine`, `priority`, `key` and `share` of the job, anything
    else in its spec (None: as if it had not been given).
    """
    row = job_rows.locked(connection, job_id)
    if row.state not in FINAL_JOB_STATES:
        raise Conflict(
            f"job {job_id} is {row.state}; wait until it has ended, or "
            f"`pneumoq jobs cancel {job_id}` first"
        )
    if row.purged_at is not None:
        raise Conflict(f"job {job_id} was purged, its sources are not known any more; submit anew")
    if failed_only:
        _check_failures(connection, row)
    # A training job's model is the one that it made.
    model_id = row.model_id if row.kind == "score" else None
    new_id = job_rows.submit(
        connection,
        kind=row.kind,
        spec=spec_again(row.spec, failed_only=failed_only, **changes),
        submitted_by=who,
        parent_job_id=job_id,
        **(
            {
                "model_id": model_id,
                "precision": row.precision,
                "engine": row.engine,
                "priority": row.priority,
                "share": row.share or job_rows.share_of(row.submitted_by),
            }
            | {k: v for k, v in changes.items() if k in _COLUMNS}
        ),
    )
    # The same key again is the same job, which has its sources.
    if job_rows.source_count(connection, new_id) == 0:
        columns = [c.name for c in sources.c if c.name not in ("job_id", "trouble", "trouble_at")]
        connection.execute(
            sa.insert(sources).from_select(
                ["job_id", *columns],
                sa.select(sa.literal(new_id), *(sources.c[name] for name in columns)).where(
                    sources.c.job_id == job_id
                ),
            )
        )
    return new_id


def spec_again(spec: Mapping[str, Any], *, failed_only: bool, **changes: Any) -> dict[str, Any]:
    """The spec of a job that does again one with this spec, as `retry`."""
    spec = {k: v for k, v in spec.items() if k != "failed_only"}
    spec |= {k: v for k, v in changes.items() if k not in _COLUMNS}
    if failed_only:
        spec["failed_only"] = True
    return {k: v for k, v in spec.items() if v is not None}


def _check_failures(connection: sa.Connection, row: sa.Row[Any]) -> None:
    if row.kind != "score":
        raise Conflict(f"job {row.id} is no scoring job: it has no items that failed")
    if row.planned_at is None:
        raise Conflict(
            f"job {row.id} ended before its listing was complete, so that what is left of it is "
            "not known; retry it without --failed-only: what was scored is answered from the store"
        )
    left = sa.exists().where(
        shards.c.job_id == row.id, sa.or_(shards.c.state != "done", shards.c.n_errors > 0)
    )
    if not connection.execute(sa.select(left)).scalar_one():
        raise Conflict(f"no item of job {row.id} is in error or without an outcome")
