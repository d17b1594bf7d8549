"""Purging: what old jobs left is removed; their rows and the sums of their outcomes stay.

A purged job keeps its row in `jobs` and one row in `shards`, so that its progress still adds up and
a prediction that was answered from it still names a job that exists. What it did on which day stays
in `day_totals`. Such predictions are whole
rows of their own; nothing else of them refers to what is removed.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from datetime import timedelta
from itertools import zip_longest
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from db.base import database, locks
from db.base.schema import (
    PARTITION_JOBS,
    PARTITIONED,
    films,
    job_events,
    jobs,
    metadata,
    rollups,
    shard_listings,
    shards,
    source_totals,
    sources,
)
from db.base.types import now
from db.nightly import forgetting
from db.queue import jobs as job_rows
from db.work import totals

#: Items whose rows are deleted in one transaction, so that nobody waits long for the database.
ITEMS = 50_000

#: A partition is dropped only if nobody reads it for so long; otherwise its rows are deleted.
DROP_TIMEOUT_MS = 2_000

#: Locks on them are asked for again after so many seconds.
AGAIN_S = 0.02


class Purged(NamedTuple):
    """What was removed."""

    jobs: int
    items: int
    #: Partitions dropped whole (PostgreSQL).
    partitions: int


def candidates(
    engine: sa.Engine, older_than: timedelta, keep: Collection[int] = ()
) -> list[sa.RowMapping]:
    """Jobs that `purge` would purge, oldest first: `id`, `planned_items`, `finished_at`."""
    child = jobs.alias()
    with database.reading(engine) as connection:
        return list(
            connection.execute(
                sa.select(jobs.c.id, jobs.c.planned_items, jobs.c.finished_at)
                .where(
                    jobs.c.kind == "score",
                    jobs.c.finished_at < now(-older_than.total_seconds()),
                    # Its sources go last, so that a purge that was interrupted goes on.
                    sa.exists().where(sources.c.job_id == jobs.c.id),
                    # A retry may still have to read the listings.
                    ~sa.exists().where(
                        child.c.parent_job_id == jobs.c.id, child.c.finished_at.is_(None)
                    ),
                    jobs.c.id.not_in(keep),
                )
                .order_by(jobs.c.id)
            ).mappings()
        )


def purge(engine: sa.Engine, older_than: timedelta, who: str, keep: Collection[int] = ()) -> Purged:
    """Remove outcomes, listings, sources and history of scoring jobs that ended so long ago.

    The paths go too of what they took from watched folders. In many short transactions; where it
    is interrupted, the next purge goes on.
    """
    found = candidates(engine, older_than, keep)
    ids = [int(row["id"]) for row in found]
    if not ids:
        return Purged(0, 0, 0)
    database.write(engine, lambda c: _mark(c, ids))
    for job_id in ids:
        totals.add_job(engine, job_id)
    _forget_films(engine, ids)
    dropped = _drop_partitions(engine)
    for row in found:
        job_id, items = int(row["id"]), int(row["planned_items"])
        for first in range(0, items, ITEMS):
            database.write(engine, lambda c, j=job_id, f=first: _delete_items(c, j, f))  # type: ignore[misc]
        database.write(engine, lambda c, j=job_id: _sum_up(c, j, who))  # type: ignore[misc]
    forgetting.forget(engine)
    return Purged(len(ids), sum(int(row["planned_items"]) for row in found), dropped)


def _mark(connection: sa.Connection, ids: Sequence[int]) -> None:
    # From here on nothing is copied or answered from them.
    locks.in_order(connection, sa.select(jobs.c.id).where(jobs.c.id.in_(ids)).order_by(jobs.c.id))
    connection.execute(
        sa.update(jobs)
        .where(jobs.c.id.in_(ids), jobs.c.purged_at.is_(None))
        .values(purged_at=now())
    )


def _forget_films(engine: sa.Engine, ids: Sequence[int]) -> None:
    with database.reading(engine) as connection:
        keys = connection.execute(
            sa.select(jobs.c.model_id, jobs.c.precision).where(jobs.c.id.in_(ids)).distinct()
        ).all()
        most = int(connection.execute(sa.select(sa.func.sum(jobs.c.planned_items))).scalar_one())
    # Contents are spread evenly over their first byte: each step looks at a share of the films.
    steps = min(max(most // ITEMS, 1), 256)
    bounds = [bytes([step * 256 // steps]) for step in range(steps)]
    for model_id, precision in keys:
        for first, end in zip_longest(bounds, bounds[1:]):
            condition = [
                films.c.model_id == model_id,
                films.c.precision == precision,
                films.c.content >= first,
                films.c.job_id.in_(ids),
            ]
            if end is not None:
                condition.append(films.c.content < end)
            database.write(engine, lambda c, w=condition: _forget(c, w))  # type: ignore[misc]


def _forget(connection: sa.Connection, condition: Sequence[sa.ColumnElement[bool]]) -> None:
    rows = sa.select(films.c.content).where(*condition)
    locks.in_order(connection, rows.order_by(films.c.content))
    connection.execute(sa.delete(films).where(*condition))


def _delete_items(connection: sa.Connection, job_id: int, first: int) -> None:
    for name in PARTITIONED:
        table = metadata.tables[name]
        connection.execute(
            sa.delete(table).where(
                table.c.job_id == job_id,
                table.c.item_no >= first,
                table.c.item_no < first + ITEMS,
            )
        )


def _sum_up(connection: sa.Connection, job_id: int, who: str) -> None:
    """Put one row in the place of the job's shards, and remove the rest."""
    job_rows.locked(connection, job_id)
    names = ("n_predictions", "n_positive", "n_unusual", "n_looks", "n_refused", "n_errors")
    final = connection.execute(
        sa.select(
            sa.func.coalesce(sa.func.sum(shards.c.n_items), 0).label("n_items"),
            *(sa.func.coalesce(sa.func.sum(shards.c[name]), 0).label(name) for name in names),
        ).where(shards.c.job_id == job_id, shards.c.finished_at.is_not(None))
    ).one()
    for table in (rollups, shard_listings, shards, sources, source_totals, job_events):
        connection.execute(sa.delete(table).where(table.c.job_id == job_id))
    if final.n_items:
        connection.execute(
            sa.insert(shards).values(
                job_id=job_id, shard_no=0, source_no=0, first_item=0, n_items=int(final.n_items),
                state="done", finished_at=now(), summed=True,
                **{n: int(getattr(final, n)) for n in names},
            )
        )  # fmt: skip
    # Whoever submits its key again wants the work to be done again.
    connection.execute(
        sa.update(jobs)
        .where(jobs.c.id == job_id)
        .values(planned_shards=1 if final.n_items else 0, key=None)
    )
    job_rows.log(connection, job_id, who, "purged", "outcomes removed, sums kept")


