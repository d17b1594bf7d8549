"""The schema goes up and down on both databases, and is what schema.py says it is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from db.base import migrate, query, views, workers
from db.base.database import connect, reading, write
from db.base.errors import NotMigrated, QueryRefused
from db.base.schema import PARTITIONED, metadata
from db.queue import jobs, leases, listings, results
from db.registry import aliases, models
from tests.db import given
from tests.db.base import portability
from tests.support import servers
from tests.support.paths import ROOT


@pytest.fixture
def empty(database_url: str) -> Iterator[sa.Engine]:
    """A database without a schema."""
    engine = connect(database_url)
    if engine.dialect.name == "sqlite":
        portability.watch(engine)
    yield engine
    engine.dispose()


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


#: What the first version of the program kept of a job that is half done.
FIRST = (
    "INSERT INTO models (id, name, state, origin, arch, positive, size, film_rule, temperature, "
    "threshold, threshold_rule, metrics, card, created_at) VALUES (1, 'm', 'candidate', "
    "'imported', 'resnet18', 'PNEUMONIA', 224, 'film-1', 1, 0.5, 'as given', '{}', '{}', "
    "CURRENT_TIMESTAMP)",
    "INSERT INTO jobs (id, kind, state, spec, model_id, submitted_by, created_at, planned_at, "
    "planned_items, planned_shards) VALUES (1, 'score', 'running', '{}', 1, 'kim@ward', "
    "CURRENT_TIMESTAMP, CURRENT_TIMESTAMP, 4, 2)",
    "INSERT INTO jobs (id, kind, state, spec, submitted_by, created_at) "
    "VALUES (2, 'train', 'queued', '{}', 'kim@ward', CURRENT_TIMESTAMP)",
    "INSERT INTO sources (job_id, source_no, uri, kind, fingerprint, seek_index) "
    "VALUES (1, 0, '/a.zip', 'zip', '1', {index})",
    "INSERT INTO shards (job_id, shard_no, source_no, first_item, n_items, listing, state, "
    "n_predictions, finished_at) VALUES (1, 0, 0, 0, 2, {first}, 'done', 2, CURRENT_TIMESTAMP)",
    "INSERT INTO shards (job_id, shard_no, source_no, first_item, n_items, listing, state) "
    "VALUES (1, 1, 0, 2, 2, {second}, 'ready')",
    "INSERT INTO predictions (job_id, item_no, shard_no, name, model_id, label_no, probability) "
    "VALUES (1, 0, 0, 'a', 1, 1, 0.75), (1, 1, 0, 'b', 1, 0, 0.25)",
    "INSERT INTO evaluations (id, model_id, split, n_films, metrics, created_at) "
    "VALUES (1, 1, 'validation', 5, '{}', CURRENT_TIMESTAMP)",
)


def test_a_database_of_the_first_version_keeps_what_is_in_it(empty: sa.Engine) -> None:
    migrate.upgrade(empty, "0001")
    postgresql = empty.dialect.name == "postgresql"
    blobs = {
        name: f"'\\x{value.hex()}'" if postgresql else f"x'{value.hex()}'"
        for name, value in {"index": b"I", "first": b"1" * 9000, "second": b"\0\xff"}.items()
    }

    def fill(connection: sa.Connection) -> None:
        if postgresql:
            for table in ("predictions", "cams", "refusals", "item_errors", "labels"):
                connection.exec_driver_sql(
                    f"CREATE TABLE {table}_p0 PARTITION OF {table} FOR VALUES FROM (0) TO (1000)"
                )
        for statement in FIRST:
            for name, value in blobs.items():
                statement = statement.replace(f"{{{name}}}", value)
            connection.exec_driver_sql(statement)

    write(empty, fill)

    migrate.upgrade(empty)

    with reading(empty) as connection:
        packed = connection.exec_driver_sql(
            "SELECT shard_no, listing FROM shard_listings ORDER BY shard_no"
        ).all()
        assert [(n, bytes(b)) for n, b in packed] == [(0, b"1" * 9000), (1, b"\0\xff")]
        pinned = connection.exec_driver_sql("SELECT id, precision FROM jobs ORDER BY id").all()
        assert [tuple(row) for row in pinned] == [(1, "fp32"), (2, None)]
        assert listings.seek_index(connection, 1, 0) == b"I"
        assert connection.exec_driver_sql("SELECT split FROM evaluations").scalars().all() == [
            "validation"
        ]
        done = connection.exec_driver_sql(
            "SELECT done, items FROM v_job_progress WHERE job_id = 1"
        ).first()
        assert done is not None
        assert tuple(done) == (2, 4)
    shard = given.claimed(empty)
    assert (shard.shard_no, shard.listing, shard.precision) == (1, b"\0\xff", "fp32")
    made = given.outcomes(shard)
    made[0] = made[0]._replace(identity=results.Identity("p", "s", "a"))
    write(empty, lambda c: results.commit(c, shard, made))
    assert given.count(empty, metadata.tables["identities"]) == 1

    migrate.downgrade(empty, "0001")

    with reading(empty) as connection:
        old = connection.exec_driver_sql("SELECT listing FROM shards ORDER BY shard_no").scalars()
        assert [bytes(b) for b in old] == [b"1" * 9000, b"\0\xff"]
        assert connection.exec_driver_sql("SELECT COUNT(*) FROM predictions").scalar() == 4
    migrate.upgrade(empty)
    with reading(empty) as connection:
        assert [s.listing for s in listings.after(connection, 1)] == [b"1" * 9000, b"\0\xff"]


#: What the third version kept of a job whose shards are being scored.
THIRD = (
    *(
        statement
        for statement in FIRST
        if not statement.startswith(("INSERT INTO s", "INSERT INTO e"))
    ),
    "UPDATE jobs SET precision = 'int8' WHERE id = 1",
    "INSERT INTO sources (job_id, source_no, uri, kind, fingerprint) "
    "VALUES (1, 0, '/a.zip', 'zip', '1')",
    "INSERT INTO shards (job_id, shard_no, source_no, first_item, n_items, state, n_predictions, "
    "finished_at) VALUES (1, 0, 0, 0, 2, 'done', 2, CURRENT_TIMESTAMP)",
    "INSERT INTO shards (job_id, shard_no, source_no, first_item, n_items, state, lease_token, "
    "lease_until, worker_id, attempts) VALUES (1, 1, 0, 2, 2, 'leased', 3, {later}, 'w', 1)",
    "INSERT INTO shard_listings (job_id, shard_no, listing) VALUES (1, 1, {listing})",
    "INSERT INTO workers (id, host, pid, queues, engine, versions, started_at, seen_at) "
    "VALUES ('w', 'ward', 7, 'score', 'CPU', '{}', CURRENT_TIMESTAMP, CURRENT_TIMESTAMP)",
)


def test_a_job_that_runs_is_scored_on_after_the_upgrade_to_engines(empty: sa.Engine) -> None:
    migrate.upgrade(empty, "0003")
    postgresql = empty.dialect.name == "postgresql"

    def fill(connection: sa.Connection) -> None:
        if postgresql:
            for table in metadata.tables.values():
                if table.name in PARTITIONED:
                    connection.exec_driver_sql(
                        f"CREATE TABLE {table.name}_p0 PARTITION OF {table.name} "
                        "FOR VALUES FROM (0) TO (1000)"
                    )
        later = "CURRENT_TIMESTAMP + interval '1 hour'" if postgresql else "'2999-01-01 00:00:00'"
        listing = "'\\x0102'" if postgresql else "x'0102'"
        for statement in THIRD:
            connection.exec_driver_sql(
                statement.replace("{later}", later).replace("{listing}", listing)
            )
        if postgresql:
            connection.exec_driver_sql("SELECT setval(pg_get_serial_sequence('jobs', 'id'), 2)")

    def kept() -> list[tuple[Any, ...]]:
        with reading(empty) as connection:
            return [
                tuple(row)
                for query in (
                    "SELECT id, kind, state, precision, planned_items, created_at FROM jobs "
                    "ORDER BY id",
                    "SELECT shard_no, state, lease_token, lease_until, worker_id, attempts "
                    "FROM shards ORDER BY shard_no",
                    "SELECT item_no, probability FROM predictions ORDER BY item_no",
                    "SELECT id, engine, seen_at FROM workers",
                )
                for row in connection.exec_driver_sql(query)
            ]

    write(empty, fill)
    before = kept()

    migrate.upgrade(empty)

    assert kept() == before
    assert jobs.get(empty, 1)["engine"] is None
    assert jobs.progress(empty, 1)["engine"] is None
    # Who held the shard before the upgrade commits it after.
    shard = leases.Shard(
        job_id=1, shard_no=1, token=3, worker_id="w", attempt=1, source_no=0, first_item=2,
        n_items=2, listing=b"\1\2", model_id=1, priority=0, spec={}, precision="int8",
    )  # fmt: skip
    assert write(empty, lambda c: leases.renew_shards(c, [shard], given.LEASE_S)) == []
    given.commit(empty, shard)
    assert jobs.progress(empty, 1)["done"] == 4

    # Down again, with a job that asks for an engine: the job stays, and what it asked for goes.
    asked = given.queued(empty, engine="tensorrt")
    write(empty, lambda c: workers.seen(c, "w", {"gpu_c": 48.5}))
    migrate.downgrade(empty, "0003")
    with reading(empty) as connection:
        ids = connection.exec_driver_sql("SELECT id FROM jobs ORDER BY id").scalars().all()
        assert ids == [1, 2, asked]
    migrate.upgrade(empty)
    assert jobs.get(empty, asked)["engine"] is None
    assert jobs.get(empty, asked)["state"] == "queued"


#: What the fourth version kept of three models, of which one was promoted again in vain.
FOURTH = (
    *(FIRST[0].replace("VALUES (1, 'm'", f"VALUES ({number}, 'm{number}'") for number in (1, 2, 3)),
    "INSERT INTO aliases (name, model_id, moved_at, moved_by, reason) "
    "VALUES ('champion', 2, CURRENT_TIMESTAMP, 'kim@ward', 'better')",
    "INSERT INTO model_events (model_id, at, who, event, detail) VALUES "
    "(1, CURRENT_TIMESTAMP, 'kim@ward', 'promoted', 'to champion: the first model there is'), "
    "(3, CURRENT_TIMESTAMP, 'kim@ward', 'promoted', 'to champion-of-wards: for a trial'), "
    "(1, CURRENT_TIMESTAMP, 'kim@ward', 'replaced', 'as champion by model 2: better'), "
    "(2, CURRENT_TIMESTAMP, 'kim@ward', 'promoted', 'to champion: better'), "
    "(2, CURRENT_TIMESTAMP, 'kim@ward', 'promoted', 'to champion: better still')",
)


def test_champions_of_before_are_gone_back_to_after_the_upgrade(empty: sa.Engine) -> None:
    migrate.upgrade(empty, "0004")
    write(empty, lambda c: [c.exec_driver_sql(statement) for statement in FOURTH])

    migrate.upgrade(empty)

    with reading(empty) as connection:
        moves = connection.exec_driver_sql(
            "SELECT alias, how, model_id, previous_id, who, reason FROM promotions ORDER BY id"
        ).all()
    assert [tuple(move) for move in moves] == [
        ("champion", "first", 1, None, "kim@ward", "to champion: the first model there is"),
        ("champion", "promote", 2, 1, "kim@ward", "to champion: better"),
    ]
    back = write(empty, lambda c: aliases.rollback(c, aliases.CHAMPION, "kim@ward", "worse"))
    assert back == (1, 2)


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


def test_a_database_without_a_schema_is_told_from_an_old_one(empty: sa.Engine) -> None:
    with pytest.raises(NotMigrated, match="has no PneumoQ schema; run `pneumoq db upgrade`"):
        migrate.check(empty)

    migrate.upgrade(empty)
    write(empty, lambda c: c.execute(sa.text("UPDATE alembic_version SET version_num = '0000'")))

    with pytest.raises(NotMigrated, match="schema is 0000, this PneumoQ needs"):
        migrate.check(empty)


def test_processes_that_upgrade_at_the_same_time_all_succeed(
    empty: sa.Engine, database_url: str, tmp_path: Path
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
            [sys.executable, "-c", script, database_url, str(go)],
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
    postgres_server: servers.Postgres, postgres_url: str
) -> None:
    """And is told by `query` what to ask for; after that `db upgrade` grants what is missing."""
    name = sa.make_url(postgres_url).database
    with postgres_server.connect() as connection:
        # The role is the cluster's, and other tests' databases have made it before.
        connection.execute("DROP ROLE IF EXISTS lowly")
        connection.execute("CREATE ROLE lowly LOGIN")
        connection.execute(f"ALTER DATABASE {name} OWNER TO lowly".encode())
    lowly = postgres_url.replace("postgres@", "lowly@")
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
