"""Jobs: submitting, claiming, closing, cancelling, and what is asked about them.

Functions that write take a connection inside `database.write`; functions that read take an engine.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from db.base import database, outbox, partitions, views
from db.base.errors import Conflict, LeaseLost, NotFound
from db.base.schema import FINAL_JOB_STATES, SCORING_JOB_STATES, job_events, jobs, shards, sources
from db.base.types import UtcDateTime, now
from db.nightly import runs
from db.queue import budget
from db.registry import drift, models

#: A job that its workers did not survive so many times is given up. Of planning, only attempts in a
#: row that listed nothing count, and of training those without a checkpoint; and a planner's worker
#: may die by a film that it scores meanwhile, which takes several deaths to be found.
MAX_ATTEMPTS = {"train": 6, "score": 15}

#: Seconds before attempt 2, 3, … of a job or shard.
BACKOFF_S = (5.0, 30.0, 120.0)

#: Columns of v_job_progress by name: a newer release's may have more, and where those appear,
#: PostgreSQL refuses to go on with a prepared `SELECT *`.
_PROGRESS = ", ".join(views.V_JOB_PROGRESS.columns)

#: Columns of v_job_progress that SQLite would give as text.
_TIMES = {
    f"{moment}_at": UtcDateTime()
    for moment in ("created", "started", "planned", "finished", "purged")
}


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The right to work on a job until the lease runs out; every write is fenced by `token`."""

    job_id: int
    token: int
    worker_id: str


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """A job that this worker has just claimed."""

    lease: Lease
    kind: str
    spec: dict[str, Any]
    model_id: int | None
    #: Scoring: fp32, bf16, fp16 or int8.
    precision: str | None
    #: The job that this one retries.
    parent_job_id: int | None
    #: -100 to 100; higher goes first.
    priority: int
    #: 1 for the first attempt.
    attempt: int
    #: Scoring: what an earlier planner had already listed.
    planned_items: int
    planned_shards: int


def submit(
    connection: sa.Connection,
    *,
    kind: str,
    spec: dict[str, Any],
    submitted_by: str,
    model_id: int | None = None,
    precision: str | None = None,
    engine: str | None = None,
    parent_job_id: int | None = None,
    priority: int = 0,
    key: str | None = None,
    source_rows: list[dict[str, Any]] | None = None,
    schedule_id: int | None = None,
    scheduled_for: datetime | None = None,
) -> int:
    """Insert a queued job and its sources; the same `key` again gives the same job's id.

    `engine` is `tensorrt` or `onnx` where only workers with that may score it. Raises ValueError
    where the spec's `max_errors` is no error budget, and Conflict where the model's files are gone.
    """
    if spec.get("max_errors") is not None:
        budget.parse(spec["max_errors"])
    job_id, inserted = database.find_or_insert(
        connection,
        # Without a key (NULL) nothing is found.
        sa.select(jobs.c.id).where(jobs.c.key == sa.literal(key, sa.String)),
        sa.insert(jobs)
        .values(
            kind=kind,
            state="queued",
            spec=spec,
            submitted_by=submitted_by,
            model_id=model_id,
            precision=precision or ("fp32" if kind == "score" else None),
            engine=engine,
            parent_job_id=parent_job_id,
            priority=priority,
            key=key,
            schedule_id=schedule_id,
            scheduled_for=scheduled_for,
            created_at=now(),
        )
        .returning(jobs.c.id),
    )
    if not inserted:
        return job_id
    # Looked at after the row is there: who removes a model's files waits for it, or is seen here.
    gone = None if model_id is None else models.pruned(connection, model_id)
    if gone is not None:
        raise Conflict(gone)
    if source_rows:
        rows = [{"job_id": job_id, "source_no": n, **row} for n, row in enumerate(source_rows)]
        connection.execute(sa.insert(sources), rows)
    if kind == "score":
        partitions.ensure(connection, job_id)
    log(connection, job_id, submitted_by, "submitted")
    return job_id


def log(
    connection: sa.Connection, job_id: int, who: str, event: str, detail: str | None = None
) -> None:
    """Append to the job's history."""
    connection.execute(
        sa.insert(job_events).values(job_id=job_id, at=now(), who=who, event=event, detail=detail)
    )


