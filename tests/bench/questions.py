"""Questions in SQL about years of scoring, beside plain reads of as many rows in the same run.

    python -m tests.bench.questions [--share 0.1] [--sqlite FILE] [--postgresql URL] [--plans]
                                    [--before FOLDER [--writing]] [--database sqlite|postgresql]

Without a file or URL the large database (`tests.db.large`) is made with the schema of before, sized
and upgraded, and its shards are added to the sums; one that is given is upgraded, and its shards
are added. `--plans` prints how each question is answered. `--before` is a checkout of the release
before: outcomes are then written by both, in turns, and figures are of the same rounds; processor
seconds are those of the writer and of the server.

Claims: over one job or day 5 x an indexed read of as many rows; no scan of a table that holds other
jobs' rows; disagreements of two jobs 3 x the plain join; the database grows by 15 %; writing is
10 % slower at most, adding up included.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa
from alembic.script import ScriptDirectory

from db.base import database, migrate
from db.work import totals
from tests.bench.parts import beside, report
from tests.bench.rows import bytes_of
from tests.db import large
from tests.support import servers
from tests.support.paths import ROOT

#: The revision that brought the sums.
REVISION = "0014"

#: Each question is asked so often, after once to warm up; the fastest counts.
TIMES = 5

#: Rounds of writing with either release.
ROUNDS = 12

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
    """Milliseconds of processor time until all rows are here, and how many they are.

    Of this process and of the one that serves it; what others do on the machine counts little.
    """
    server = None
    if connection.dialect.name == "postgresql":
        server = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    count = len(connection.exec_driver_sql(statement).all())
    taken = []
    for _ in range(TIMES):
        began = time.process_time() + beside.on_cpu_s(server)
        connection.exec_driver_sql(statement).all()
        taken.append(1000 * (time.process_time() + beside.on_cpu_s(server) - began))
    return min(taken), count


def plan(connection: sa.Connection, statement: str) -> list[str]:
    """How the database answers a statement, a line each."""
    if connection.dialect.name == "postgresql":
        return list(connection.exec_driver_sql(f"EXPLAIN (COSTS OFF) {statement}").scalars())
    return [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}")]


def planning(connection: sa.Connection, statement: str) -> float | str:
    """Milliseconds that PostgreSQL plans a statement, however many rows there are."""
    if connection.dialect.name != "postgresql":
        return ""
    lines = connection.exec_driver_sql(f"EXPLAIN (COSTS OFF, SUMMARY) {statement}").scalars().all()
    return float(re.findall(r"Planning Time: ([\d.]+) ms", "\n".join(lines))[0])


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


def of_many_jobs(connection: sa.Connection, line: str) -> bool:
    """Whether what a line of a plan reads as a whole has rows of more than one job.

    The last job is alone in its partition: to read all of that is to read the job.
    """
    partition = re.search(r"Seq Scan on (\w+_p\d+)", line)
    if partition is None:
        return True
    jobs = f"SELECT COUNT(*) FROM (SELECT DISTINCT job_id FROM {partition[1]}) AS jobs"
    return int(connection.exec_driver_sql(jobs).scalar_one()) > 1


def ask(kind: str, engine: sa.Engine, claims: report.Claims, *, plans: bool) -> None:
    """Ask everything, print a table, and check the claims."""
    table = []
    with database.reading(engine) as connection:
        if engine.dialect.name == "postgresql":
            # As `pneumoq query` does.
            connection.exec_driver_sql("SET LOCAL jit TO off")
            connection.exec_driver_sql("SET LOCAL max_parallel_workers_per_gather TO 0")
            connection.exec_driver_sql("SET LOCAL random_page_cost TO 1.1")
        for q in questions(connection):
            taken, count = fastest(connection, q.sql)
            lines = plan(connection, q.sql)
            scanned = [line for line in scans(lines) if of_many_jobs(connection, line)]
            ratio: float | str = ""
            plain: float | str = ""
            if q.plain:
                plain, _ = fastest(connection, q.plain)
                ratio = taken / plain
                claims.check(ratio <= q.most, f"{kind}: {q.name}, {q.most:g} x", f"{ratio:.2f} x")
            claims.check(not scanned, f"{kind}: {q.name}, no scan", "; ".join(scanned) or "none")
            table.append((q.name, count, taken, planning(connection, q.sql), plain, ratio))
            if plans:
                print(f"-- {q.name}\n   {q.sql}", *(f"   {line}" for line in lines), sep="\n")
    report.table((kind, "rows", "ms", "of it planning", "plain ms", "ratio"), table)


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


#: Writes one job and adds it up whenever it reads a line: its processor seconds, those of the
#: commits on the clock, and those of all of it.
WRITER = """
import json, sys, time
from pathlib import Path
from db.base import database, migrate
from scheduler.measure import stages
from tests.scheduler import rows
try:
    from db.work import totals
