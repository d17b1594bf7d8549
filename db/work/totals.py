"""Adding up: the sums of finished shards go from `shard_totals` into the other sums, in batches.

Nobody else writes those, and only one adds at a time, so that a commit never waits for them. What
is added is taken away in the same transaction: whatever is interrupted or repeated counts nothing
twice. Shards of releases that write no sums, from before an upgrade or beside it, are added from
their rows.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from db.base import database, totals
from db.base.schema import FINAL_SHARD_STATES, shard_totals, shards, workers
from db.base.totals import Total
from db.base.view import render

#: Shards that are added in one transaction.
SHARDS = 512

#: Of those that are added from their rows, so many and about as many items: some hundredths of a
#: second.
ROW_SHARDS, ITEMS = 256, 20_000

#: After a batch nothing is added for this part of the time that it took: others write too.
PAUSE = 1.0

#: Key of the advisory lock under which shards are added.
LOCK = 7663088

#: In the words of the index that finds them.
_FINAL = [sa.literal_column(repr(state)) for state in FINAL_SHARD_STATES]

Row = Mapping[str, Any]


def add_all(engine: sa.Engine) -> int:
    """Add what is finished, in short transactions; how many shards.

    Where another worker is at it, it goes on.
    """
    added = 0
    while True:
        began = time.monotonic()
        found = database.write(engine, lambda c: add_batch(c, wait=False))
        if not found:
            return added
        added += found
        time.sleep(PAUSE * (time.monotonic() - began))


def add_job(engine: sa.Engine, job_id: int) -> None:
    """Add all finished shards of a job, before they are removed."""
    while database.write(engine, lambda c: add_batch(c, job_id)):
        pass


def add_batch(connection: sa.Connection, job_id: int | None = None, *, wait: bool = True) -> int:
    """Add the next finished shards, those of one job if it is given; how many.

    Unless it is to `wait`, none where another one adds just now.
    """
    if connection.dialect.name == "postgresql":
        if wait:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
        elif not connection.execute(sa.select(sa.func.pg_try_advisory_xact_lock(LOCK))).scalar():
            return 0
    # Before those of which only rows tell: what is left of a job that an older release purged is
    # known only when all else of it was added.
    found = _taken(connection, job_id) or _from_rows(connection, job_id)
    hosts = _hosts(connection, {row["worker_id"] for row in found})
    rows = [
        {
            **row,
            "host": hosts.get(row["worker_id"], ""),
            "items": row["predictions"] + row["refused"] + row["errors"],
            "scored": row["predictions"] - row["reused"],
        }
        for row in found
    ]
    for total in totals.TOTALS:
        _add(connection, total, rows)
    return len(rows)


def _taken(connection: sa.Connection, job_id: int | None) -> list[Row]:
    """The next rows of shard_totals, which are gone now."""
    keys = sa.select(shard_totals.c.job_id, shard_totals.c.shard_no)
    if job_id is not None:
        keys = keys.where(shard_totals.c.job_id == job_id)
    next_ones = connection.execute(keys.order_by(*keys.selected_columns).limit(SHARDS)).all()
    if not next_ones:
        return []
    taken = connection.exec_driver_sql(
        f"{totals.named(map(tuple, next_ones))} "  # noqa: S608  # numbers
        "DELETE FROM shard_totals WHERE (job_id, shard_no) IN (SELECT job_id, shard_no FROM batch) "
        f"RETURNING {', '.join(totals.OF_A_SHARD)}"
    )
    return [dict(row) for row in taken.mappings()]


def _from_rows(connection: sa.Connection, job_id: int | None) -> list[Row]:
    """The sums of the next shards that have none, which are marked now."""
    select = (
        sa.select(shards.c.job_id, shards.c.shard_no, shards.c.n_items)
        .where(shards.c.state.in_(_FINAL), shards.c.summed.is_(None))
        .order_by(shards.c.job_id, shards.c.shard_no)
        .limit(ROW_SHARDS)
        .with_for_update()  # nobody removes them meanwhile
    )
    if job_id is not None:
        select = select.where(shards.c.job_id == job_id)
    batch: list[tuple[int, int]] = []
    items = 0
    for row in connection.execute(select).all():
        items += row.n_items
        if batch and items > ITEMS:
            break
        batch.append((row.job_id, row.shard_no))
    if not batch:
        return []
    each = render(totals.of_shards(totals.BATCH), connection.dialect.name)
    found = connection.exec_driver_sql(f"{totals.named(batch)} {each}").mappings().all()
    yes = "TRUE" if connection.dialect.name == "postgresql" else "1"
    connection.exec_driver_sql(
        f"{totals.named(batch)} UPDATE shards SET summed = {yes} "  # noqa: S608  # numbers
        "WHERE (job_id, shard_no) IN (SELECT job_id, shard_no FROM batch)"
    )
    return [{k: float(v) if k in _REAL else v for k, v in row.items()} for row in found]


_REAL = ("score_sum", "seconds")


def _hosts(connection: sa.Connection, ids: Iterable[str | None]) -> dict[str | None, str]:
    known = sorted(i for i in ids if i is not None)
    found = connection.execute(
        sa.select(workers.c.id, workers.c.host).where(workers.c.id.in_(known))
    )
    return {row.id: row.host for row in found}


def _add(connection: sa.Connection, total: Total, rows: Sequence[Row]) -> None:
    """Add rows to a table with sums."""
    sums: dict[tuple[Any, ...], list[Any]] = {}
    for row in rows:
        mine = sums.setdefault(tuple(row[name] for name in total.key), [0] * len(total.columns))
        for n, name in enumerate(total.columns):
            mine[n] += row[name]
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
