"""Questions in SQL about years of scoring, beside plain reads of as many rows in the same run.

    python -m tests.bench.questions [--share 0.1] [--sqlite FILE] [--postgresql URL] [--plans]
                                    [--before FOLDER]

Without a file or URL the large database (`tests.db.large`) is made with the schema of before, sized
and upgraded, and its shards are added to the sums; one that is given is upgraded, and its shards
are added. `--plans` prints how each question is answered. `--before` is a checkout of the release
before: outcomes are then written by both, in turns, and the time is that of this process.

Claims: over one job or day 5 x an indexed read of as many rows; over the archive no scan of a table
of jobs' rows; disagreements of two jobs 3 x the plain join; the database grows by 15 %; writing is
10 % slower at most, adding up included.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa
from alembic.script import ScriptDirectory

from db.base import database, migrate
from db.work import totals
from tests.bench.parts import report
from tests.bench.rows import bytes_of
from tests.db import large
from tests.support import servers
from tests.support.paths import ROOT

#: The revision that brought the sums.
REVISION = "0014"

#: Each question is asked so often, after once to warm up; the fastest counts.
TIMES = 5

#: Rounds of writing with either release.
ROUNDS = 5

READ, JOIN, GROWTH, SLOWER = 5.0, 3.0, 0.15, 0.10

#: Tables that hold rows of jobs, of which a question over all must scan none.
OF_JOBS = ("predictions", "shards", "rollups", "films", "identities", "refusals", "item_errors")


class Question(NamedTuple):
    """A question, and what it is measured against."""

    name: str
    sql: str
    #: Reads as many rows by an index, or joins them.
    plain: str
    most: float


def questions(connection: sa.Connection) -> list[Question]:
    """What is asked of this database."""
    last = int(connection.exec_driver_sql("SELECT MAX(id) FROM jobs").scalar_one())
    a, b, small = last - 1, last, last // 2 // 10 * 10 + 2
    day = connection.exec_driver_sql("SELECT MAX(day) FROM day_totals").scalar_one()
    day = connection.exec_driver_sql(
        f"SELECT MAX(day) FROM day_totals WHERE day < '{day[:7]}-01'"
    ).scalar_one()
    source = connection.exec_driver_sql(
        f"SELECT uri FROM sources WHERE job_id = {small}"
    ).scalar_one()
    films = connection.exec_driver_sql(
        f"SELECT COUNT(*) FROM predictions WHERE job_id = {a}"
    ).scalar_one()
    span = f"scored_at >= '{day}' AND scored_at < '{day}T24:00:00.000Z'"
    if connection.dialect.name == "postgresql":
        midnight = f"timestamptz '{day} 00:00+00'"
        span = f"scored_at >= {midnight} AND scored_at < {midnight} + interval '1 day'"
    of_day = connection.exec_driver_sql(
        f"SELECT COUNT(*), MIN(job_id), MAX(job_id) FROM v_predictions WHERE {span}"
    ).one()

    def rows(number: int) -> str:
        return f"SELECT * FROM predictions WHERE job_id = {a} AND item_no < {number}"

    plain_join = (
        "SELECT a.item_no, b.item_no, a.probability, b.probability FROM predictions a "
        "CROSS JOIN (SELECT item_no, name, probability, label_no FROM predictions "
        f"WHERE job_id = {b} LIMIT {films}) AS b "
        f"WHERE b.name = a.name AND a.label_no <> b.label_no AND a.job_id = {a}"
    )

    return [
        Question("all films of a large job", f"SELECT * FROM v_predictions WHERE job_id = {a}",
                 rows(films), READ),
        Question("classes of a large job",
                 f"SELECT label, COUNT(*), AVG(probability) FROM v_predictions WHERE job_id = {a} "
                 "GROUP BY label", rows(films), READ),
        Question("films of a small job", f"SELECT * FROM v_predictions WHERE job_id = {small}",
                 f"SELECT * FROM predictions WHERE job_id = {small}", READ),
        Question("studies of a small job", f"SELECT * FROM v_studies WHERE job_id = {small + 1}",
                 f"SELECT * FROM predictions WHERE job_id = {small + 1}", READ),
        Question("films of a day", f"SELECT * FROM v_predictions WHERE {span}",
                 f"SELECT * FROM predictions WHERE job_id BETWEEN {of_day[1]} AND {of_day[2]}",
                 READ),
        Question("classes of a day",
                 f"SELECT label, COUNT(*) FROM v_predictions WHERE {span} GROUP BY label",
                 f"SELECT * FROM predictions WHERE job_id BETWEEN {of_day[1]} AND {of_day[2]}",
                 READ),
        Question("scores of a day", f"SELECT * FROM v_daily_scores WHERE day = '{day}'",
                 rows(50), READ),
        Question("throughput of a day", f"SELECT * FROM v_throughput WHERE day = '{day}'",
                 rows(50), READ),
        Question("latest predictions of a source",
                 f"SELECT * FROM v_latest_prediction WHERE source = '{source}'",
                 f"SELECT * FROM predictions WHERE job_id = {small}", READ),
        Question("completeness of a source",
                 f"SELECT * FROM v_completeness WHERE source = '{source}'",
                 f"SELECT * FROM predictions WHERE job_id = {small}", READ),
        Question("scores of all days", "SELECT * FROM v_daily_scores", "", 0),
        Question("scores by month",
                 "SELECT substr(day, 1, 7), SUM(predictions), SUM(positives) FROM v_daily_scores "
                 "GROUP BY substr(day, 1, 7)", "", 0),
        Question("throughput of all machines",
                 "SELECT host, SUM(items), SUM(seconds) FROM v_throughput GROUP BY host", "", 0),
        Question("leaderboard", "SELECT * FROM v_model_leaderboard", "", 0),
        Question("sources that lack something",
                 "SELECT * FROM v_completeness WHERE missing > 0 OR failed > 0", "", 0),
        Question("disagreements of two jobs",
                 f"SELECT * FROM v_disagreements WHERE job_a = {a} AND job_b = {b}",
                 plain_join, JOIN),
    ]  # fmt: skip


def fastest(connection: sa.Connection, statement: str) -> tuple[float, int]:
    """Milliseconds until all rows are here, and how many they are."""
    count = len(connection.exec_driver_sql(statement).all())
    taken = []
    for _ in range(TIMES):
        began = time.perf_counter()
        connection.exec_driver_sql(statement).all()
        taken.append(1000 * (time.perf_counter() - began))
    return min(taken), count


def plan(connection: sa.Connection, statement: str) -> list[str]:
    """How the database answers a statement, a line each."""
    if connection.dialect.name == "postgresql":
        return list(connection.exec_driver_sql(f"EXPLAIN (COSTS OFF) {statement}").scalars())
    return [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}")]


def scans(lines: Sequence[str]) -> list[str]:
    """Lines of a plan that read a whole table of jobs' rows."""
    found = []
    for line in lines:
        # SQLite calls tables by their aliases; its scans by an index of few rows are no such reads.
        sqlite = re.match(r"SCAN (\w+)$", line)
        postgresql = re.search(r"Seq Scan on (\w+?)(_p\d+)?( |$)", line)
        name = (sqlite or postgresql or [None, ""])[1]
        if name in OF_JOBS or (sqlite and name in ("p", "h", "r", "f", "i")):
            found.append(line.strip())
    return found