def _drop_partitions(engine: sa.Engine) -> int:
    """Drop partitions in which no job has rows any more; returns how many tables went."""
    if engine.dialect.name != "postgresql":
        return 0
    with database.reading(engine) as connection:
        newest = connection.execute(sa.select(sa.func.max(jobs.c.id))).scalar() or 0
        alive = set(
            connection.execute(
                sa.select(jobs.c.id // PARTITION_JOBS)
                .where(jobs.c.kind == "score", jobs.c.purged_at.is_(None))
                .distinct()
            ).scalars()
        )
        there = {
            int(name.rsplit("_p", 1)[1])
            for name in connection.exec_driver_sql(
                "SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid "
                "WHERE inhparent = 'predictions'::regclass"
            ).scalars()
        }
    # The newest is still to be filled, and the one before may belong to a job that is just being
    # submitted.
    dead = sorted(n for n in there if n < newest // PARTITION_JOBS - 1 and n not in alive)
    return sum(_drop(engine, number) for number in dead)


def _drop(engine: sa.Engine, number: int) -> int:
    """Drop a partition of all tables at once, or of none where somebody reads them all the time.

    Whoever reads several locks them in an order of its own. So nothing is waited for here that
    readers hold: all of it is had at once, or asked for again.
    """
    gives_up_at = time.monotonic() + DROP_TIMEOUT_MS / 1000
    while True:
        try:
            with database.writing(engine) as connection:
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = {DROP_TIMEOUT_MS}")
                tables = ", ".join(PARTITIONED)
                connection.exec_driver_sql(
                    f"LOCK TABLE ONLY {tables} IN ACCESS EXCLUSIVE MODE NOWAIT"
                )
                for table in PARTITIONED:
                    connection.exec_driver_sql(f"DROP TABLE IF EXISTS {table}_p{number}")
            return len(PARTITIONED)
        except DBAPIError as error:
            if not database.away(error):
                raise
        if time.monotonic() >= gives_up_at:
            return 0  # the rows are deleted instead
        time.sleep(AGAIN_S)
