"""Forgetting: the paths of watched files go with the jobs that are purged and with their schedule.

Of a purged job's files the hash of the path and the content stay: that is enough not to score them
again. A file that changes has its path anew (`watched.observe`).
"""

from __future__ import annotations

import sqlalchemy as sa

from db.base import database, locks
from db.base.schema import jobs, schedules, watched

#: Rows in one transaction, so that nobody waits long for the database.
_BATCH = 1000

_PURGED = watched.c.job_id.in_(sa.select(jobs.c.id).where(jobs.c.purged_at.is_not(None)))

#: Those that v_completeness counts of a schedule's job, until it is purged.
_COUNTED = sa.and_(watched.c.state == "given_up", watched.c.job_id.is_not(None), ~_PURGED)

#: What nothing looks at by its path any more, while the schedule is there.
_OVER = sa.and_(watched.c.path != "", watched.c.state.in_(("done", "given_up")))


def forget(engine: sa.Engine) -> None:
    """Forget the paths of files of purged jobs, and all of removed schedules; in short steps."""
    with database.reading(engine) as connection:
        found = connection.execute(sa.select(schedules.c.id, schedules.c.removed_at)).all()
    for schedule_id, removed_at in found:
        if removed_at is not None:
            forget_schedule(engine, schedule_id)
            continue
        done = watched.alias("purged")
        contents = sa.select(done.c.content).where(
            done.c.schedule_id == schedule_id, done.c.state == "done", done.c.path == ""
        )
        same = sa.and_(
            watched.c.job_id.is_(None), watched.c.state == "done", watched.c.content.in_(contents)
        )
        path = sa.update(watched).values(path="")
        for which in (_PURGED, same):
            _in_steps(engine, schedule_id, sa.and_(_OVER, which), path)


def forget_schedule(engine: sa.Engine, schedule_id: int) -> None:
    """Forget what a removed schedule saw, but for what its jobs that are kept still count."""
    _in_steps(engine, schedule_id, ~_COUNTED, sa.delete(watched))


def over(engine: sa.Engine) -> tuple[set[int], set[int]]:
    """Jobs that are purged and schedules that are removed: their films' names are kept nowhere."""
    with database.reading(engine) as connection:
        purged = connection.execute(sa.select(jobs.c.id).where(jobs.c.purged_at.is_not(None)))
        removed = connection.execute(
            sa.select(schedules.c.id).where(schedules.c.removed_at.is_not(None))
        )
        return set(purged.scalars()), set(removed.scalars())


def _in_steps(
    engine: sa.Engine,
    schedule_id: int,
    which: sa.ColumnElement[bool],
    change: sa.Update | sa.Delete,
) -> None:
    """Change the files of a schedule that a condition is true of."""
    last = b""
    while True:
        condition = sa.and_(watched.c.schedule_id == schedule_id, watched.c.path_hash > last, which)
        rows = sa.select(watched.c.path_hash).where(condition).order_by(watched.c.path_hash)
        with database.reading(engine) as connection:
            keys = list(connection.execute(rows.limit(_BATCH)).scalars())
        if not keys:
            return
        part = sa.and_(condition, watched.c.path_hash <= keys[-1])

        def step(connection: sa.Connection, part: sa.ColumnElement[bool] = part) -> None:
            some = sa.select(watched.c.path_hash).where(part).order_by(watched.c.path_hash)
            locks.in_order(connection, some)
            connection.execute(change.where(part))

        database.write(engine, step)
        last = bytes(keys[-1])
