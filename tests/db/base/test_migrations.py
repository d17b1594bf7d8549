"""The schema goes up and down on both databases, and is what the code says it is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from db.base import migrate, query, views
from db.base.database import connect, reading, write
from db.base.errors import NotMigrated, QueryRefused
from db.base.schema import metadata
from db.registry import models
from tests.db import given
from tests.support import servers
from tests.support.paths import ROOT


def _relations(engine: sa.Engine) -> set[str]:
    """Names of the tables and views, PostgreSQL's partitions left out."""
    with engine.connect() as connection:
        inspector = sa.inspect(connection)
        names = {*inspector.get_table_names(), *inspector.get_view_names()}
    return {name for name in names if not re.search(r"_p\d+$", name)}


def test_the_schema_goes_up_and_down_and_up_again(empty: sa.Engine) -> None:
    everything = {*metadata.tables, *(view.name for view in views.VIEWS), "alembic_version"}

    migrate.upgrade(empty)
    assert _relations(empty) == everything
    migrate.check(empty)

    migrate.downgrade(empty, "base")
    assert _relations(empty) == {"alembic_version"}
    with pytest.raises(NotMigrated):
        migrate.check(empty)

    migrate.upgrade(empty)
    assert _relations(empty) == everything


def test_the_schema_goes_down_when_there_are_rows(empty: sa.Engine, tmp_path: Path) -> None:
    migrate.upgrade(empty)
    new = given.model(tmp_path, "first")
    write(empty, lambda c: models.register(c, new, "tests"))
    given.running(empty, shards=2)
    given.commit(empty, given.claimed(empty))

    migrate.downgrade(empty, "base")

    assert _relations(empty) == {"alembic_version"}


def test_an_upgrade_keeps_the_rows(database: sa.Engine) -> None:
    given.running(database)

    migrate.upgrade(database)

    assert given.count(database, metadata.tables["jobs"]) == 1


def test_the_migrations_make_the_schema_that_the_code_describes(empty: sa.Engine) -> None:
    migrate.upgrade(empty)

    def ours(thing: Any, name: str | None, kind: str, reflected: bool, _: Any) -> bool:
        # PostgreSQL's partitions are made by submitting jobs.
        return not (kind == "table" and reflected and name not in metadata.tables)

    with empty.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={"include_object": ours, "compare_type": True, "compare_server_default": True},
        )
        assert compare_metadata(context, metadata) == []


def test_the_migrations_make_the_checks_that_the_code_describes(database: sa.Engine) -> None:
    """Alembic does not compare these."""
    with database.connect() as connection:
        inspector = sa.inspect(connection)
        for table in metadata.sorted_tables:
            made = {
                str(check["name"]): " ".join(check["sqltext"].split())
                for check in inspector.get_check_constraints(table.name)
            }
            described = {
                str(check.name): " ".join(str(check.sqltext).split())
                for check in table.constraints
                if isinstance(check, sa.CheckConstraint)
            }
            if database.dialect.name == "sqlite":
                assert made == described
            else:  # PostgreSQL keeps them in words of its own.
                assert set(made) == set(described)


@pytest.mark.postgres
def test_postgresql_partitions_the_rows_of_jobs(postgres_database: sa.Engine) -> None:
    given.running(postgres_database)
    given.commit(postgres_database, given.claimed(postgres_database))

    with reading(postgres_database) as connection:
        names = connection.execute(
            sa.text(
                "SELECT inhrelid::regclass::text FROM pg_inherits "
                "WHERE inhparent = 'predictions'::regclass"
            )
        )
        assert list(names.scalars()) == ["predictions_p0"]
        inside = connection.execute(sa.text("SELECT count(*) FROM predictions_p0"))
        assert inside.scalar_one() == 1


def test_the_newest_migration_is_the_one_that_the_code_needs(tmp_path: Path) -> None:
    engine = connect(f"sqlite:///{tmp_path}/unused.db")

    assert ScriptDirectory.from_config(migrate.config(engine)).get_heads() == [migrate.HEAD]


