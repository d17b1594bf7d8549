"""Endings: a job reaches its final state, and what follows from it in the same transaction.

Its schedule's run and the files that it took from a watched folder are brought to an end too, its
scores are compared with its model's reference, and hooks get a notice of failures and errors.
"""

from __future__ import annotations

import logging

import sqlalchemy as sa

from db.base import database, outbox
from db.base.errors import Conflict, unforeseen
from db.base.schema import SCORING_JOB_STATES, jobs, shards
from db.base.types import now
from db.nightly import runs, watched
from db.queue import budget, leases, outages
from db.queue import jobs as job_rows
from db.queue.leases import Lease
from db.registry import drift

log = logging.getLogger(__name__)


def finish(
    connection: sa.Connection,
    job_id: int,
    state: str,
    who: str,
    reason: str | None = None,
    *,
    in_outage: bool = False,
) -> None:
    """Put a job into a final state; Conflict where it already is in one.

    With `in_outage` it ends because its sources cannot be read: hooks have the outage's notice, and
    its files wait again without an attempt counted.
    """
    changed = connection.execute(
        sa.update(jobs)
        .where(jobs.c.id == job_id, jobs.c.finished_at.is_(None))
        .values(state=state, finished_at=now(), lease_until=None, reason=reason)
    )
    if changed.rowcount != 1:
        raise Conflict(f"job {job_id} has already ended; final states are final")
    job_rows.log(connection, job_id, who, state, reason)
    _end_run(connection, job_id, state, reason, in_outage=in_outage)
    if in_outage:
        return
    if state in ("failed", "completed_with_errors"):
        outbox.add(connection, state, job_id=job_id)
    schedule_id = sa.select(jobs.c.schedule_id).where(jobs.c.id == job_id)
    if connection.execute(schedule_id).scalar() is None:
        outages.end(connection, job_id=job_id, silently=True)


def _end_run(
    connection: sa.Connection, job_id: int, state: str, reason: str | None, *, in_outage: bool
) -> None:
    """End the run of a schedule that made a job, and let go of the files that the job took."""
    run = runs.open_of_job(connection, job_id)
    if run is None:
        return
    if run.kind == "score":
        watched.job_ended(connection, job_id, state, counted=not in_outage)
    # Of a training job that completed, the promotion decides what became of the run: it has made a
    # model, or was skipped.
    if run.kind == "score" or state != "completed":
        # Of a watched folder the run says what its job did not take.
        reasons = "; ".join(filter(None, (reason, run.reason)))
        runs.finish(connection, run.id, state, reasons or None)


def fail(connection: sa.Connection, lease: Lease, reason: str) -> None:
    """End a job as failed. Fenced."""
    leases.fence(connection, lease)
    finish(connection, lease.job_id, "failed", lease.worker_id, reason)


def give_up(connection: sa.Connection, lease: Lease, what: str, error: Exception) -> None:
    """End a job that met an exception which nobody foresaw: it would be met again. Fenced.

    Where this machine has run out of something the job is put back instead, for after a while.
    """
    reason = unforeseen(what, error)
    if _of_machine(error):
        leases.hand_back(connection, lease, reason, in_good_order=False)
    else:
        fail(connection, lease, reason)


def _of_machine(error: BaseException) -> bool:
    """Whether it says nothing of a job: files, memory or room are short here, and now."""
    met: BaseException | None = error
    while met is not None:
        if isinstance(met, OSError | MemoryError):
            return True
        met = met.__cause__
    return False


def complete_training(connection: sa.Connection, lease: Lease, model_id: int) -> None:
    """The job made this model: note it and finish the job. Fenced."""
    leases.fence(connection, lease)
    connection.execute(sa.update(jobs).where(jobs.c.id == lease.job_id).values(model_id=model_id))
    finish(connection, lease.job_id, "completed", lease.worker_id)


def close_if_done(connection: sa.Connection, job_id: int, who: str) -> bool:
    """Finish a scoring job that is over its error budget, or that has nothing left to do.

    Nothing is left when its listing is complete and its shards are all final; then its scores are
    compared with its model's reference too, which may warn and changes nothing. The job's row is
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
    warning = _drift(connection, job_id)
    if warning is not None:
        job_rows.log(connection, job_id, who, "drift", warning)
    return True


def _drift(connection: sa.Connection, job_id: int) -> str | None:
    """What `drift.record` warns of; a comparison that fails takes nothing back."""
    try:
        with connection.begin_nested():
            return drift.record(connection, job_id)
    except Exception as error:
        if database.away(error):
            raise
        log.exception("job %d: its scores are not compared with the reference", job_id)
        return unforeseen("comparing the scores with the model's reference", error)


def close(engine: sa.Engine, job_id: int, who: str) -> bool:
    """`close_if_done` in a transaction of its own; whether the job has ended by it.

    A job that cannot be judged, for a reason that nobody foresaw, ends as failed: else it would
    stay open for ever, and be in the way of others. Raises what a database that is away raises, and
    what a machine does that has run out of something.
    """
    try:
        return database.write(engine, lambda c: close_if_done(c, job_id, who))
    except Exception as error:
        if database.away(error) or _of_machine(error):
            raise
        log.exception("job %d cannot be closed", job_id)
        reason = unforeseen("closing the job", error)
    try:
        database.write(engine, lambda c: finish(c, job_id, "failed", who, reason))
    except Conflict:
        return False  # somebody else was faster
    return True


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
            ).where(
                jobs.c.kind == "score",
                jobs.c.finished_at.is_(None),
                jobs.c.state.in_(SCORING_JOB_STATES),
            )
        ).all()
        return [int(r.id) for r in found if r.done or _over_budget(connection, r.id)]


def _over_budget(connection: sa.Connection, job_id: int) -> bool:
    try:
        return budget.exceeded(connection, job_id) is not None
    except (AttributeError, TypeError, ValueError):
        return True  # it can never be judged, and `close` says why
