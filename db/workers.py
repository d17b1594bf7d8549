"""Worker processes: who is there, since when, and whether they still answer."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from db import database
from db.schema import workers
from db.types import now

#: A worker that was not seen for this long is taken to be gone.
GONE_AFTER_S = 45.0


def hello(
    connection: sa.Connection,
    worker_id: str,
    *,
    host: str,
    pid: int,
    queues: str,
    engine: str | None,
    versions: Mapping[str, str],
) -> None:
    """A worker process has started. Its answer may be lost, and this be repeated."""
    connection.execute(sa.delete(workers).where(workers.c.id == worker_id))
    connection.execute(
        sa.insert(workers).values(
            id=worker_id,
            host=host,
            pid=pid,
            queues=queues,
            engine=engine,
            versions=dict(versions),
            started_at=now(),
            seen_at=now(),
        )
    )


def seen(connection: sa.Connection, worker_id: str) -> None:
    """A worker process is alive."""
    connection.execute(sa.update(workers).where(workers.c.id == worker_id).values(seen_at=now()))


def goodbye(connection: sa.Connection, worker_id: str) -> None:
    """A worker process has ended in good order."""
    connection.execute(
        sa.update(workers).where(workers.c.id == worker_id).values(seen_at=now(), stopped_at=now())
    )


def alive(engine: sa.Engine, queue: str | None = None) -> list[sa.RowMapping]:
    """Workers that answered lately: those that listen to `queue`, or all."""
    select = sa.select(workers).where(
        workers.c.stopped_at.is_(None), workers.c.seen_at > now(-GONE_AFTER_S)
    )
    with database.reading(engine) as connection:
        rows = list(connection.execute(select.order_by(workers.c.started_at)).mappings())
    return [row for row in rows if queue is None or queue in row["queues"].split(",")]
