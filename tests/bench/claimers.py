"""Commits a second of eight workers that claim from PostgreSQL: one key, five keys, a thousand.

Shards of eight films, so that claims and commits are all there is to do. In turns, so that all have
the same machine.

python -m tests.bench.claimers [--quick] [--before FOLDER]

With a checkout of the release before, its workers take turns with today's, each in a database of
its own, and figures are of the same rounds; that release knows no keys and takes the oldest job.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa

from db.base import database, partitions
from db.base.database import write
from db.base.schema import metadata
from db.base.types import now
from tests.bench.parts import beside, report
from tests.bench.parts.site import DURABLE
from tests.support import servers
from tests.support.paths import ROOT

#: Workers, and films of a shard.
WORKERS, FILMS = 8, 8

#: Five keys lose no more of the commits that one key has, nor today's workers of those before.
KEPT = 0.9

#: Shards that wait: more than are done in a round.
SHARDS = 3_000

#: Tables that are empty before a round, in this order.
EMPTIED = (
    "predictions", "rollups", "shard_totals", "shard_listings", "shards", "sources", "job_events",
    "jobs",
)  # fmt: skip

#: Makes a database's schema, and one model.
SCHEMA = """
import sys
from pathlib import Path
from db.base import database, migrate
from db.registry import models
from tests.db import given
engine = database.connect(sys.argv[1])
migrate.upgrade(engine)
database.write(engine, lambda c: models.register(c, given.model(Path.cwd(), "first"), "bench"))
print("made", flush=True)
"""

#: One worker. Reads for how many seconds it claims and commits; prints how many it committed, and
#: its processor seconds.
WORKER = """
import inspect, json, sys, time
from db.base import database
from db.base.database import write
from db.queue import results
from db.work import claims
from tests.db import given
engine = database.connect(sys.argv[1])
engine.connect().close()
told = {"seconds": 1.0} if "seconds" in inspect.signature(results.commit).parameters else {}
def claim(c):
    return claims.claim_best(c, sys.argv[2], given.LEASE_S, planning=True)
for line in sys.stdin:
    ends_at, cpu, count = time.monotonic() + float(line), time.process_time(), 0
    while time.monotonic() < ends_at:
        shard = write(engine, claim)
        outcomes = given.outcomes(shard)
        write(engine, lambda c: results.commit(c, shard, outcomes, **told))
        count += 1
    print(json.dumps([count, time.process_time() - cpu]), flush=True)
