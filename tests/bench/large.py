"""What workers and people ask, on a database of three years beside a fresh one.

On both databases: claims (with one and with a thousand keys that wait), sweeps, a look at a watched
folder, and commands whose answer is of the same size. The large one is made first, in minutes.

python -m tests.bench.large [--quick]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import sqlalchemy as sa
from click.testing import CliRunner

from db.base import database, migrate
from db.base.database import write
from db.base.schema import metadata
from db.base.types import now
from db.nightly import runs, watched
from db.work import claims, endings, patience
from scheduler.cli import cli
from tests.bench.parts import report
from tests.bench.parts.site import DURABLE
from tests.db import given, large
from tests.support import servers

#: On the large one nothing takes more than so many times as long.
TIMES = 3.0

#: The large one is made in so many seconds.
MAKE_S = 600.0

#: Keys that wait.
KEYS = 1000

#: Each is measured so often; the middle counts.
ROUNDS = 25

#: Commands are measured so often, and their first time is not counted.
COMMAND_ROUNDS = 5

#: Files in the folder that is looked at.
FILES = 100

COMMANDS = (
    "jobs ls",
    "jobs ls --open",
    "jobs ls --state failed",
    "jobs show 4",
    "jobs errors 11",
    "jobs events 4",
    "export 4 {home}/films.csv",
    "labels show 52",
    "models ls",
    "models show 2",
    "schedule ls",
    "schedule runs schedule-1",
    "notices ls",
    "shares ls",
    "doctor",
)
SQL = "SELECT label, count(*) FROM v_predictions WHERE job_id = 4 GROUP BY label"


def waiting(engine: sa.Engine, keys: int) -> int:
    """Jobs of so many keys that wait with shards; the first one's number."""
    first = int(scalar(engine, "SELECT COALESCE(MAX(id), 0) + 1 FROM jobs"))
    model = scalar(engine, "SELECT MIN(id) FROM models")
    shards = 2 + 4 * ROUNDS // keys

    def make(connection: sa.Connection) -> None:
        tables = metadata.tables
        numbers = range(first, first + keys)
        connection.execute(
            sa.insert(tables["jobs"]).values(created_at=now(), planned_at=now()),
            [
                {"id": n, "kind": "score", "state": "running", "spec": {}, "model_id": model,
                 "submitted_by": f"key{n}@host", "share": f"key{n}", "precision": "fp32"}
                for n in numbers
            ],
        )  # fmt: skip
        connection.execute(
            sa.insert(tables["sources"]),
            [{"job_id": n, "source_no": 0, "uri": "/x", "kind": "zip", "fingerprint": "1"}
             for n in numbers],
        )  # fmt: skip
        connection.execute(
            sa.insert(tables["shards"]),
            [{"job_id": n, "shard_no": s, "source_no": 0, "first_item": s, "n_items": 1,
              "state": "ready"} for n in numbers for s in range(shards)],
        )  # fmt: skip
        connection.execute(
            sa.insert(tables["shard_listings"]),
            [{"job_id": n, "shard_no": s, "listing": b"x" * 500}
             for n in numbers for s in range(shards)],
        )  # fmt: skip

    write(engine, make)
    analyze(engine)
    return first


def remove(engine: sa.Engine, first: int) -> None:
    """Take those jobs away again."""

    def gone(connection: sa.Connection) -> None:
        for name in ("shard_listings", "shards", "sources", "job_events"):
            table = metadata.tables[name]
            connection.execute(sa.delete(table).where(table.c.job_id >= first))
        table = metadata.tables["jobs"]
        connection.execute(sa.delete(table).where(table.c.id >= first))

    write(engine, gone)
    analyze(engine)


def analyze(engine: sa.Engine) -> None:
    """What autovacuum does a minute later."""
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for name in ("jobs", "shards", "sources"):
                connection.exec_driver_sql(f"VACUUM ANALYZE {name}")


def scalar(engine: sa.Engine, statement: str) -> int:
    with database.reading(engine) as connection:
        return int(connection.exec_driver_sql(statement).scalar_one())