def ask(kind: str, engine: sa.Engine, claims: report.Claims, *, plans: bool) -> None:
    """Ask everything, print a table, and check the claims."""
    table = []
    with database.reading(engine) as connection:
        if engine.dialect.name == "postgresql":
            # As `pneumoq query` does.
            connection.exec_driver_sql("SET LOCAL jit TO off")
            connection.exec_driver_sql("SET LOCAL max_parallel_workers_per_gather TO 0")
        for q in questions(connection):
            taken, count = fastest(connection, q.sql)
            lines = plan(connection, q.sql)
            scanned = scans(lines)
            ratio: float | str = ""
            plain: float | str = ""
            if q.plain:
                plain, _ = fastest(connection, q.plain)
                ratio = taken / plain
                claims.check(ratio <= q.most, f"{kind}: {q.name}, {q.most:g} x", f"{ratio:.2f} x")
            claims.check(not scanned, f"{kind}: {q.name}, no scan", "; ".join(scanned) or "none")
            table.append((q.name, count, taken, plain, ratio))
            if plans:
                print(f"-- {q.name}\n   {q.sql}", *(f"   {line}" for line in lines), sep="\n")
    report.table((kind, "rows", "ms", "plain ms", "ratio"), table)


def made(engine: sa.Engine, share: float, claims: report.Claims, kind: str) -> None:
    """Make the large database as it was before, and bring it up to date."""
    scripts = ScriptDirectory(str(migrate.config(engine).get_main_option("script_location")))
    before = str(scripts.get_revision(REVISION).down_revision)
    migrate.upgrade(engine, before)
    with tempfile.TemporaryDirectory() as folder:
        large.fill(engine, Path(folder), large.SIZE.of(share) if share != 1 else large.SIZE)
    was = bytes_of(engine)
    upgraded(engine)
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")
    with database.reading(engine) as connection:
        count = connection.exec_driver_sql("SELECT COUNT(*) FROM predictions").scalar_one()
    now = bytes_of(engine)
    claims.check(
        now <= was * (1 + GROWTH), f"{kind}: bytes per prediction, {GROWTH:.0%} more",
        f"{was / count:.1f} before, {now / count:.1f} after",
    )  # fmt: skip


