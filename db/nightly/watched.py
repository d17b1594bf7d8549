"""Watched files: what a schedule saw in its folders, what it took, and what it will not take again.

A file is known by its path for whether it still grows, and by its content for whether it was taken
before. Of a run only the worker that has it writes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from db.base import database, locks, outbox
from db.base.errors import LeaseLost
from db.base.schema import jobs as jobs_table
from db.base.schema import runs as runs_table
from db.base.schema import watched
from db.base.types import due, now
from db.nightly import runs
from db.queue import jobs

#: A file whose jobs failed so many times is given up.
MAX_ATTEMPTS = 3

#: Rows in one statement.
_BATCH = 1000

#: A file that was seen further ahead than this, in seconds, was seen by a clock that was ahead: it
#: begins to wait anew.
_AHEAD_S = 60.0


#: What an index finds without those that are done. It is written out: SQLite takes an index with a
#: condition only where that stands in the statement.
UNDONE = sa.text("watched.state <> 'done'")


class Seen(NamedTuple):
    """A file as it was found."""

    path: str
    size: int
    #: Nanoseconds since 1970, as the file says.
    mtime_ns: int


class Waiting(NamedTuple):
    """A file that was not scored yet."""

    path: str
    size: int
    mtime_ns: int
    #: It has been so since then.
    since: datetime
    #: SHA-256, once it was read.
    content: str | None
    #: Jobs that took it and failed.
    attempts: int


def key(path: str) -> bytes:
    """By what a path is found, however long it is."""
    return hashlib.blake2b(path.encode("utf-8", "surrogateescape"), digest_size=16).digest()


def claim(
    connection: sa.Connection,
    run_id: int,
    worker_id: str,
    there: Collection[str],
    settle_s: float,
) -> bool:
    """Take a run whose folders are to be looked through, unless one of `there` has it.

    `settle_s` is for how long its schedule lets files settle: no second look waits longer.
    """
    taken = connection.execute(
        sa.update(runs_table)
        .where(
            runs_table.c.id == run_id,
            runs_table.c.state == "due",
            sa.or_(runs_table.c.worker_id.is_(None), runs_table.c.worker_id.not_in(there)),
            due(runs_table.c.not_before, settle_s),
        )
        .values(worker_id=worker_id)
    )
    return taken.rowcount == 1


def fence(connection: sa.Connection, run_id: int, worker_id: str) -> None:
    """Lock a run that this worker has, or raise LeaseLost."""
    held = connection.execute(
        sa.update(runs_table)
        .where(
            runs_table.c.id == run_id,
            runs_table.c.state == "due",
            runs_table.c.worker_id == worker_id,
        )
        .values(worker_id=worker_id)
    )
    if held.rowcount != 1:
        raise LeaseLost(f"run {run_id} is another worker's by now")


def again(connection: sa.Connection, run_id: int, worker_id: str, after_s: float) -> None:
    """Let the folders be looked through once more after so many seconds, by any worker."""
    fence(connection, run_id, worker_id)
    runs.note(connection, run_id, worker_id=None, not_before=now(after_s))


def leave(connection: sa.Connection, run_id: int, worker_id: str) -> None:
    """Leave a run to other workers, since this one cannot look through its folders."""
    fence(connection, run_id, worker_id)
    blind = connection.execute(
        sa.select(runs_table.c.blind).where(runs_table.c.id == run_id)
    ).scalar()
    runs.note(connection, run_id, worker_id=None, blind=sorted({*(blind or ()), worker_id}))


def observe(
    engine: sa.Engine, run_id: int, worker_id: str, schedule_id: int, found: Sequence[Seen]
) -> None:
    """Keep what was found: a file that is new, or of another size or time, begins to wait.

    In transactions that are short however many there are, so that nobody waits long for the
    database; what was kept stays where this is interrupted. Raises LeaseLost.
    """
    keyed = [(key(seen.path), seen) for seen in found]
    other: list[tuple[bytes, Seen]] = []
    with database.reading(engine) as connection:
        # Asked for by their keys: of those that were seen in all the years there may be a million.
        for start in range(0, len(keyed), _BATCH):
            some = keyed[start : start + _BATCH]
            known = _known(connection, schedule_id, [k for k, _ in some])
            other += [(k, seen) for k, seen in some if known.get(k) != (seen.size, seen.mtime_ns)]
    for start in range(0, len(other), _BATCH):
        part = dict(other[start : start + _BATCH])
        database.write(
            engine,
            lambda c, p=part: _keep(c, run_id, worker_id, schedule_id, p),  # type: ignore[misc]
        )


def _known(
    connection: sa.Connection, schedule_id: int, keys: Sequence[bytes]
) -> dict[bytes, tuple[int, int]]:
    """Size and time of those files of these keys that are known as they are."""
    found = connection.execute(
        sa.select(watched.c.path_hash, watched.c.size, watched.c.mtime_ns).where(
            watched.c.schedule_id == schedule_id,
            watched.c.path_hash.in_(keys),
            sa.or_(
                watched.c.state != "seen",
                # Release 0.2.0 gives a file whose path was forgotten none when it changes.
                sa.and_(watched.c.since <= now(_AHEAD_S), watched.c.path != ""),
            ),
        )
    )
    return {bytes(row.path_hash): (row.size, row.mtime_ns) for row in found}


def _keep(
    connection: sa.Connection,
    run_id: int,
    worker_id: str,
    schedule_id: int,
    part: Mapping[bytes, Seen],
) -> None:
    """Files by their keys, which are new, or are not what they were."""
    fence(connection, run_id, worker_id)
    mine = watched.c.schedule_id == schedule_id
    known = sa.select(watched.c.path_hash).where(mine, watched.c.path_hash.in_(part))
    there = {bytes(found) for found in connection.execute(known).scalars()}
    new = [
        {"path_hash": k, "path": seen.path, "size": seen.size, "mtime_ns": seen.mtime_ns}
        for k, seen in part.items()
        if k not in there
    ]
    if new:
        connection.execute(
            sa.insert(watched).values(schedule_id=schedule_id, since=now(), state="seen"), new
        )
    for k in sorted(there):
        connection.execute(
            sa.update(watched)
            .where(mine, watched.c.path_hash == k)
            .values(
                path=part[k].path, size=part[k].size, mtime_ns=part[k].mtime_ns, since=now(),
                content=None, state="seen", job_id=None, attempts=0,
            )
        )  # fmt: skip


def waiting(engine: sa.Engine, schedule_id: int) -> list[Waiting]:
    """The files that were seen and not taken, by path."""
    columns = (watched.c[name] for name in Waiting._fields)
    select = (
        sa.select(*columns)
        .where(watched.c.schedule_id == schedule_id, watched.c.state == "seen", UNDONE)
        .order_by(watched.c.path)
    )
    with database.reading(engine) as connection:
        return [Waiting(*row) for row in connection.execute(select)]


def unfinished(engine: sa.Engine, schedule_id: int) -> list[str]:
    """Paths of files that are not done: they wait, or their job is open."""
    select = sa.select(watched.c.path).where(
        watched.c.schedule_id == schedule_id, watched.c.state.in_(("seen", "taken")), UNDONE
    )
    with database.reading(engine) as connection:
        return list(connection.execute(select).scalars())


def given_up(engine: sa.Engine, schedule_id: int) -> list[str]:
    """Paths of files that are given up: they are not taken again unless they change."""
    select = sa.select(watched.c.path).where(
        watched.c.schedule_id == schedule_id, watched.c.state == "given_up", UNDONE
    )
    with database.reading(engine) as connection:
        return list(connection.execute(select).scalars())


def taken_before(engine: sa.Engine, schedule_id: int, content: str) -> bool:
    """Whether a content (SHA-256) was taken, under whatever name."""
    same = sa.exists().where(
        watched.c.schedule_id == schedule_id,
        watched.c.content == content,
        watched.c.state.in_(("taken", "done")),
    )
    with database.reading(engine) as connection:
        return bool(connection.execute(sa.select(same)).scalar_one())


def read(
    connection: sa.Connection,
    run_id: int,
    worker_id: str,
    schedule_id: int,
    path: str,
    content: str,
    *,
    taken_before: bool,
) -> None:
    """Keep a file's content; where that was taken before under another name, it is done."""
    fence(connection, run_id, worker_id)
    connection.execute(
        sa.update(watched)
        .where(watched.c.schedule_id == schedule_id, watched.c.path_hash == key(path))
        .values(content=content, state="done" if taken_before else "seen")
    )


