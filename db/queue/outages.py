"""Outages: sources that no worker can read, since when, and who was told.

A worker that cannot read a source notes it; whoever reads it next forgets it. An outage begins with
a notice once nothing else of a job is left to be done, or once the folders of a schedule cannot be
looked through; there is no second notice until something was read again, which is the other one.
"""

from __future__ import annotations

import sqlalchemy as sa

from db.base import outbox
from db.base.schema import SCORING_JOB_STATES, jobs, outages, shards, sources
from db.base.types import lately, now
from db.queue import jobs as job_rows
from db.queue import leases

#: Seconds after which a job is paused when no worker can read what is left of it, where its spec
#: has no `source_patience_s`.
PATIENCE_S = 6 * 3600.0

#: Hooks get the notice after so many seconds, or when the patience ends where that is sooner: a
#: file server that is started again is back by then.
NOTICE_S = 600.0


#: Nobody loses patience with what nobody has tried for so many seconds: workers that cannot read a
#: source try it again after five minutes at most, unless they are off or have more urgent work.
TRIED_S = 900.0


def note(connection: sa.Connection, job_id: int, source_no: int, who: str, reason: str) -> None:
    """A worker cannot read a source: since when, and in the job's history why."""
    job_rows.hold(connection, job_id)
    connection.execute(
        sa.update(sources)
        .where(sources.c.job_id == job_id, sources.c.source_no == source_no)
        # One that lies ahead was noted by a clock that was ahead: it is counted from now on.
        .values(
            trouble=reason,
            trouble_at=sa.case((sources.c.trouble_at <= now(), sources.c.trouble_at), else_=now()),
        )
    )
    job_rows.log_once(connection, job_id, who, "source_away", reason)


def read(connection: sa.Connection, job_id: int, source_no: int) -> None:
    """A worker has read a source: what was noted of it is forgotten, and the outage ends."""
    job_rows.hold(connection, job_id)
    connection.execute(
        sa.update(sources)
        .where(
            sources.c.job_id == job_id,
            sources.c.source_no == source_no,
            sources.c.trouble_at.is_not(None),
        )
        .values(trouble=None, trouble_at=None)
    )
    left = sa.exists().where(sources.c.job_id == job_id, sources.c.trouble_at.is_not(None))
    if _is_out(connection, job_id) and not connection.execute(sa.select(left)).scalar_one():
        end(connection, job_id=job_id)


def forget(connection: sa.Connection, job_id: int) -> None:
    """Count the patience with a job's sources anew, from when a worker next cannot read one."""
    connection.execute(
        sa.update(sources).where(sources.c.job_id == job_id).values(trouble=None, trouble_at=None)
    )


def stalled() -> sa.ColumnElement[bool]:
    """The condition under which nothing is left of a job but what no worker can read.

    Whatever could be listed is listed, and of what is listed nothing else is open.
    """
    away = sa.exists().where(
        sources.c.job_id == shards.c.job_id,
        sources.c.source_no == shards.c.source_no,
        sources.c.trouble_at.is_not(None),
    )
    at_work = sa.and_(shards.c.state == "leased", leases.leased(shards))
    open_shard = sa.and_(shards.c.job_id == jobs.c.id, shards.c.finished_at.is_(None))
    return sa.and_(
        jobs.c.kind == "score",
        jobs.c.state.in_(SCORING_JOB_STATES),
        sa.exists().where(sources.c.job_id == jobs.c.id, sources.c.trouble_at.is_not(None)),
        ~sa.exists().where(open_shard, sa.or_(at_work, ~away)),
        sa.or_(
            sa.and_(jobs.c.planned_at.is_not(None), sa.exists().where(open_shard)),
            sa.and_(
                jobs.c.planned_at.is_(None),
                leases.run_out(jobs),
            ),
        ),
    )