def upgraded(engine: sa.Engine) -> None:
    """Bring a database up to date, its sums too."""
    migrate.upgrade(engine)
    began, cpu = time.monotonic(), time.process_time()
    shards = totals.add_all(engine)
    print(
        f"{shards:,} shards added to the sums in {time.monotonic() - began:.0f} s, "
        f"{time.process_time() - cpu:.0f} s of this process's time"
    )


#: Writes one job and adds it up, again and again, in the release that runs it: seconds per film.
WRITER = """
import json, sys, time
from pathlib import Path
import sqlalchemy as sa
from db.base import database, migrate
from scheduler.measure import stages
from tests.scheduler import rows
try:
    from db.work import totals
except ImportError:
    totals = None
engine = database.connect(sys.argv[1])
migrate.upgrade(engine)
model = rows.a_model(engine, Path(sys.argv[2]))
writing = stages.Writing(engine, model, "fp32", "patient0001/film")
writing.run()
for line in sys.stdin:
    cpu, began = time.process_time(), time.perf_counter()
    commits = writing.run()
    wrote = time.perf_counter() - began
    if totals is not None:
        totals.PAUSE = 0.0
        totals.add_all(engine)
    films = stages.WRITE_SHARDS * stages.WRITE_FILMS
    print(json.dumps([1e6 * x / films for x in (
        time.process_time() - cpu, commits, time.perf_counter() - began)]), flush=True)
"""


@contextmanager
def writer(tree: Path, url: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process of a release that writes a job whenever it reads a line."""
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, url, str(folder)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(tree)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def write(kind: str, urls: Sequence[str], before: Path, claims: report.Claims) -> None:
    """Write with both releases in turns: microseconds per film."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        both = [
            stack.enter_context(writer(tree, url, folder / str(n)))
            for n, (tree, url) in enumerate(zip((before, ROOT), urls, strict=True))
        ]
        taken: list[list[list[float]]] = [[], []]
        for _ in range(ROUNDS):
            for process, found in zip(both, taken, strict=True):
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write("\n")
                process.stdin.flush()
                found.append(json.loads(process.stdout.readline()))
    old, new = ([statistics.median(one[n] for one in found) for n in range(3)] for found in taken)
    report.table(
        (f"{kind}, µs per film", "process", "commits", "all, adding up too"),
        [("before", *old), ("now", *new)],
    )
    for n, what in enumerate(("process time, adding up included", "commits", "wall, all")):
        claims.check(
            new[n] <= old[n] * (1 + SLOWER), f"{kind}: {what}, {SLOWER:.0%} more",
            f"{old[n]:.2f} -> {new[n]:.2f} µs, {new[n] / old[n] - 1:+.1%}",
        )  # fmt: skip


def main() -> int:
    """Run from the command line; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--share", type=float, default=0.1, help="of the large database")
    parser.add_argument("--quick", action="store_true", help="a hundredth of it")
    parser.add_argument("--sqlite", type=Path, help="a file that is there already")
    parser.add_argument("--postgresql", help="URL of a database that is there already")
    parser.add_argument("--plans", action="store_true", help="print how questions are answered")
    parser.add_argument("--before", type=Path, help="checkout of the release before")
    asked = parser.parse_args()
    share = 0.01 if asked.quick else asked.share
    claims = report.Claims()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cluster = None
        try:
            cluster = stack.enter_context(servers.postgres())
        except servers.NotInstalled as error:
            print(error)
        for kind, given in (("sqlite", asked.sqlite), ("postgresql", asked.postgresql)):
            if kind == "postgresql" and cluster is None:
                continue

            def fresh(name: str, kind: str = kind) -> str:
                if kind == "sqlite":
                    return f"sqlite:///{folder}/{name}.db"
                assert cluster is not None
                return str(stack.enter_context(cluster.database()))

            if asked.before is not None:
                write(kind, [fresh("before"), fresh("now")], asked.before.resolve(), claims)
            url = fresh("large") if given is None else str(given)
            engine = database.connect(url if "://" in url else f"sqlite:///{url}")
            if given is None:
                made(engine, share, claims, kind)
            else:
                upgraded(engine)
            ask(kind, engine, claims, plans=asked.plans)
            engine.dispose()
    return claims.end()


if __name__ == "__main__":
    sys.exit(main())
