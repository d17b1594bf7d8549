"""Adding up: finished shards go into the sums per day and per source, in batches, once each.

Nobody else writes those sums, and only one adds at a time, so that a commit never waits for them.
What is added is marked in the same transaction: whatever is interrupted or repeated counts nothing
twice. Shards that older releases committed, before an upgrade or beside it, are added alike.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from db.base import database, totals
from db.base.schema import FINAL_SHARD_STATES, shards
from db.base.totals import Total
from db.base.view import render

#: Shards, and about as many items, that are added in one transaction: some hundredths of a second.
SHARDS, ITEMS = 256, 20_000

#: After a batch nothing is added for this part of the time that it took: others write too.
PAUSE = 1.0

#: Key of the advisory lock under which shards are added.
LOCK = 7663088

#: In the words of the index that finds them.
_FINAL = [sa.literal_column(repr(state)) for state in FINAL_SHARD_STATES]

_AMONG = (
    "batch b JOIN shards h ON h.job_id = b.job_id AND h.shard_no = b.shard_no WHERE "
    f"{totals.UNSUMMED}"
)


def add_all(engine: sa.Engine) -> int:
    """Add what is finished and not added yet, in short transactions; how many shards.

    Where another worker is at it, it goes on.
    """
    added = 0
    while True:
        began = time.monotonic()
        found = database.write(engine, lambda c: _add(c, wait=False))
        if not found:
            return added
        added += found
        time.sleep(PAUSE * (time.monotonic() - began))


def add_job(engine: sa.Engine, job_id: int) -> None:
    """Add all finished shards of a job, before they are removed."""
    while database.write(engine, lambda c: _add(c, job_id)):
        pass


def _add(connection: sa.Connection, job_id: int | None = None, *, wait: bool = True) -> int:
    if connection.dialect.name == "postgresql":
        if wait:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
        elif not connection.execute(sa.select(sa.func.pg_try_advisory_xact_lock(LOCK))).scalar():
            return 0
    batch = _batch(connection, job_id)
    if not batch:
        return 0
    named = _named(batch)
    found = _of_shards(connection, named)
    for total in totals.TOTALS:
        # Of a purged job nothing is kept per source.
        _add_rows(connection, total, [r for r in found if total != totals.SOURCE or r.has_source])
    connection.exec_driver_sql(
        f"{named} UPDATE shards SET summed = {_true(connection)} "  # noqa: S608  # numbers
        "WHERE (job_id, shard_no) IN (SELECT job_id, shard_no FROM batch)"
    )
    return len(batch)


def _batch(connection: sa.Connection, job_id: int | None) -> list[tuple[int, int]]:
    """Job and number of the next shards to be added; locked, so that nobody removes them."""
    select = (
        sa.select(shards.c.job_id, shards.c.shard_no, shards.c.n_items)
        .where(shards.c.state.in_(_FINAL), shards.c.summed.is_(None))
        .order_by(shards.c.job_id, shards.c.shard_no)
        .limit(SHARDS)
        .with_for_update()
    )
    if job_id is not None:
        select = select.where(shards.c.job_id == job_id)
    taken: list[tuple[int, int]] = []
    items = 0
    for row in connection.execute(select).all():
        items += row.n_items
        if taken and items > ITEMS:
            break
        taken.append((row.job_id, row.shard_no))
    return taken


def _named(batch: Sequence[tuple[int, int]]) -> str:
    values = ", ".join(f"({job_id}, {shard_no})" for job_id, shard_no in batch)
    return f"WITH batch (job_id, shard_no) AS (VALUES {values})"


def _of_shards(connection: sa.Connection, named: str) -> Sequence[sa.Row[Any]]:
    each = render(totals.of_shards(_AMONG), connection.dialect.name)
    return connection.exec_driver_sql(f"{named} {each}").all()


def _add_rows(connection: sa.Connection, total: Total, rows: Sequence[sa.Row[Any]]) -> None:
    """Add the sums of shards to a table."""
    sums: dict[tuple[Any, ...], list[Any]] = {}
    for row in rows:
        values = row._mapping
        key = tuple(values[name] for name in total.key)
        mine = sums.setdefault(key, [0] * len(total.columns))
        for n, name in enumerate(total.columns):
            mine[n] += values[name]
    if not sums:
        return
    names = (*total.key, *total.columns)
    more = ", ".join(f"{name} = {total.name}.{name} + excluded.{name}" for name in total.columns)
    connection.execute(
        sa.text(
            f"INSERT INTO {total.name} ({', '.join(names)}) "  # noqa: S608  # constants
            f"VALUES ({', '.join(f':{name}' for name in names)}) "
            f"ON CONFLICT ({', '.join(total.key)}) DO UPDATE SET {more}"
        ),
        [dict(zip(names, (*key, *values), strict=True)) for key, values in sorted(sums.items())],
    )


def _true(connection: sa.Connection) -> str:
    return "TRUE" if connection.dialect.name == "postgresql" else "1"
