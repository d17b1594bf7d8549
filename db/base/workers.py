"""Worker processes: who is there, since when, and whether they still answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from db.base import database
from db.base.schema import workers
from db.base.types import lately, now

#: A worker that was not seen for this long is taken to be gone.
GONE_AFTER_S = 45.0


def register(
    connection: sa.Connection,
    worker_id: str,
    *,
    host: str,
    pid: int,
    queues: str,
    engine: str | None,
    versions: Mapping[str, str],
    health: Mapping[str, Any] | None = None,
    lease_s: float | None = None,
) -> None:
    """Insert the row of a worker process that has started; repeated where the answer was lost.

    `lease_s` is how long its leases are, in seconds. `versions` may have `engines` among them: the
    words of `jobs.engine` that it serves, as in `auto,tensorrt`.
    """
    connection.execute(sa.delete(workers).where(workers.c.id == worker_id))
    connection.execute(
        sa.insert(workers).values(
            id=worker_id,
            host=host,
            pid=pid,
            queues=queues,
            engine=engine,
            versions=dict(versions),
            lease_s=lease_s,
            started_at=now(),
            seen_at=now(),
            **_health(health),
        )
    )


def seen(
    connection: sa.Connection,
    worker_id: str,
    health: Mapping[str, Any] | None = None,
    engine: str | None = None,
) -> None:
    """Note that a worker process is alive.

    `health` is how its machine does, None where that was not read; `engine` is what it computes
    with now, where that has changed.
    """
    computes = {} if engine is None else {"engine": engine}
    connection.execute(
        sa.update(workers)
        .where(workers.c.id == worker_id)
        .values(seen_at=now(), **computes, **_health(health))
    )


def _health(health: Mapping[str, Any] | None) -> dict[str, Any]:
    # Left out where it was not read: None would be kept as the JSON `null`, which is not NULL.
    return {} if health is None else {"health": dict(health)}


def deregister(connection: sa.Connection, worker_id: str) -> None:
    """Note that a worker process has ended in good order."""
    connection.execute(
        sa.update(workers).where(workers.c.id == worker_id).values(seen_at=now(), stopped_at=now())
    )


def alive(
    engine: sa.Engine,
    queue: str | None = None,
    within_s: float = GONE_AFTER_S,
    *,
    stopped: bool = False,
) -> list[sa.RowMapping]:
    """Workers that answered within so many seconds: those that listen to `queue`, or all.

    With `stopped` also those that have ended in good order since.
    """
    select = sa.select(workers).where(lately(workers.c.seen_at, within_s))
    if not stopped:
        select = select.where(workers.c.stopped_at.is_(None))
    with database.reading(engine) as connection:
        rows = list(connection.execute(select.order_by(workers.c.started_at)).mappings())
    return [row for row in rows if queue is None or queue in row["queues"].split(",")]


def alive_ids(engine: sa.Engine, within_s: float = GONE_AFTER_S) -> frozenset[str]:
    """The numbers of workers that answered within so many seconds."""
    return frozenset(str(row["id"]) for row in alive(engine, within_s=within_s))


def listens(engine: sa.Engine, worker_id: str, queue: str) -> bool | None:
    """Whether a worker listens to a queue; None where it is not known."""
    select = sa.select(workers.c.queues).where(workers.c.id == worker_id)
    with database.reading(engine) as connection:
        queues = connection.execute(select).scalar()
    return None if queues is None else queue in queues.split(",")


def kinds(row: Mapping[str, Any] | sa.RowMapping) -> frozenset[str]:
    """The words of `jobs.engine` that a worker of this row serves; without such words: auto."""
    return frozenset(str(row["versions"].get("engines", "auto")).split(","))


def serving(engine: sa.Engine, asked: str | None) -> list[sa.RowMapping]:
    """Workers that answered lately and may score a job with this `jobs.engine`."""
    return [row for row in alive(engine, "score") if asked is None or asked in kinds(row)]