def without_an_answer(connection: sa.Connection, job_id: int, seconds: float) -> bool:
    """Whether none of a job's troubled sources was read for so long, though it was tried of late.

    Release 0.2.0 does not say that it read a source: shards that are done say so too.
    """
    troubled = sa.and_(sources.c.job_id == job_id, sources.c.trouble_at.is_not(None))
    shard = sa.and_(shards.c.job_id == job_id, shards.c.source_no == sources.c.source_no)
    open_shard = sa.and_(shard, shards.c.finished_at.is_(None))
    recent = sa.exists().where(
        troubled,
        sa.or_(
            sources.c.trouble_at > now(-seconds),
            sa.exists().where(
                shard,
                shards.c.state == "done",
                shards.c.finished_at > sources.c.trouble_at,
                shards.c.finished_at > now(-seconds),
            ),
        ),
    )
    # Whoever hands a shard or a plan back writes when it may be had again.
    tried = sa.or_(
        sa.exists().where(troubled, open_shard, lately(shards.c.not_before, TRIED_S)),
        sa.exists().where(
            jobs.c.id == job_id, jobs.c.planned_at.is_(None), lately(jobs.c.not_before, TRIED_S)
        ),
    )
    return bool(connection.execute(sa.select(sa.and_(~recent, tried))).scalar_one())


def begin(
    connection: sa.Connection,
    reason: str,
    *,
    job_id: int | None = None,
    run_id: int | None = None,
    schedule_id: int | None = None,
) -> bool:
    """Begin an outage of a job, or of a schedule whose `run_id` this is, with a notice.

    False where it has begun before. An outage of a schedule's job is the schedule's.
    """
    if job_id is not None:
        schedule_id = _schedule_of(connection, job_id)
    if _open(connection, job_id, schedule_id) is not None:
        return False
    connection.execute(
        sa.insert(outages).values(
            schedule_id=schedule_id,
            job_id=job_id if schedule_id is None else None,
            began_at=now(),
            reason=reason,
        )
    )
    # Of a look at folders its run has failed too.
    outbox.add(
        connection, "failed" if job_id is None else "source_away", job_id=job_id, run_id=run_id
    )
    return True


def end(
    connection: sa.Connection,
    *,
    job_id: int | None = None,
    run_id: int | None = None,
    schedule_id: int | None = None,
    silently: bool = False,
) -> bool:
    """End the outage that `begin` began, with a notice unless `silently`; False where none is."""
    if job_id is not None:
        schedule_id = _schedule_of(connection, job_id)
    found = _open(connection, job_id, schedule_id)
    if found is None:
        return False
    ended = connection.execute(
        sa.update(outages)
        .where(outages.c.id == found, outages.c.ended_at.is_(None))
        .values(ended_at=now())
    )
    if ended.rowcount == 1 and not silently:
        outbox.add(connection, "source_back", job_id=job_id, run_id=run_id)
    return ended.rowcount == 1


def _open(connection: sa.Connection, job_id: int | None, schedule_id: int | None) -> int | None:
    whose = (
        outages.c.schedule_id == schedule_id
        if schedule_id is not None
        else outages.c.job_id == job_id
    )
    return connection.execute(
        sa.select(outages.c.id)
        .where(whose, outages.c.ended_at.is_(None))
        .order_by(outages.c.id)
        .limit(1)
        .with_for_update()
    ).scalar()


def _is_out(connection: sa.Connection, job_id: int) -> bool:
    """Whether there is an outage of a job or its schedule: scoring looks after each shard."""
    schedule = sa.select(jobs.c.schedule_id).where(jobs.c.id == job_id).scalar_subquery()
    its = sa.or_(outages.c.job_id == job_id, outages.c.schedule_id == schedule)
    found = sa.exists().where(outages.c.ended_at.is_(None), its)
    return bool(connection.execute(sa.select(found)).scalar_one())


def _schedule_of(connection: sa.Connection, job_id: int) -> int | None:
    return connection.execute(sa.select(jobs.c.schedule_id).where(jobs.c.id == job_id)).scalar()