def test_processes_that_upgrade_at_the_same_time_all_succeed(
    empty: sa.Engine, empty_database_url: str, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    script = (
        "import pathlib, sys, time\n"
        "from db.base import database, migrate\n"
        "engine = database.connect(sys.argv[1])\n"
        "import alembic.command\n"
        "print('ready', flush=True)\n"
        "while not pathlib.Path(sys.argv[2]).exists(): time.sleep(0.001)\n"
        "migrate.upgrade(engine)\n"
        "migrate.check(engine)\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, empty_database_url, str(go)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    go.touch()

    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    migrate.check(empty)


def test_every_table_and_column_says_what_it_means() -> None:
    silent = [table.name for table in metadata.sorted_tables if not table.comment]
    silent += [str(c) for table in metadata.sorted_tables for c in table.c if not c.comment]
    silent += [view.name for view in views.VIEWS if not view.comment]
    silent += [f"{v.name}.{c}" for v in views.VIEWS for c, text in v.columns.items() if not text]

    assert silent == []


@pytest.mark.postgres
def test_postgresql_keeps_what_they_mean(postgres_database: sa.Engine) -> None:
    with reading(postgres_database) as connection:
        inspector = sa.inspect(connection)
        for view in views.VIEWS:
            assert inspector.get_table_comment(view.name)["text"] == view.comment
            comments = {c["name"]: c["comment"] for c in inspector.get_columns(view.name)}
            assert comments == view.columns


@pytest.mark.parametrize("view", views.VIEWS, ids=lambda view: view.name)
def test_a_view_has_exactly_the_columns_that_are_explained(
    database: sa.Engine, view: views.View
) -> None:
    with reading(database) as connection:
        answer = connection.execute(sa.text(f"SELECT * FROM {view.name}"))
        assert list(answer.keys()) == list(view.columns)


def test_the_views_tell_what_was_committed(database: sa.Engine) -> None:
    job_id = given.running(database, shards=2, items=4)
    for _ in range(2):
        given.commit(database, given.claimed(database), refused=1, errors=1)
    given.close(database, job_id)

    def rows(statement: str) -> list[tuple[Any, ...]]:
        with reading(database) as connection:
            return [tuple(row) for row in connection.execute(sa.text(statement))]

    assert rows(
        "SELECT job_id, item_no, name, source, label, probability, unusual, model, worker_id "
        "FROM v_predictions ORDER BY item_no LIMIT 1"
    ) == [(job_id, 2, "2.jpg", "/films.zip", "PNEUMONIA", 0.75, 0, "first", "worker")]
    assert rows("SELECT item_no, source, code FROM v_item_errors ORDER BY item_no") == [
        (1, "/films.zip", "truncated"),
        (5, "/films.zip", "truncated"),
    ]
    assert rows("SELECT item_no, code FROM v_refusals ORDER BY item_no") == [
        (0, "lateral"),
        (4, "lateral"),
    ]
    assert rows(
        "SELECT state, items, done, predictions, positives, refused, errors, shards, shards_done "
        "FROM v_job_progress"
    ) == [("completed_with_errors", 8, 8, 4, 4, 2, 2, 2, 2)]
    assert rows("SELECT model_id, name, champion FROM v_models") == [(1, "first", 1)]


@pytest.mark.postgres
def test_an_owner_who_may_not_make_roles_still_gets_the_schema(
    postgres_server: servers.Postgres, empty_postgres_url: str
) -> None:
    """And is told by `query` what to ask for; after that `db upgrade` grants what is missing."""
    name = sa.make_url(empty_postgres_url).database
    with postgres_server.connect() as connection:
        # The role is the cluster's, and other tests' databases have made it before.
        connection.execute("DROP ROLE IF EXISTS lowly")
        connection.execute("CREATE ROLE lowly LOGIN")
        connection.execute(f"ALTER DATABASE {name} OWNER TO lowly".encode())
    lowly = empty_postgres_url.replace("postgres@", "lowly@")
    engine = connect(lowly)
    try:
        migrate.upgrade(engine)
        migrate.check(engine)
        with (
            pytest.raises(QueryRefused, match="GRANT pneumoq_reader TO lowly"),
            query.run(lowly, "SELECT 1") as answer,
        ):
            list(answer.rows)

        with postgres_server.connect() as connection:
            with suppress(psycopg.errors.DuplicateObject):
                connection.execute("CREATE ROLE pneumoq_reader")
            connection.execute("GRANT pneumoq_reader TO lowly")
        migrate.upgrade(engine)
        with query.run(lowly, "SELECT count(*) FROM v_models") as answer:
            assert list(answer.rows) == [(0,)]
    finally:
        engine.dispose()
        with postgres_server.connect(str(name)) as connection:
            connection.execute("REASSIGN OWNED BY lowly TO postgres")
            connection.execute("DROP OWNED BY lowly")
            connection.execute("DROP ROLE lowly")
