"""Real workers and commands of older releases on today's schema, beside today's."""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from db.base import database, migrate, views
from tests.db.base import additive
from tests.faults import harm
from tests.support import releases, soak
from tests.support.absent import absent
from tests.support.paths import ROOT
from tests.support.site import PATIENCE_S, Site
from tests.upgrades import older
from tests.upgrades.conftest import site_with

#: Jobs until the workers of both releases had a part in one: who is quicker is chance.
TRIES = 5

#: How often a job reads the films: each read is at least one shard.
SOURCES = 6


def _numbers(name: str) -> tuple[int, ...]:
    return tuple(int(number) for number in name.removeprefix("v").split("."))


#: Releases that may use today's schema, and those that may not.
ADMITTED = [n for n in releases.COMMITS if _numbers(n) >= _numbers(migrate.OLDEST_RELEASE)]
REFUSED = [n for n in releases.COMMITS if n not in ADMITTED]


def _everything(here: Site) -> tuple[dict[str, additive.Table], dict[str, list[str]]]:
    """The tables, and every row of every table and view."""
    with database.reading(here.engine) as connection:
        inspector = sa.inspect(connection)
        names = [*inspector.get_table_names(), *inspector.get_view_names()]
        rows = {name: connection.exec_driver_sql(f"SELECT * FROM {name}").all() for name in names}
        return additive.look(connection), {n: sorted(map(repr, found)) for n, found in rows.items()}


@pytest.mark.parametrize("name", REFUSED)
def test_a_release_that_may_not_use_the_schema_refuses_it_and_changes_nothing(
    here: Site, films: Path, built: Callable[[str], Path], name: str
) -> None:
    _refuses(here, films, built(name))


@pytest.mark.parametrize("name", ADMITTED)
def test_a_release_that_knows_films_by_another_hash_refuses_a_database_that_begins_today(
    here: Site, films: Path, built: Callable[[str], Path], name: str
) -> None:
    database.write(here.engine, partial(site_with, content_hash="blake3"))
    _refuses(here, films, built(name))


def _refuses(here: Site, films: Path, release: Path) -> None:
    """The release's worker and commands end with one line, and change nothing."""
    harm.submit(here, films)
    before = _everything(here)

    process = older.worker(here, release)
    assert process.wait(PATIENCE_S) != 0
    found = f"the database schema is {migrate.HEAD}, "
    assert here.says(process, f"this worker cannot start: {found}"), here.tail()
    for command in (("score", str(films)), ("db", "upgrade")):
        refused = older.command(here, release, *command)
        assert refused.returncode == 2
        assert len(refused.stderr.splitlines()) == 1, refused.stderr
        assert migrate.HEAD in refused.stderr

    assert _everything(here) == before


def _shared(here: Site, films: Path, workers: set[str], meanwhile: Callable[[], Any]) -> int:
    """Score the films until both workers had a part in one job; the last job."""
    for _ in range(TRIES):
        job_id = harm.submit(here, *[films] * SOURCES)
        harm.in_the_middle(here, job_id)
        meanwhile()
        harm.completed(here, job_id, SOURCES * harm.count(films))
        by = here.rows("SELECT DISTINCT worker_id FROM shards WHERE job_id = :j", j=job_id)
        if {row.worker_id for row in by} == workers:
            return job_id
    raise AssertionError(f"in {TRIES} jobs only {by} had a part\n{here.tail()}")


def _tomorrow(engine: sa.Engine) -> None:
    """Make of today's schema what a later release may make of it, once."""
    if migrate.current(engine) == "9999":
        return

    def change(connection: sa.Connection) -> None:
        op = Operations(MigrationContext.configure(connection))
        before = additive.look(connection)
        for table in ("jobs", "shards", "sources", "predictions", "films", "models", "workers"):
            op.add_column(table, sa.Column("later", sa.Text(), nullable=False, server_default="x"))
            op.add_column(table, sa.Column("much_later", sa.Double(), nullable=True))
        op.create_table(
            "remarks",
            sa.Column("job_id", sa.BigInteger, sa.ForeignKey("jobs.id"), primary_key=True),
            sa.Column("remark", sa.Text, nullable=False),
        )
        op.create_index("ix_predictions_later", "predictions", ["later"])
        op.drop_index("ix_workers_seen_at", "workers")
        op.create_index("ix_workers_seen_at_later", "workers", ["seen_at", "later"])
        with op.batch_alter_table("notices") as batch:
            batch.drop_constraint("ck_notices_state", type_="check")
            batch.create_check_constraint(
                "ck_notices_state",
                "state IN ('waiting', 'delivered', 'given_up', 'unheard', 'read')",
            )
        progress = views.V_JOB_PROGRESS
        op.execute(f"DROP VIEW {progress.name}")
        op.execute(
            f"CREATE VIEW {progress.name} AS "
            f"SELECT {', '.join(progress.columns)}, 1 AS later FROM ({progress.select}) AS before"
        )
        op.execute("UPDATE alembic_version SET version_num = '9999'")
        op.execute("UPDATE compatibility SET revision = '9999'")

        assert additive.breaks(before, additive.look(connection)) == []

    database.write(engine, change)


@soak.on_postgresql
@pytest.mark.parametrize("name", ADMITTED)
def test_workers_of_an_older_release_and_of_today_finish_jobs_while_the_schema_moves_on(
    here: Site, films: Path, built: Callable[[str], Path], name: str, tmp_path: Path
) -> None:
    release = built(name)
    old, new = older.worker(here, release), here.begin_worker()
    ids = {here.hello(old), here.hello(new)}
    versions = here.rows("SELECT versions FROM workers WHERE pid = :pid", pid=old.pid)
    assert f'"pneumoq": "{name.removeprefix("v")}"' in str(versions[0].versions).replace("'", '"')

    _shared(here, films, ids, meanwhile=lambda: None)
    # Each film was met by `INSERT … ON CONFLICT` many times, by both.
    assert here.rows("SELECT count(*) AS n FROM films")[0].n == harm.count(films)

    job_id = _shared(here, films, ids, meanwhile=lambda: _tomorrow(here.engine))

    # The older release's commands begin on the newer schema, and write over what is there.
    truth = tmp_path / "truth.csv"
    for label in ("PNEUMONIA", "NORMAL"):
        with truth.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["item_no", "label"])
            rows.writerows([number, label] for number in range(SOURCES * harm.count(films)))
        done = older.command(here, release, "labels", "import", str(truth), "--job", str(job_id))
        assert done.returncode == 0, done.stderr
        assert {row.label for row in here.rows("SELECT label FROM labels")} == {label}
    done = older.command(here, release, "models", "promote", "1", "--reason", "again")
    assert done.returncode == 0, done.stderr
    done = older.command(here, release, "db", "upgrade")
    assert (done.returncode, done.stdout) == (0, "the schema is up to date (9999)\n")
    harm.alive(old, new)
    harm.calm(here)


def test_every_release_has_the_version_of_its_name() -> None:
    try:
        found = {
            n: releases.version(releases.file_of(n, "pyproject.toml")) for n in releases.COMMITS
        }
    except releases.NotAtHand as error:
        absent(str(error))
    assert found == {name: name.removeprefix("v") for name in releases.COMMITS}


def test_this_is_the_newest_release_or_comes_after_it() -> None:
    assert releases.version((ROOT / "pyproject.toml").read_text()) == migrate.RELEASE
    order = [_numbers(name) for name in releases.COMMITS]
    assert order == sorted(set(order))
    assert order[-1] <= _numbers(migrate.RELEASE)