def log_once(connection: sa.Connection, job_id: int, who: str, event: str, detail: str) -> None:
    """Append to the job's history what is not there yet in these words from the same one."""
    there = sa.exists().where(
        job_events.c.job_id == job_id,
        job_events.c.who == who,
        job_events.c.event == event,
        job_events.c.detail == detail,
    )
    if not connection.execute(sa.select(there)).scalar_one():
        log(connection, job_id, who, event, detail)


def claim(connection: sa.Connection, kind: str, worker_id: str, lease_s: float) -> Claimed | None:
    """Claim the best job that is due: of kind `train`, or of kind `score` to be planned.

    A job whose last worker vanished is claimed again after its lease, `MAX_ATTEMPTS` times; then it
    fails here, saying so.
    """
    while True:
        row = connection.execute(
            due(kind, sa.select(jobs)).limit(1).with_for_update(skip_locked=True)
        ).one_or_none()
        if row is None:
            return None
        if row.attempts < MAX_ATTEMPTS[kind]:
            break
        finish(
            connection, row.id, "failed", worker_id,
            f"given up after {row.attempts} attempts: its worker ended each time before it did",
        )  # fmt: skip
    state = "planning" if kind == "score" else "running"
    connection.execute(
        sa.update(jobs)
        .where(jobs.c.id == row.id)
        .values(
            state=state,
            lease_token=jobs.c.lease_token + 1,
            lease_until=now(lease_s),
            worker_id=worker_id,
            attempts=jobs.c.attempts + 1,
            started_at=sa.func.coalesce(jobs.c.started_at, now()),
        )
    )
    log(connection, row.id, worker_id, state, f"attempt {row.attempts + 1}")
    return Claimed(
        lease=Lease(job_id=row.id, token=row.lease_token + 1, worker_id=worker_id),
        kind=row.kind,
        spec=row.spec,
        model_id=row.model_id,
        precision=row.precision,
        parent_job_id=row.parent_job_id,
        priority=row.priority,
        attempt=row.attempts + 1,
        planned_items=row.planned_items,
        planned_shards=row.planned_shards,
    )


def due(kind: str, select: sa.Select[Any]) -> sa.Select[Any]:
    """Narrow a SELECT over jobs to those that could be claimed now, best first."""
    active = ("planning",) if kind == "score" else ("running",)
    return (
        select.where(
            jobs.c.kind == kind,
            jobs.c.finished_at.is_(None),
            sa.or_(
                jobs.c.state == "queued",
                sa.and_(jobs.c.state.in_(active), jobs.c.lease_until <= now()),
            ),
            sa.or_(jobs.c.not_before.is_(None), jobs.c.not_before <= now()),
        )
        .order_by(jobs.c.priority.desc(), jobs.c.id)
    )  # fmt: skip


def fence(connection: sa.Connection, lease: Lease) -> None:
    """Begin a fenced write: lock the job's row, or raise LeaseLost."""
    held = connection.execute(
        sa.update(jobs)
        .where(
            jobs.c.id == lease.job_id,
            jobs.c.lease_token == lease.token,
            jobs.c.lease_until.is_not(None),
            jobs.c.finished_at.is_(None),
        )
        .values(worker_id=lease.worker_id)
    )
    if held.rowcount != 1:
        raise LeaseLost(f"job {lease.job_id} is no longer this worker's, or it has ended")


def renew(connection: sa.Connection, lease: Lease, lease_s: float) -> None:
    """Push the lease's end back; raises LeaseLost where it is lost or the job was cancelled."""
    fence(connection, lease)
    connection.execute(
        sa.update(jobs).where(jobs.c.id == lease.job_id).values(lease_until=now(lease_s))
    )


def hand_back(
    connection: sa.Connection,
    lease: Lease,
    reason: str,
    *,
    in_good_order: bool,
    event: str = "handed_back",
) -> None:
    """Give the job up so that another worker can take it: at once, or after a back-off.

    In good order (the worker is shutting down) the attempt does not count.
    """
    fence(connection, lease)
    attempts = connection.execute(
        sa.select(jobs.c.attempts).where(jobs.c.id == lease.job_id)
    ).scalar_one()
    delay_s = 0.0 if in_good_order else BACKOFF_S[min(attempts, len(BACKOFF_S)) - 1]
    connection.execute(
        sa.update(jobs)
        .where(jobs.c.id == lease.job_id)
        .values(
            state=sa.case((jobs.c.kind == "train", "queued"), else_=jobs.c.state),
            lease_token=jobs.c.lease_token + 1,
            lease_until=now(),
            attempts=attempts - 1 if in_good_order else attempts,
            not_before=now(delay_s),
        )
    )
    log(connection, lease.job_id, lease.worker_id, event, reason)


