"""What tests of the database begin with: a model, a job that is planned, a shard that is held."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa

from db.base.database import reading, write, writing
from db.base.schema import metadata
from db.base.types import UtcDateTime
from db.queue import jobs, leases, listings, results
from db.registry.models import NewModel
from db.work import claims, endings

T = TypeVar("T")

#: Long enough for any test.
LEASE_S = 600.0
#: A lease of this length has run out when it is given.
EXPIRED_S = -1.0


def model(folder: Path, name: str, data: bytes | None = None, **changes: Any) -> NewModel:
    """A model to be registered, whose file of `data` is written into the folder."""
    file = folder / f"{name}.onnx"
    file.write_bytes(data if data is not None else f"the bytes of {name}".encode())
    values: dict[str, Any] = {
        "name": name,
        "origin": "imported",
        "arch": "resnet18",
        "labels": ("NORMAL", "PNEUMONIA"),
        "positive": "PNEUMONIA",
        "size": 224,
        "film_rule": "gray-stretch-1",
        "temperature": 1.0,
        "threshold": 0.5,
        "threshold_rule": "as given",
        "ood_threshold": 3.0,
        "metrics": {"auroc": 0.9},
        "card": {"format": 1},
        "files": {"fp32": file},
    }
    return NewModel(**(values | changes))


def queued(database: sa.Engine, kind: str = "score", **options: Any) -> int:
    """A submitted job."""
    values: dict[str, Any] = {
        "kind": kind,
        "spec": {"precision": "fp32"},
        "submitted_by": "tests",
        "model_id": 1 if kind == "score" else None,
        "source_rows": [{"uri": "/films.zip", "kind": "zip", "fingerprint": "1"}]
        if kind == "score"
        else None,
    }
    return write(database, lambda c: jobs.submit(c, **(values | options)))


def planning(database: sa.Engine, **options: Any) -> claims.Claimed:
    """A scoring job that the worker `planner` has just claimed."""
    job_id = queued(database, **options)
    claimed = write(database, lambda c: claims.claim_job(c, "score", "planner", LEASE_S))
    assert claimed is not None
    assert claimed.lease.job_id == job_id, "another job was due before it"
    return claimed


def new_shards(count: int, items: int = 1) -> list[listings.NewShard]:
    """Shards as a planner writes them."""
    return [listings.NewShard(source_no=0, n_items=items, listing=b"listing") for _ in range(count)]


def running(database: sa.Engine, shards: int = 1, items: int = 1, **options: Any) -> int:
    """A scoring job whose listing is complete."""
    lease = planning(database, **options).lease

    def plan(connection: sa.Connection) -> None:
        listings.add(connection, lease, new_shards(shards, items))
        listings.complete(connection, lease, {})

    write(database, plan)
    return lease.job_id


def claimed(
    database: sa.Engine, worker_id: str = "worker", lease_s: float = LEASE_S
) -> leases.Shard:
    """The best shard that is due, claimed."""
    shard = write(database, lambda c: claims.claim_shard(c, worker_id, lease_s))
    assert shard is not None, "no shard is due"
    return shard


def outcomes(shard: leases.Shard, *, refused: int = 0, errors: int = 0) -> list[results.Outcome]:
    """One outcome per item: first the refused, then the errors, the rest predictions."""
    made: list[results.Outcome] = []
    for n in range(shard.n_items):
        item_no = shard.first_item + n
        if n < refused + errors:
            code = "lateral" if n < refused else "truncated"
            made.append(
                results.NotPredicted(
                    item_no=item_no, name=f"{item_no}.jpg", code=code, detail="x",
                    refused=n < refused, reader=("JPEG", 1),
                )
            )  # fmt: skip
        else:
            made.append(
                results.Prediction(
                    item_no=item_no, name=f"{item_no}.jpg", label_no=1, probability=0.75,
                    positive=True, reader=("JPEG", 1),
                )
            )  # fmt: skip
    return made


def commit(database: sa.Engine, shard: leases.Shard, **counts: int) -> None:
    """Commit a shard."""
    write(database, lambda c: results.commit(c, shard, outcomes(shard, **counts)))


def close(database: sa.Engine, job_id: int) -> bool:
    """Close a job if it is done; whether it was closed."""
    return write(database, lambda c: endings.close_if_done(c, job_id, "closer"))


def events(database: sa.Engine, job_id: int) -> list[str]:
    """The words of a job's history, oldest first."""
    return [event["event"] for event in jobs.events(database, job_id)]


def count(database: sa.Engine, table: sa.Table, *conditions: sa.ColumnElement[bool]) -> int:
    """Rows of a table."""
    select = sa.select(sa.func.count()).select_from(table).where(*conditions)
    with reading(database) as connection:
        return int(connection.execute(select).scalar_one())


def one(database: sa.Engine, table: sa.Table, *conditions: sa.ColumnElement[bool]) -> sa.Row[Any]:
    """The only row of a table that meets the conditions."""
    with reading(database) as connection:
        return connection.execute(sa.select(table).where(*conditions)).one()


def clock_was_ahead(database: sa.Engine, days: int = 1, minutes: int = 0) -> None:
    """Everything in the database was written by a clock so far ahead of the one of now."""
    minutes += days * 24 * 60
    sqlite = database.dialect.name == "sqlite"
    with writing(database) as connection:
        for table in metadata.sorted_tables:
            for column in table.c:
                if isinstance(column.type, UtcDateTime):
                    moved = (
                        f"strftime('%Y-%m-%dT%H:%M:%fZ', {column.name}, '{minutes} minutes')"
                        if sqlite
                        else f"{column.name} + interval '{minutes} minutes'"
                    )
                    connection.exec_driver_sql(
                        f"UPDATE {table.name} SET {column.name} = {moved} "
                        f"WHERE {column.name} IS NOT NULL"
                    )


def meanwhile(
    database: sa.Engine, first: Callable[[sa.Connection], object], second: Callable[[], T]
) -> T | BaseException:
    """Do `second` in a thread while `first` is done but not committed: what it returned or raised.

    It must wait for `first`.
    """
    with ThreadPoolExecutor(1) as pool:
        with writing(database) as connection:
            first(connection)
            future = pool.submit(second)
            wait([future], timeout=0.3)
            assert not future.done(), "it did not wait"
        return future.exception() or future.result()


def together(*works: Callable[[], T]) -> list[T | BaseException]:
    """Run each in a thread of its own, begun at the same instant: what it returned or raised."""
    barrier = threading.Barrier(len(works))

    def run(work: Callable[[], T]) -> T:
        barrier.wait(timeout=30)
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        futures = [pool.submit(run, work) for work in works]
        return [f.exception() or f.result() for f in futures]
