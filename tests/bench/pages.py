"""Time and memory of the report of a job of a million films.

python -m tests.bench.pages
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import sqlalchemy as sa

from db.base import database, migrate
from tests.scheduler import rows

#: Films of a shard here.
SHARD = 500


def a_large_job(engine: sa.Engine, folder: Path, films: int) -> int:
    """A job of so many predictions that has ended, written by SQL alone."""
    model_id = rows.a_model(engine, folder, f"of-{films}", film_rule="gray-stretch-1")
    shards = max(1, films // SHARD)
    job_id = rows.a_planned_job(engine, model_id, *[SHARD] * shards)
    numbers = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < :last) "
    with database.writing(engine) as connection:
        # A number's share of a prime is spread evenly over 0 to 1.
        connection.execute(
            sa.text(
                "INSERT INTO predictions (job_id, item_no, shard_no, name, model_id, label_no, "
                f"probability, ood) {numbers} SELECT :job, i, i / {SHARD}, 'ward/film ' || i || "
                "'.jpeg', :model, CASE WHEN (i * 7919 % 100003) / 100003.0 >= 0.4 THEN 1 ELSE 0 "
                "END, (i * 7919 % 100003) / 100003.0, 0.5 + (i * 104729 % 1000) / 600.0 FROM n"
            ),
            {"job": job_id, "model": model_id, "last": shards * SHARD - 1},
        )
        connection.execute(
            sa.text(
                "INSERT INTO rollups (job_id, shard_no, bucket, label_no, n) SELECT job_id, "
                "shard_no, MIN(19, CAST(probability * 20 AS INTEGER)), label_no, COUNT(*) "
                "FROM predictions WHERE job_id = :job GROUP BY 1, 2, 3, 4"
            ),
            {"job": job_id},
        )
        connection.execute(
            sa.text(
                "UPDATE shards SET state = 'done', n_predictions = n_items, finished_at = "
                "strftime('%Y-%m-%dT%H:%M:%fZ', '2026-01-01', '+' || shard_no || ' seconds') "
                "WHERE job_id = :job"
            ),
            {"job": job_id},
        )
        connection.execute(
            sa.text(
                "UPDATE jobs SET state = 'completed', started_at = created_at, finished_at = "
                "created_at WHERE id = :job"
            ),
            {"job": job_id},
        )
    return job_id


def measured(home: Path, job_id: int, file: Path) -> tuple[float, float, int]:
    """Seconds, peak MB and bytes of a report that a process of its own writes."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "scheduler", "report", str(job_id), str(file), "--force"],
        env={**os.environ, "PNEUMOQ_HOME": str(home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    assert isinstance(used, resource.struct_rusage)
    return time.monotonic() - began, used.ru_maxrss / 1024, file.stat().st_size


def main() -> None:
    """Print a line per size of job."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a tenth of the films")
    most = 100_000 if parser.parse_args().quick else 1_000_000
    print(f"{'films':>10}  {'seconds':>8}  {'MB':>6}  {'page kB':>8}")
    for films in (SHARD, most):
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            engine = database.connect(f"sqlite:///{home}/pneumoq.db")
            migrate.upgrade(engine)
            job_id = a_large_job(engine, home, films)
            engine.dispose()
            seconds, memory, size = measured(home, job_id, home / "page.html")
            print(f"{films:>10,}  {seconds:>8.1f}  {memory:>6.0f}  {size / 1e3:>8.0f}")


if __name__ == "__main__":
    main()