def planned(connection: sa.Connection, lease: Lease, passed_over: dict[str, int]) -> None:
    """The listing is complete: the job runs until its last shard is done."""
    fence(connection, lease)
    connection.execute(
        sa.update(jobs)
        .where(jobs.c.id == lease.job_id)
        .values(
            state="running",
            planned_at=now(),
            lease_until=None,
            attempts=0,
            passed_over=passed_over,
        )
    )
    log(connection, lease.job_id, lease.worker_id, "planned")


def close_if_done(connection: sa.Connection, job_id: int, who: str) -> bool:
    """Finish a scoring job that is over its error budget, or that has nothing left to do.

    Nothing is left when its listing is complete and its shards are all final; then its scores are
    held against its model's reference too, which may warn and changes nothing. The job's row is
    locked first, so that of two last shards one sees the other. To be called in a transaction of
    its own, after the last shard's: two that both hold the row for `commit` and then want it here
    would wait for each other.
    """
    row = connection.execute(
        sa.select(jobs.c.kind, jobs.c.state, jobs.c.planned_at)
        .where(jobs.c.id == job_id)
        .with_for_update()
    ).one_or_none()
    if row is None or row.kind != "score" or row.state not in SCORING_JOB_STATES:
        return False
    over = budget.exceeded(connection, job_id)
    if over is not None:
        finish(connection, job_id, "failed", who, over)
        return True
    open_shard = sa.exists().where(shards.c.job_id == job_id, shards.c.finished_at.is_(None))
    if row.planned_at is None or connection.execute(sa.select(open_shard)).scalar_one():
        return False
    broken = sa.exists().where(
        shards.c.job_id == job_id, sa.or_(shards.c.n_errors > 0, shards.c.state == "dead")
    )
    errors = connection.execute(sa.select(broken)).scalar_one()
    finish(connection, job_id, "completed_with_errors" if errors else "completed", who)
    warning = drift.record(connection, job_id)
    if warning is not None:
        log(connection, job_id, who, "drift", warning)
    return True


def finish(
    connection: sa.Connection, job_id: int, state: str, who: str, reason: str | None = None
) -> None:
    """Put a job into a final state; Conflict where it already is in one."""
    changed = connection.execute(
        sa.update(jobs)
        .where(jobs.c.id == job_id, jobs.c.finished_at.is_(None))
        .values(state=state, finished_at=now(), lease_until=None, reason=reason)
    )
    if changed.rowcount != 1:
        raise Conflict(f"job {job_id} has already ended; final states are final")
    log(connection, job_id, who, state, reason)
    runs.job_ended(connection, job_id, state, who, reason)
    if state == "failed":
        outbox.add(connection, "failed", job_id=job_id)


def cancel(connection: sa.Connection, job_id: int, who: str, reason: str | None = None) -> None:
    """End a job now. What is committed stays; workers notice within a heartbeat and stop."""
    row = locked(connection, job_id)
    if row.state in FINAL_JOB_STATES:
        raise Conflict(f"job {job_id} is already {row.state}")
    finish(connection, job_id, "cancelled", who, reason or f"cancelled by {who}")


def locked(connection: sa.Connection, job_id: int) -> sa.Row[Any]:
    """A job's row, which nobody else changes until commit; NotFound where there is none."""
    row = connection.execute(
        sa.select(jobs).where(jobs.c.id == job_id).with_for_update()
    ).one_or_none()
    if row is None:
        raise NotFound(f"there is no job {job_id}; `pneumoq jobs ls` lists them")
    return row


def waiting_to_close(engine: sa.Engine) -> list[int]:
    """Scoring jobs that `close_if_done` would end but that nobody closed: a worker died just then.

    Their last shard is done, or they are over their error budget.
    """
    with database.reading(engine) as connection:
        no_open_shard = ~sa.exists().where(
            shards.c.job_id == jobs.c.id, shards.c.finished_at.is_(None)
        )
        found = connection.execute(
            sa.select(
                jobs.c.id, sa.and_(jobs.c.planned_at.is_not(None), no_open_shard).label("done")
            ).where(jobs.c.kind == "score", jobs.c.state.in_(SCORING_JOB_STATES))
        ).all()
        return [int(r.id) for r in found if r.done or budget.exceeded(connection, r.id)]