def failed_again(
    connection: sa.Connection,
    run_id: int,
    worker_id: str,
    schedule_id: int,
    attempts: Mapping[str, int],
) -> None:
    """Count an attempt for files whose job would fail once more, without there being one.

    `attempts` is how many each path had: should this be repeated, it is still one more. Hooks get
    a notice of those that are so for the first time, and one of those that are given up.
    """
    fence(connection, run_id, worker_id)
    new = given_up = 0
    for path in sorted(attempts, key=key):
        changed = connection.execute(
            sa.update(watched)
            .where(
                watched.c.schedule_id == schedule_id,
                watched.c.path_hash == key(path),
                watched.c.attempts == attempts[path],
            )
            .values(attempts=watched.c.attempts + 1, state=_after(watched.c.attempts + 1))
        ).rowcount
        new += changed if attempts[path] == 0 else 0
        given_up += changed if attempts[path] + 1 >= MAX_ATTEMPTS else 0
    if new:
        outbox.add(connection, "not_taken", run_id=run_id, files=new)
    _tell(connection, given_up, run_id=run_id)


def take(
    connection: sa.Connection,
    run_id: int,
    worker_id: str,
    schedule_id: int,
    paths: Sequence[str],
    reason: str | None = None,
    **job: Any,
) -> int:
    """Submit the run's job over these files, which are taken by it; `job` as of `jobs.submit`.

    What the run says of other files, which were not taken, is its `reason`.
    """
    fence(connection, run_id, worker_id)
    job_id = jobs.submit(connection, kind="score", schedule_id=schedule_id, **job)
    keys = sorted(key(path) for path in paths)
    for start in range(0, len(keys), _BATCH):
        part = _locked(
            connection,
            sa.and_(
                watched.c.schedule_id == schedule_id,
                watched.c.path_hash.in_(keys[start : start + _BATCH]),
            ),
        )
        connection.execute(
            sa.update(watched)
            .where(part)
            .values(state="taken", job_id=job_id, attempts=watched.c.attempts + 1)
        )
    runs.note(connection, run_id, state="running", job_id=job_id, not_before=None, reason=reason)
    return job_id


