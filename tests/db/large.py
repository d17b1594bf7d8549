"""A database as three years leave it: 100,000 ended jobs, 10 million predictions, 50 models.

Made by SQL alone, in minutes, and of any size: `fill(engine, folder, SIZE.of(0.001))` takes a
second. Sums on shards and rollups are those of the rows they sum up. `python -m tests.db.large URL`
makes the large one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from db.base import database, migrate, partitions
from db.registry import models
from tests.db import given

#: Films of a job, in shards of half as many; of every tenth job two more, one of which is refused
#: and one of which is broken.
FILMS = 100
#: Films in a shard of the two archives.
SHARD = 500
#: Jobs in one transaction.
BATCH = 2000
#: The years that it took, in seconds.
SPAN_S = 3 * 365 * 86400
#: Folders that are watched; the first has nine of ten files.
FOLDERS = 5
#: Workers that were started in all that time.
WORKERS = 1000


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much there is of everything."""

    #: Every fiftieth is a training job. The last two, in this number, are archives, scored by two
    #: models.
    jobs: int
    #: Films of each of these two.
    archive: int
    #: Rows of watched files.
    watched: int
    #: A divisor of 50, so that the job 50 before another has the same model.
    models: int
    #: People who submit jobs.
    people: int

    def of(self, share: float) -> Size:
        """The same with so much less of it."""
        return Size(
            jobs=max(100, round(self.jobs * share)),
            archive=max(SHARD, round(self.archive * share)),
            watched=max(100, round(self.watched * share)),
            models=self.models if share >= 1 else 5,
            people=self.people,
        )


#: After three years.
SIZE = Size(jobs=100_000, archive=100_000, watched=1_000_000, models=50, people=8)


def fill(
    engine: sa.Engine,
    folder: Path,
    size: Size = SIZE,
    progress: Callable[[str], object] = lambda text: None,
) -> None:
    """Put all of it into a database that has today's schema and no rows.

    The models' files are made in `folder`; they hold no network.
    """
    if 50 % size.models:
        raise ValueError(f"{size.models} models: give a divisor of 50")
    for number in range(1, size.models + 1):
        new = given.model(folder, f"model-{number}", evaluations={"validation": {"n_films": 500}})
        database.write(engine, lambda c, n=new: models.register(c, n, "large"))  # type: ignore[misc]
    _Filling(engine, size, progress).run()