except ImportError:
    totals = None
engine = database.connect(sys.argv[1])
migrate.upgrade(engine)
model = rows.a_model(engine, Path.cwd())
writing = stages.Writing(engine, model, "fp32", "patient0001/film")
writing.run()
print(stages.WRITE_SHARDS * stages.WRITE_FILMS, flush=True)
for line in sys.stdin:
    cpu, began = time.process_time(), time.perf_counter()
    commits = writing.run()
    if totals is not None:
        totals.PAUSE = 0.0
        totals.add_all(engine)
    print(json.dumps([time.process_time() - cpu, commits, time.perf_counter() - began]), flush=True)
"""


def write(
    kind: str, urls: Sequence[str], before: Path, server: int | None, claims: report.Claims
) -> None:
    """Write with both releases in turns; `server` is the process whose children serve them."""
    names = ("CPU s", "commits, s", "all, s")
    taken: list[list[list[float]]] = [[], []]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        both = [
            stack.enter_context(beside.process(tree, WRITER, url, folder=folder / str(n)))
            for n, (tree, url) in enumerate(zip((before, ROOT), urls, strict=True))
        ]
        films = [int(beside.answer(child)) for child in both].pop()
        for number in range(ROUNDS):
            # Each goes first in every second round.
            for which in ((0, 1), (1, 0))[number % 2]:
                cpu_s = beside.cpu_s(server)
                beside.tell(both[which])
                found = json.loads(beside.answer(both[which]))
                found[0] += beside.cpu_s(server) - cpu_s
                taken[which].append(found)
    middle = [[statistics.median(one[n] for one in each) for n in range(3)] for each in taken]
    report.table(
        (f"{kind}, {ROUNDS} rounds", *names, "rows/s", "rows per CPU s"),
        [
            (name, *found, films / found[2], films / found[0])
            for name, found in zip(("before", "now"), middle, strict=True)
        ],
    )
    least = [min(one[0] for one in each) for each in taken]
    print(f"fewest CPU s in a round: {least[0]:.3f} before, {least[1]:.3f} now\n")
    for n, name in enumerate(names):
        ratio = beside.paired(*([one[n] for one in each] for each in taken))
        claims.check(
            ratio.middle <= 1 + SLOWER, f"{kind}: writing, {name}, {SLOWER:.0%} more", f"{ratio}"
        )
    rows = beside.paired(*([films / one[2] for one in each] for each in taken))
    claims.check(
        rows.middle >= 1 - SLOWER, f"{kind}: writing, rows/s, {SLOWER:.0%} fewer", f"{rows}"
    )
    was, now = (bytes_each(url) for url in urls)
    claims.check(
        now <= was * (1 + GROWTH), f"{kind}: bytes per prediction written, {GROWTH:.0%} more",
        f"{was:.1f} before, {now:.1f} now",
    )  # fmt: skip


def bytes_each(url: str) -> float:
    """Bytes of a database per prediction in it."""
    engine = database.connect(url)
    with database.reading(engine) as connection:
        count = connection.exec_driver_sql("SELECT COUNT(*) FROM predictions").scalar_one()
    found = bytes_of(engine) / count
    engine.dispose()
    return found


def main() -> int:
    """Run from the command line; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--share", type=float, default=0.1, help="of the large database")
    parser.add_argument("--quick", action="store_true", help="a hundredth of it")
    parser.add_argument("--sqlite", type=Path, help="a file that is there already")
    parser.add_argument("--postgresql", help="URL of such a database, on this machine")
    parser.add_argument("--plans", action="store_true", help="print how questions are answered")
    parser.add_argument("--before", type=Path, help="checkout of the release before")
    parser.add_argument("--writing", action="store_true", help="with --before: nothing but that")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], help="only this one")
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
            if (kind == "postgresql" and cluster is None) or asked.database not in (None, kind):
                continue

            def fresh(name: str, kind: str = kind) -> str:
                if kind == "sqlite":
                    return f"sqlite:///{folder}/{name}.db"
                assert cluster is not None
                return str(stack.enter_context(cluster.database()))

            if asked.before is not None:
                server = None if kind == "sqlite" or cluster is None else cluster.pid
                urls = [fresh("before"), fresh("now")]
                write(kind, urls, asked.before.resolve(), server, claims)
            if asked.writing:
                continue
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