def job_ended(connection: sa.Connection, job_id: int, state: str, *, counted: bool = True) -> None:
    """What a job took is done, or waits again where the job did not complete.

    Not `counted` is a job that ended because its files could not be read where they are: it was no
    attempt.

    So does what was done because it has the content of such a file: the file may be gone by then.
    """
    schedule_id = sa.select(jobs_table.c.schedule_id).where(jobs_table.c.id == job_id)
    whose = connection.execute(schedule_id).scalar()
    its = sa.and_(watched.c.schedule_id == whose, watched.c.job_id == job_id, UNDONE)
    ours = _locked(connection, sa.and_(its, watched.c.state == "taken"))
    if state in ("completed", "completed_with_errors"):
        connection.execute(sa.update(watched).where(ours).values(state="done"))
        return
    given_up = 0
    if counted:
        after = {"state": _after(watched.c.attempts)}
        last = sa.select(sa.func.count()).where(ours, watched.c.attempts >= MAX_ATTEMPTS)
        given_up = connection.execute(last).scalar_one()
    else:
        after = {"state": sa.literal("seen"), "attempts": watched.c.attempts - 1}
    connection.execute(sa.update(watched).where(ours).values(**after))
    failed = watched.alias("failed")
    contents = sa.select(failed.c.content).where(
        failed.c.schedule_id == whose,
        failed.c.job_id == job_id,
        sa.text("failed.state <> 'done'"),
        failed.c.state == "seen",
    )
    same = sa.and_(
        watched.c.schedule_id == whose,
        watched.c.content.in_(contents),
        watched.c.state == "done",
        watched.c.job_id.is_(None),
    )
    connection.execute(sa.update(watched).where(_locked(connection, same)).values(state="seen"))
    _tell(connection, given_up, job_id=job_id)


def _tell(
    connection: sa.Connection,
    given_up: int,
    *,
    run_id: int | None = None,
    job_id: int | None = None,
) -> None:
    """Write a notice that so many files are given up."""
    if given_up:
        outbox.add(connection, "given_up", run_id=run_id, job_id=job_id, files=given_up)


def _locked(connection: sa.Connection, which: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    """Lock the files of a condition, by their paths; returns it."""
    rows = sa.select(watched.c.path_hash).where(which)
    locks.in_order(connection, rows.order_by(watched.c.schedule_id, watched.c.path_hash))
    return which


def _after(attempts: sa.ColumnElement[int]) -> sa.ColumnElement[str]:
    """The state of a file after so many attempts that failed."""
    return sa.case((attempts >= MAX_ATTEMPTS, "given_up"), else_="seen")