def calls(engine: sa.Engine) -> dict[str, Callable[[], object]]:
    """What workers ask again and again, by name."""
    seen = [watched.Seen(f"/inbox/1/film-{n}.png", 100_000 + n, n) for n in range(FILES)]
    run_id = write(
        engine,
        lambda c: runs.begin(
            c, 1, c.execute(sa.select(now())).scalar_one(), "hand", "due", worker_id="w"
        ),
    )
    assert run_id is not None

    def look() -> None:
        watched.observe(engine, run_id, "w", 1, seen)
        watched.waiting(engine, 1)
        watched.unfinished(engine, 1)
        watched.taken_before(engine, 1, "f" * 64)

    def sweep() -> None:
        endings.waiting_to_close(engine)
        patience.waiting(engine)
        for queue in ("score", "train"):
            claims.anything_due(engine, queue)

    return {
        "claim": lambda: claim(engine),
        "claim a training": lambda: write(
            engine, lambda c: claims.claim_job(c, "train", "w", given.LEASE_S)
        ),
        "sweep": sweep,
        f"look at {FILES} files": look,
        "a watched job ends": lambda: write(engine, lambda c: watched.job_ended(c, 3, "completed")),
        "a watched job fails": lambda: write(engine, lambda c: watched.job_ended(c, 3, "failed")),
    }


def claim(engine: sa.Engine) -> None:
    """As a worker does that scores."""
    found = write(engine, lambda c: claims.claim_best(c, "w", given.LEASE_S, planning=True))
    if found is None:
        raise RuntimeError("nothing is due")


def command(url: str, home: Path, line: str) -> Callable[[], object]:
    """A command, run within this process."""
    words = ["query", SQL] if line == "query" else line.format(home=home).split()
    variables = {"PNEUMOQ_DATABASE_URL": url, "PNEUMOQ_HOME": str(home)}

    def run() -> None:
        (home / "films.csv").unlink(missing_ok=True)
        answer = CliRunner(env=variables).invoke(cli, words)
        if answer.exit_code not in (0, 1) or (answer.exit_code and line != "doctor"):
            raise RuntimeError(f"{line}: {answer.output}") from answer.exception

    return run


def beside(
    fresh: Callable[[], object], old: Callable[[], object], rounds: int
) -> tuple[float, float]:
    """Milliseconds that each takes, in the middle; in turns, so that both have the same machine."""
    took: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + 1):
        for call, times in zip((fresh, old), took, strict=True):
            began = time.perf_counter()
            call()
            times.append((time.perf_counter() - began) * 1000)
    return statistics.median(took[0][1:]), statistics.median(took[1][1:])


def compare(kind: str, urls: tuple[str, str], home: Path, met: report.Claims) -> None:
    """One database: a table, and the claims."""
    fresh, old = (database.connect(url) for url in urls)
    rows = []

    def one(name: str, pair: tuple[Callable[[], object], ...], rounds: int = ROUNDS) -> None:
        first, second = beside(pair[0], pair[1], rounds)
        rows.append([name, first, second, second / first])
        met.check(
            second <= TIMES * first,
            f"{kind}, {name}: at most {TIMES:g} times as long",
            f"{second / first:.2f}",
        )

    begun = [waiting(engine, 1) for engine in (fresh, old)]
    both = [calls(engine) for engine in (fresh, old)]
    for name in both[0]:
        one(name, tuple(found[name] for found in both))
    remove(old, begun[1])
    many = waiting(old, KEYS)
    one(f"claim, {KEYS} keys beside 1", tuple(found["claim"] for found in both))
    remove(old, many)
    remove(fresh, begun[0])
    for line in ("query", *COMMANDS):
        one(line, tuple(command(url, home, line) for url in urls), COMMAND_ROUNDS)
    report.table((kind, "fresh ms", "large ms", "times"), rows)
    fresh.dispose()
    old.dispose()


def make(kind: str, url: str, size: large.Size, folder: Path, met: report.Claims | None) -> None:
    """A database of this size; how long that took is a claim."""
    engine = database.connect(url)
    migrate.upgrade(engine)
    began = time.monotonic()
    large.fill(engine, folder, size)
    took = time.monotonic() - began
    engine.dispose()
    if met is not None:
        met.check(took <= MAKE_S, f"{kind}: made within {MAKE_S:.0f} s", f"{took:.0f} s")


def main() -> int:
    """Run from the command line; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a fiftieth of it")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], action="append")
    asked = parser.parse_args()
    size = large.SIZE.of(0.02) if asked.quick else large.SIZE
    kinds = asked.database or ["sqlite", "postgresql"]
    met = report.Claims()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pneumoq-large-")))
        urls = {"sqlite": (f"sqlite:///{folder}/fresh.db", f"sqlite:///{folder}/large.db")}
        if "postgresql" in kinds:
            cluster = stack.enter_context(servers.postgres(options=DURABLE))
            fresh, old = (stack.enter_context(cluster.database()) for _ in range(2))
            urls["postgresql"] = fresh, old
        for kind in kinds:
            make(kind, urls[kind][0], large.SIZE.of(0.001), folder, None)
            make(kind, urls[kind][1], size, folder, met)
            compare(kind, urls[kind], folder, met)
    return met.end()


if __name__ == "__main__":
    sys.exit(main())