class _Filling:
    """SQL that both databases take, but for a few words."""

    def __init__(self, engine: sa.Engine, size: Size, progress: Callable[[str], object]) -> None:
        self._engine = engine
        self._size = size
        self._progress = progress
        self._sqlite = engine.dialect.name == "sqlite"
        #: The last of the ordinary jobs.
        self._ordinary = size.jobs - 2
        self._model = f"(1 + j.id % {size.models})"

    def run(self) -> None:
        with self._engine.connect() as connection:
            if self._sqlite:
                # Outside of any transaction; nobody needs it should the power fail meanwhile.
                raw: Any = connection.connection.driver_connection
                for setting in ("synchronous = OFF", "cache_size = -200000", "foreign_keys = OFF"):
                    raw.execute(f"PRAGMA {setting}")
            self._numbers(connection)
            self._once(connection)
            # What belongs to a job, job by job, so that each table grows at its end.
            for first in range(1, self._ordinary + 1, BATCH):
                last = min(first + BATCH - 1, self._ordinary)
                self._outcomes(connection, first, last, FILMS + 2, FILMS // 2 + 1)
                self._progress(f"{last:,} of {self._size.jobs:,} jobs")
            for job_id in (self._size.jobs - 1, self._size.jobs):
                self._outcomes(connection, job_id, job_id, self._size.archive, SHARD)
            self._tables_of_jobs(connection)
        if self._sqlite:
            self._engine.dispose()  # the settings go with the connection
            return
        # What autovacuum does within the day.
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")

    # Words that differ

    def _at(self, seconds: str) -> str:
        """The moment so many seconds, an expression, after it began: the last job is of now."""
        if self._sqlite:
            return (
                "strftime('%Y-%m-%dT%H:%M:%fZ', (SELECT began FROM large_numbers_began), "
                f"({seconds}) || ' seconds')"
            )
        return f"((SELECT began FROM large_numbers_began) + ({seconds}) * interval '1 second')"

    def _bytes(self, number: str) -> str:
        """Sixteen bytes that stand for a number."""
        if self._sqlite:
            return f"CAST(printf('%016d', {number}) AS BLOB)"
        return f"convert_to(lpad(({number})::text, 16, '0'), 'UTF8')"

    def _hash(self, number: str) -> str:
        """Thirty-two characters that stand for a number."""
        if self._sqlite:
            return f"printf('%032d', {number})"
        return f"lpad(({number})::text, 32, '0')"

    @property
    def _json(self) -> str:
        return "" if self._sqlite else "::jsonb"

    @property
    def _yes(self) -> str:
        return "1" if self._sqlite else "TRUE"

    @property
    def _no(self) -> str:
        return "0" if self._sqlite else "FALSE"

    # Pieces of SQL

    #: Where the films are that a job scores: its own number, or that of the job before it, which it
    #: scores again with another model, or that of the one 50 before it, which answers for them.
    _FILMS_OF = (
        "(CASE WHEN j.id % 10 = 5 THEN j.id - 1 WHEN j.id % 100 = 57 THEN j.id - 50 ELSE j.id END)"
    )

    @property
    def _film(self) -> str:
        """A film's number: of the two archives the same."""
        own = f"({self._FILMS_OF} * 1000 + n.n)"
        archive = f"({(self._size.jobs + 1) * 1000} + n.n)"
        return f"(CASE WHEN j.id > {self._ordinary} THEN {archive} ELSE {own} END)"

    @property
    def _chance(self) -> str:
        """From 0 to 1: by the film, and a little by the model."""
        return f"(({self._film} * 104729 + j.id % 50 * 811) % 100003 / 100003.0)"

    def _second(self, more: str = "0") -> str:
        """The moment of a job's submission, and so many seconds later."""
        return self._at(f"j.id * {SPAN_S / self._size.jobs:.3f} + {more}")

    def _execute(self, connection: sa.Connection, *statements: str) -> None:
        """All in one transaction."""
        for statement in statements:
            connection.exec_driver_sql(
                statement.replace("%", "%%") if not self._sqlite else statement
            )
        connection.commit()

    def _numbers(self, connection: sa.Connection) -> None:
        """Numbers from 0 on, and the moment at which it all began."""
        most = max(self._size.jobs + 1, self._size.watched, self._size.archive)
        numbers = (
            f"WITH RECURSIVE r (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM r WHERE n < {most}) "
            "INSERT INTO large_numbers SELECT n FROM r"
        )
        self._execute(
            connection,
            "CREATE TEMPORARY TABLE large_numbers (n INTEGER PRIMARY KEY)",
            numbers,
            "CREATE TEMPORARY TABLE large_numbers_began AS SELECT "
            + (
                f"strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-{SPAN_S} seconds')"
                if self._sqlite
                else f"clock_timestamp() - interval '{SPAN_S} seconds'"
            )
            + " AS began",
        )
        if not self._sqlite:
            self._execute(connection, "ANALYZE large_numbers")

    def _once(self, connection: sa.Connection) -> None:
        """Schedules, runs, jobs, sources, workers."""
        jobs, ordinary = self._size.jobs, self._ordinary
        for number in range(jobs // 1000 + 1):
            partitions.ensure(connection, number * 1000)
        scheduled = f"(j.n % 3 = 0 AND j.n <= {ordinary})"
        training = f"(j.n % 50 = 0 AND j.n <= {ordinary})"
        # The last in its group are the schedules that train.
        schedule = f"(CASE WHEN {training} THEN {FOLDERS + 1} ELSE 1 + j.n % {FOLDERS} END)"
        self._execute(
            connection,
            f"""INSERT INTO schedules (id, name, cron, tz, kind, spec, paused, catch_up_s,
                    created_at, created_by, considered_until)
                SELECT n, 'schedule-' || n, '0 2 * * *', 'UTC',
                    CASE WHEN n > {FOLDERS} THEN 'train' ELSE 'score' END,
                    '{{"job": {{}}}}'{self._json}, {self._no}, 3600, {self._at("0")}, 'large',
                    {self._at(str(SPAN_S))}
                FROM large_numbers WHERE n BETWEEN 1 AND {FOLDERS + 1}""",
            f"""INSERT INTO jobs (id, kind, state, priority, spec, model_id, precision,
                    schedule_id, scheduled_for, submitted_by, share, created_at, started_at,
                    planned_at, finished_at, planned_items, planned_shards)
                SELECT j.id, CASE WHEN {training} THEN 'train' ELSE 'score' END,
                    CASE WHEN j.id % 10 = 1 AND NOT {training} AND j.id <= {ordinary}
                        THEN 'completed_with_errors' ELSE 'completed' END, 0,
                    '{{"sources": []}}'{self._json},
                    CASE WHEN {training} THEN NULL ELSE {self._model} END,
                    CASE WHEN {training} THEN NULL ELSE 'fp32' END,
                    CASE WHEN {scheduled} THEN {schedule} END,
                    CASE WHEN {scheduled} THEN {self._second()} END,
                    CASE WHEN {scheduled} THEN 'schedule schedule-' || {schedule}
                        ELSE 'user' || j.id % {self._size.people} || '@reading-room' END,
                    CASE WHEN {scheduled} THEN 'schedule schedule-' || {schedule}
                        ELSE 'user' || j.id % {self._size.people} END,
                    {self._second()}, {self._second("1")},
                    CASE WHEN NOT {training} THEN {self._second("2")} END, {self._second("120")},
                    CASE WHEN {training} THEN 0 WHEN j.id > {ordinary} THEN {self._size.archive}
                        WHEN j.id % 10 = 1 THEN {FILMS + 2} ELSE {FILMS} END,
                    CASE WHEN {training} THEN 0
                        WHEN j.id > {ordinary} THEN {-(-self._size.archive // SHARD)} ELSE 2 END
                FROM (SELECT n, n AS id FROM large_numbers WHERE n BETWEEN 1 AND {jobs}) j""",
            """INSERT INTO runs (schedule_id, scheduled_for, cause, state, outcome, job_id,
                    created_at, finished_at)
                SELECT schedule_id, scheduled_for, 'clock', 'done', state, id, created_at,
                    finished_at
                FROM jobs WHERE schedule_id IS NOT NULL""",
            f"""INSERT INTO sources (job_id, source_no, uri, kind, fingerprint)
                SELECT j.id, 0,
                    CASE WHEN j.id > {ordinary} THEN '/archive/all.zip'
                        WHEN j.schedule_id IS NOT NULL THEN '/inbox/' || j.schedule_id
                        ELSE '/films/' || {self._FILMS_OF} || '.zip' END,
                    CASE WHEN j.schedule_id IS NOT NULL THEN 'list' ELSE 'zip' END, '1:2:3'
                FROM jobs j WHERE j.kind = 'score'""",
            f"""INSERT INTO workers (id, host, pid, queues, engine, versions, started_at, seen_at,
                    stopped_at)
                SELECT 'worker-' || n, 'gpu' || n % 4, 1000 + n, 'score,train', 'CPU',
                    '{{}}'{self._json}, {self._at(f"n * {SPAN_S // WORKERS}")},
                    {self._at(f"(n + 1) * {SPAN_S // WORKERS}")},
                    {self._at(f"(n + 1) * {SPAN_S // WORKERS}")}
                FROM large_numbers WHERE n < {WORKERS}""",
        )  # fmt: skip
        if not self._sqlite:
            for table in ("schedules", "jobs"):
                self._execute(
                    connection,
                    f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), "
                    f"(SELECT MAX(id) FROM {table}))",
                )

    def _outcomes(
        self, connection: sa.Connection, first: int, last: int, items: int, shard: int
    ) -> None:
        """What scoring the jobs of these numbers left, of `items` films at most."""
        # The order of the key; and SQLite must begin with the jobs.
        where = (
            f"FROM jobs j CROSS JOIN large_numbers n "
            f"WHERE j.id BETWEEN {first} AND {last} AND j.kind = 'score' "
            f"AND n.n < {items} AND n.n < j.planned_items"
        )
        bad = f"(j.planned_items = {FILMS + 2} AND n.n >= {FILMS})"
        name = f"'film-' || {self._film} || '.png'"
        reused = "j.id % 100 = 57"
        these = f"job_id BETWEEN {first} AND {last}"
        self._execute(
            connection,
            f"""INSERT INTO predictions (job_id, item_no, shard_no, name, model_id, label_no,
                    probability, ood, reused_from_job, reused_from_item)
                SELECT j.id, n.n, n.n / {shard}, {name}, j.model_id,
                    CASE WHEN {self._chance} * {self._chance} >= 0.5 THEN 1 ELSE 0 END,
                    {self._chance} * {self._chance}, 0.5 + 3 * {self._chance},
                    CASE WHEN {reused} THEN j.id - 50 END, CASE WHEN {reused} THEN n.n END
                {where} AND NOT {bad} ORDER BY j.id, n.n""",
            f"""INSERT INTO refusals (job_id, item_no, shard_no, name, code, detail)
                SELECT j.id, n.n, n.n / {shard}, {name}, 'lateral', 'a side view'
                {where} AND {bad} AND n.n = {FILMS}""",
            f"""INSERT INTO item_errors (job_id, item_no, shard_no, name, code, detail)
                SELECT j.id, n.n, n.n / {shard}, {name}, 'truncated', 'ends after 12 bytes'
                {where} AND {bad} AND n.n > {FILMS}""",
            f"""INSERT INTO films (model_id, precision, content, job_id, item_no, overridden,
                    reader)
                SELECT j.model_id, 'fp32', {self._bytes(self._film)}, j.id, n.n, '', 1
                {where} AND NOT {bad} AND NOT {reused} ORDER BY j.model_id, 3""",
            f"""INSERT INTO cams (job_id, item_no, height, width, low, high, data)
                SELECT j.id, n.n, 7, 7, -1, 1, {self._bytes(self._film)}
                {where} AND NOT {bad} AND n.n % 20 = 0 ORDER BY j.id, n.n""",
            f"""INSERT INTO identities (job_id, item_no, patient, study, accession)
                SELECT j.id, n.n, {self._hash(f"{self._film} / 4")},
                    {self._hash(f"{self._film} / 2")}, {self._hash(f"{self._film} / 2 + 7")}
                {where} AND j.id % 20 = 3 ORDER BY j.id, n.n""",
            f"""INSERT INTO labels (job_id, item_no, label, imported_at, imported_by)
                SELECT j.id, n.n, CASE WHEN {self._film} % 3 = 0 THEN 'PNEUMONIA' ELSE 'NORMAL' END,
                    {self._second("86400")}, 'large'
                {where} AND j.id % 50 = 2 ORDER BY j.id, n.n""",
            f"""INSERT INTO rollups (job_id, shard_no, bucket, label_no, n)
                SELECT job_id, shard_no, bucket, label_no, COUNT(*) FROM (
                    SELECT job_id, shard_no, label_no, {self._floor("probability * 20")} AS bucket
                    FROM predictions WHERE {these}
                ) p GROUP BY job_id, shard_no, bucket, label_no""",
            f"""INSERT INTO shards (job_id, shard_no, source_no, first_item, n_items, state,
                    n_predictions, n_positive, n_unusual, n_refused, n_errors, finished_at, readers,
                    lease_token, worker_id, attempts)
                SELECT j.id, p.shard_no, 0, p.shard_no * {shard},
                    p.n + CASE WHEN j.planned_items = {FILMS + 2} AND p.shard_no = 1
                        THEN 2 ELSE 0 END,
                    'done', p.n, p.positive, p.unusual,
                    CASE WHEN j.planned_items = {FILMS + 2} AND p.shard_no = 1 THEN 1 ELSE 0 END,
                    CASE WHEN j.planned_items = {FILMS + 2} AND p.shard_no = 1 THEN 1 ELSE 0 END,
                    {self._second("60 + p.shard_no % 60")}, '{{"PNG": 1}}'{self._json}, 1,
                    'worker-' || j.id * {WORKERS} / {self._size.jobs + 1}, 1
                FROM (SELECT job_id, shard_no, COUNT(*) AS n, SUM(label_no) AS positive,
                        SUM(CASE WHEN ood > 3.0 THEN 1 ELSE 0 END) AS unusual
                    FROM predictions WHERE {these} GROUP BY job_id, shard_no) p
                JOIN jobs j ON j.id = p.job_id ORDER BY j.id, p.shard_no""",
            f"""INSERT INTO shard_listings (job_id, shard_no, listing)
                SELECT job_id, shard_no, {self._bytes("job_id")} FROM shards WHERE {these}
                ORDER BY job_id, shard_no""",
        )  # fmt: skip

    def _floor(self, number: str) -> str:
        return f"CAST({number} AS INTEGER)" if self._sqlite else f"FLOOR({number})::int"

    def _tables_of_jobs(self, connection: sa.Connection) -> None:
        """What belongs to jobs and is small, and the watched files."""
        self._execute(
            connection,
            f"""INSERT INTO job_events (job_id, at, who, event)
                SELECT j.id, {self._second("n.n")}, 'worker',
                    CASE n.n WHEN 0 THEN 'submitted' WHEN 1 THEN 'planning' WHEN 2 THEN 'planned'
                        ELSE 'completed' END
                FROM jobs j CROSS JOIN large_numbers n WHERE n.n < 4 ORDER BY j.id, n.n""",
            f"""INSERT INTO drift (job_id, model_id, reference, n, reference_n, psi, psi_limit, ks,
                    ks_p, unusual, reference_unusual, unusual_p, warned, detail, measured_at)
                SELECT j.id, j.model_id, 'validation', 100, 500, 0.01, 0.2, 0.05, 0.5, 3, 20, 0.5,
                    {self._no}, 'as before', {self._second("120")}
                FROM jobs j WHERE j.kind = 'score'""",
            f"""INSERT INTO notices (at, event, payload, job_id, state, attempts)
                SELECT j.finished_at, 'with_errors', '{{}}'{self._json}, j.id, 'delivered', 1
                FROM jobs j WHERE j.state = 'completed_with_errors'""",
            f"""INSERT INTO epochs (job_id, epoch, train_loss, train_accuracy, train_auroc,
                    val_loss, val_accuracy, val_auroc, learning_rate, seconds, films_per_s, best,
                    finished_at)
                SELECT j.id, n.n, 0.5, 0.9, 0.9, 0.5, 0.9, 0.9, 0.001, 60, 100, {self._no},
                    {self._second("n.n * 60")}
                FROM jobs j CROSS JOIN large_numbers n
                WHERE j.kind = 'train' AND n.n BETWEEN 1 AND 8""",
            f"""INSERT INTO evaluations (model_id, job_id, split, n_films, metrics, created_at)
                SELECT {self._model}, j.id, 'labels of job ' || j.id, {FILMS},
                    '{{"auroc": 0.9}}'{self._json}, {self._second("86400")}
                FROM jobs j WHERE j.id % 50 = 2 AND j.kind = 'score'""",
            # Of the first folder nine of ten, in the order of the key.
            f"""INSERT INTO watched (schedule_id, path_hash, path, size, mtime_ns, since, content,
                    state, job_id, attempts)
                SELECT w.s, {self._bytes("w.n")}, '/inbox/' || w.s || '/film-' || w.n || '.png',
                    100000 + w.n, w.n, {self._at("w.n")}, {self._hash("w.n")}
                    || {self._hash("w.n")}, 'done', 1 + w.n % {self._ordinary}, 1
                FROM (SELECT n, CASE WHEN n < {self._size.watched * 9 // 10} THEN 1
                        ELSE 2 + n % {FOLDERS - 1} END AS s
                    FROM large_numbers WHERE n < {self._size.watched}) w
                ORDER BY w.s, w.n""",
        )  # fmt: skip


def main() -> int:
    """Run from the command line; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("url", help="of an empty database, as of PNEUMOQ_DATABASE_URL")
    parser.add_argument("--share", type=float, default=1.0, help="0.001: a thousandth of it")
    asked = parser.parse_args()
    engine = database.connect(asked.url)
    migrate.upgrade(engine)
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {text}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        fill(engine, Path(folder), SIZE.of(asked.share) if asked.share != 1 else SIZE, say)
    say("made")
    return 0


if __name__ == "__main__":
    sys.exit(main())