"""


class Release(NamedTuple):
    """Workers of a release, and what they work on."""

    engine: sa.Engine
    workers: list[beside.Child]


class Round(NamedTuple):
    """What they got done."""

    #: Commits a second of all of them.
    commits: float
    #: Processor time of workers and server, in milliseconds per claim and commit.
    cpu_ms: float


def prepare(engine: sa.Engine, keys: int, shards: int) -> None:
    """Jobs of so many keys and so many shards, and nothing else."""
    inspector = sa.inspect(engine)
    known = set(inspector.get_table_names())
    of_jobs = {column["name"] for column in inspector.get_columns("jobs")}

    def work(connection: sa.Connection) -> None:
        tables = metadata.tables
        for name in EMPTIED:
            if name in known:
                connection.execute(sa.delete(tables[name]))
        numbers = range(1, keys + 1)
        for job_id in (1, keys):
            partitions.ensure(connection, job_id)
        jobs = [
            {"id": n, "kind": "score", "state": "running", "spec": {}, "model_id": 1,
             "submitted_by": f"key{n}@host", "share": f"key{n}", "precision": "fp32"}
            for n in numbers
        ]  # fmt: skip
        connection.execute(
            sa.insert(tables["jobs"]).values(created_at=now(), planned_at=now()),
            [{k: v for k, v in job.items() if k in of_jobs} for job in jobs],
        )
        connection.execute(
            sa.insert(tables["sources"]),
            [{"job_id": n, "source_no": 0, "uri": "/x", "kind": "zip", "fingerprint": "1"}
             for n in numbers],
        )  # fmt: skip
        rows = [(n, s) for n in numbers for s in range(shards // keys)]
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


@contextmanager
def release(tree: Path, cluster: servers.Postgres, folder: Path) -> Iterator[Release]:
    """Eight workers of a checkout on a database that it has made."""
    with ExitStack() as stack:
        url = stack.enter_context(cluster.database())
        folder.mkdir()
        with beside.process(tree, SCHEMA, url, folder=folder / "schema") as child:
            beside.answer(child)
        engine = database.connect(url)
        stack.callback(engine.dispose)
        yield Release(
            engine,
            [
                stack.enter_context(
                    beside.process(tree, WORKER, url, f"w{n}", folder=folder / str(n))
                )
                for n in range(WORKERS)
            ],
        )


def measure(of: Release, keys: int, shards: int, seconds: float, server: int | None) -> Round:
    """One round."""
    prepare(of.engine, keys, shards)
    before = beside.cpu_s(server)
    for worker in of.workers:
        beside.tell(worker, str(seconds))
    found = [json.loads(beside.answer(worker)) for worker in of.workers]
    count = sum(n for n, _ in found)
    cpu_s = sum(s for _, s in found) + beside.cpu_s(server) - before
    return Round(count / seconds, 1000 * cpu_s / count)


def compare(name: str, before: Sequence[Round], today: Sequence[Round], met: report.Claims) -> None:
    """What today's workers have of the commits of those before, in the same rounds."""
    commits = beside.paired([r.commits for r in before], [r.commits for r in today])
    cpu = beside.paired([r.cpu_ms for r in before], [r.cpu_ms for r in today])
    met.check(commits.middle >= KEPT, f"{name}: {KEPT:.0%} of the commits/s before", f"{commits}")
    met.check(
        cpu.middle <= 1 / KEPT, f"{name}: processor time a commit, {1 / KEPT:.2f} x", f"{cpu}"
    )


def main() -> int:
    """Run from the command line; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="shorter rounds")
    parser.add_argument("--before", type=Path, help="checkout of the release before")
    asked = parser.parse_args()
    rounds, seconds, shards = (10, 2.0, 1000) if asked.quick else (10, 5.0, SHARDS)
    met = report.Claims()
    measured: dict[tuple[str, int], list[Round]] = {
        ("now", keys): [] for keys in ((1, 5) if asked.before else (1, 5, 1000))
    }
    if asked.before:
        measured |= {("before", keys): [] for keys in (1, 5)}
    with ExitStack() as stack:
        cluster = stack.enter_context(servers.postgres(options=DURABLE))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        trees = {"now": ROOT} | ({"before": asked.before.resolve()} if asked.before else {})
        releases = {
            name: stack.enter_context(release(tree, cluster, folder / name))
            for name, tree in trees.items()
        }
        for number in range(rounds):
            # Each comes first in every second round.
            for name, keys in sorted(measured, key=lambda k: (k[1], k[0]), reverse=number % 2 == 1):
                found = measure(releases[name], keys, shards, seconds, cluster.pid)
                measured[name, keys].append(found)
    report.table(
        ("release, keys", "commits/s", "least", "most", "CPU ms a commit"),
        [
            (f"{name} {keys}", statistics.median(r.commits for r in found),
             min(r.commits for r in found), max(r.commits for r in found),
             statistics.median(r.cpu_ms for r in found))
            for (name, keys), found in measured.items()
        ],
    )  # fmt: skip
    share = beside.paired(*([r.commits for r in measured["now", keys]] for keys in (1, 5)))
    met.check(share.middle >= KEPT, f"five keys: {KEPT:.0%} of the commits of one", f"{share}")
    if asked.before:
        for keys in (1, 5):
            compare(f"{keys} keys", measured["before", keys], measured["now", keys], met)
    return met.end()


if __name__ == "__main__":
    sys.exit(main())