def get(engine: sa.Engine, job_id: int) -> sa.RowMapping:
    """One job's row; NotFound where there is none."""
    with database.reading(engine) as connection:
        row = connection.execute(sa.select(jobs).where(jobs.c.id == job_id)).mappings().first()
    if row is None:
        raise NotFound(f"there is no job {job_id}; `pneumoq jobs ls` lists them")
    return row


def progress(engine: sa.Engine, job_id: int) -> sa.RowMapping:
    """One row of v_job_progress; NotFound where there is none."""
    statement = sa.text(
        f"SELECT {_PROGRESS} FROM v_job_progress WHERE job_id = :id"  # noqa: S608  # constant
    ).columns(**_TIMES)
    with database.reading(engine) as connection:
        row = connection.execute(statement, {"id": job_id}).mappings().first()
    if row is None:
        raise NotFound(f"there is no job {job_id}; `pneumoq jobs ls` lists them")
    return row


def recent(
    engine: sa.Engine,
    *,
    limit: int = 20,
    only_open: bool = False,
    kind: str | None = None,
    states: Sequence[str] = (),
    by: str | None = None,
) -> list[sa.RowMapping]:
    """The newest jobs first, as rows of v_job_progress; `by` is a part of their submitter."""
    conditions = ["1 = 1"]
    values: dict[str, Any] = {"limit": limit}
    if only_open:
        conditions.append("finished_at IS NULL")
    if kind is not None:
        conditions.append("kind = :kind")
        values["kind"] = kind
    if states:
        conditions.append("state IN :states")
        values["states"] = list(states)
    if by is not None:
        conditions.append("submitted_by LIKE :by ESCAPE '/'")
        values["by"] = "%" + by.replace("/", "//").replace("%", "/%").replace("_", "/_") + "%"
    statement = sa.text(
        f"SELECT {_PROGRESS} FROM v_job_progress WHERE {' AND '.join(conditions)} "  # noqa: S608  # constants
        "ORDER BY job_id DESC LIMIT :limit"
    )
    if states:
        statement = statement.bindparams(sa.bindparam("states", expanding=True))
    with database.reading(engine) as connection:
        return list(connection.execute(statement.columns(**_TIMES), values).mappings())


def events(engine: sa.Engine, job_id: int) -> list[sa.RowMapping]:
    """A job's history, oldest first."""
    get(engine, job_id)
    with database.reading(engine) as connection:
        return list(
            connection.execute(
                sa.select(job_events).where(job_events.c.job_id == job_id).order_by(job_events.c.id)
            ).mappings()
        )


def source_rows(engine: sa.Engine, job_id: int) -> list[sa.RowMapping]:
    """What a scoring job reads, in order, without the seek indexes."""
    columns = [c for c in sources.c if c.name != "seek_index"]
    with database.reading(engine) as connection:
        return list(
            connection.execute(
                sa.select(*columns).where(sources.c.job_id == job_id).order_by(sources.c.source_no)
            ).mappings()
        )


def source_count(connection: sa.Connection, job_id: int) -> int:
    """How many sources a scoring job reads."""
    return int(
        connection.execute(
            sa.select(sa.func.count()).select_from(sources).where(sources.c.job_id == job_id)
        ).scalar_one()
    )


def anything_due(engine: sa.Engine, queue: str, *, kinds: Collection[str] | None = None) -> bool:
    """Whether a worker of this queue would find something to claim now.

    `kinds` are the words of `jobs.engine` that it serves; None asks for any worker.
    """
    from db.queue import leases

    with database.reading(engine) as connection:
        kind = "train" if queue == "train" else "score"
        if connection.execute(due(kind, sa.select(jobs.c.id)).limit(1)).first() is not None:
            return True
        if queue == "train":
            return False
        return leases.first_due(connection, sa.select(shards.c.job_id), kinds=kinds) is not None


def scoring(connection: sa.Connection, job_id: int, *, key_only: bool = False) -> bool:
    """Whether a job's shards may be worked on; on PostgreSQL it stays so until commit.

    With `key_only` the lock keeps out who pauses or cancels, but no planner.
    """
    state = connection.execute(
        sa.select(jobs.c.state)
        .where(jobs.c.id == job_id)
        .with_for_update(read=True, key_share=key_only)
    ).scalar()
    return state in SCORING_JOB_STATES
