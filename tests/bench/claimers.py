"""Commits a second of eight workers that claim from PostgreSQL: one key, five keys, a thousand.

Shards of eight films, so that claims and commits are all there is to do. In turns, so that all have
the same machine.

python -m tests.bench.claimers [--quick]
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from db.base import database, migrate, partitions
from db.base.database import write
from db.base.schema import metadata
from db.base.types import now
from db.queue import results
from db.registry import models
from db.work import claims
from tests.bench.parts import report
from tests.bench.parts.site import DURABLE
from tests.db import given
from tests.support import servers

#: Workers, and films of a shard.
WORKERS, FILMS = 8, 8

#: Five keys lose no more of the commits that one key has.
KEPT = 0.9

#: Shards that wait: more than are done in a round.
SHARDS = 12_000


def prepare(engine: sa.Engine, keys: int) -> None:
    """Jobs of so many keys, and nothing else."""

    def work(connection: sa.Connection) -> None:
        tables = metadata.tables
        for name in ("predictions", "rollups", "shard_listings", "shards", "sources", "job_events"):
            connection.execute(sa.delete(tables[name]))
        connection.execute(sa.delete(tables["jobs"]))
        numbers = range(1, keys + 1)
        for job_id in (1, keys):
            partitions.ensure(connection, job_id)
        connection.execute(
            sa.insert(tables["jobs"]).values(created_at=now(), planned_at=now()),
            [
                {"id": n, "kind": "score", "state": "running", "spec": {}, "model_id": 1,
                 "submitted_by": f"key{n}@host", "share": f"key{n}", "precision": "fp32"}
                for n in numbers
            ],
        )  # fmt: skip
        connection.execute(
            sa.insert(tables["sources"]),
            [{"job_id": n, "source_no": 0, "uri": "/x", "kind": "zip", "fingerprint": "1"}
             for n in numbers],
        )  # fmt: skip
        rows = [(n, s) for n in numbers for s in range(SHARDS // keys)]
        connection.execute(
            sa.insert(tables["shards"]),
            [{"job_id": n, "shard_no": s, "source_no": 0, "first_item": s * FILMS,
              "n_items": FILMS, "state": "ready"} for n, s in rows],
        )  # fmt: skip
        connection.execute(
            sa.insert(tables["shard_listings"]),
            [{"job_id": n, "shard_no": s, "listing": b"x" * 500} for n, s in rows],
        )

    write(engine, work)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE")


def work(url: str, name: str, seconds: float, start: Any, done: Any) -> None:
    """One worker: claim, commit, and so on for so long; how many it committed goes into `done`."""
    engine = database.connect(url)
    engine.connect().close()
    start.wait()
    ends_at, count = time.monotonic() + seconds, 0
    while time.monotonic() < ends_at:
        shard = write(engine, lambda c: claims.claim_best(c, name, given.LEASE_S, planning=True))
        assert not isinstance(shard, claims.Claimed | None)
        outcomes = given.outcomes(shard)
        write(engine, lambda c, s=shard, o=outcomes: results.commit(c, s, o, seconds=1.0))  # type: ignore[misc]
        count += 1
    engine.dispose()
    done.put(count)


def commits(url: str, keys: int, seconds: float) -> float:
    """Commits a second of all of them."""
    engine = database.connect(url)
    prepare(engine, keys)
    engine.dispose()
    spawn = multiprocessing.get_context("spawn")
    # All are there before the first begins.
    start, done = spawn.Barrier(WORKERS), spawn.Queue()
    workers = [
        spawn.Process(target=work, args=(url, f"w{n}", seconds, start, done))
        for n in range(WORKERS)
    ]
    for worker in workers:
        worker.start()
    total = sum(done.get() for _ in workers)
    for worker in workers:
        worker.join()
    return total / seconds


def main() -> int:
    """Run from the command line; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    quick = parser.parse_args().quick
    rounds, seconds = (2, 4.0) if quick else (5, 10.0)
    met = report.Claims()
    took: dict[int, list[float]] = {1: [], 5: [], 1000: []}
    with ExitStack() as stack:
        cluster = stack.enter_context(servers.postgres(options=DURABLE))
        url = stack.enter_context(cluster.database())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        engine = database.connect(url)
        migrate.upgrade(engine)
        write(engine, lambda c: models.register(c, given.model(folder, "first"), "bench"))
        engine.dispose()
        for _ in range(rounds):
            for keys, found in took.items():
                found.append(commits(url, keys, seconds))
    middle = {keys: statistics.median(found) for keys, found in took.items()}
    report.table(
        ("keys", "commits/s", "least", "most"),
        [(str(keys), middle[keys], min(found), max(found)) for keys, found in took.items()],
    )
    share = middle[5] / middle[1]
    met.check(share >= KEPT, f"five keys have {KEPT:.0%} of the commits of one", f"{share:.0%}")
    return met.end()


if __name__ == "__main__":
    sys.exit(main())
