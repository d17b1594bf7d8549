"""Bytes that outcomes take in the database: what `score --dry-run` reckons with.

python -m tests.bench.rows
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path

import sqlalchemy as sa

from db.base import database, migrate
from scheduler.measure import rehearse, stages
from tests.scheduler import rows
from tests.support import servers

#: Characters of a film's name here.
NAME = "patient0001/film-12345"

#: Jobs that are written and then measured: enough that fixed pages do not count.
JOBS = 16


def bytes_of(engine: sa.Engine) -> int:
    """Bytes of the whole database."""
    with database.reading(engine) as connection:
        if engine.dialect.name == "postgresql":
            statement = "SELECT pg_database_size(current_database())"
        else:
            statement = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
        return int(connection.execute(sa.text(statement)).scalar_one())


def measured(url: str, folder: Path, jobs: int) -> float:
    """Bytes per prediction beside its name."""
    engine = database.connect(url)
    migrate.upgrade(engine)
    model = rows.a_model(engine, folder)
    writing = stages.Writing(engine, model, "fp32", NAME.partition("-")[0])
    before = bytes_of(engine)
    for _ in range(jobs):
        writing.run()
    count = jobs * stages.WRITE_SHARDS * stages.WRITE_FILMS
    each = (bytes_of(engine) - before) / count - len(NAME)
    engine.dispose()
    return each


def main() -> None:
    """Print a line per database."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer jobs")
    jobs = JOBS // 4 if parser.parse_args().quick else JOBS
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        urls = {"sqlite": f"sqlite:///{folder}/rows.db"}
        try:
            cluster = stack.enter_context(servers.postgres())
            urls["postgresql"] = stack.enter_context(cluster.database())
        except servers.NotInstalled as error:
            print(error)
        for name, url in urls.items():
            each = measured(url, folder, jobs)
            print(f"{name:<10}  {each:5.0f} bytes a row; reckoned with {rehearse.ROW_BYTES[name]}")


if __name__ == "__main__":
    main()
