"""`query` answers anything that reads, and the database refuses everything else."""

from __future__ import annotations

import hashlib
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from db.base import query
from db.base.database import reading, write
from db.base.errors import QueryRefused
from db.base.schema import metadata
from db.queue import jobs
from tests.db import given
from tests.support import servers

#: Attacks in the SQL of both databases. `{path}` is a file that must not come to exist.
ATTACKS = (
    "DELETE FROM jobs",
    "delete from jobs returning id",
    "INSERT INTO aliases SELECT 'x', 1, created_at, 'x', 'x' FROM models",
    "UPDATE models SET name = 'mine'",
    "UPDATE models SET name = 'mine' RETURNING name",
    "WITH gone AS (DELETE FROM jobs RETURNING id) SELECT * FROM gone",
    "WITH x AS (SELECT 1) DELETE FROM jobs",
    "WITH x AS (SELECT 1) INSERT INTO workers SELECT * FROM workers",
    "DROP TABLE cams",
    "DROP VIEW v_models",
    "CREATE TABLE mine (x int)",
    "CREATE TABLE mine AS SELECT * FROM jobs",
    "CREATE TEMP TABLE mine (x int)",
    "CREATE TEMP TABLE mine AS SELECT 1 AS x",
    "CREATE VIEW mine AS SELECT 1",
    "CREATE INDEX mine ON jobs (state)",
    "ALTER TABLE jobs RENAME TO sboj",
    "ALTER TABLE jobs ADD COLUMN mine int",
    "REINDEX",
    "ANALYZE",
    "VACUUM",
    "VACUUM INTO '{path}'",
    "BEGIN",
    "BEGIN IMMEDIATE",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT mine",
    "END",
    "SELECT 1; DELETE FROM jobs",
    "SELECT 1; SELECT 2",
    "SELECT 1) AS x; DELETE FROM jobs; SELECT (1",
    "; DELETE FROM jobs",
    "/* SELECT */ DELETE FROM jobs",
    "-- SELECT\nDELETE FROM jobs",
    "EXPLAIN ANALYZE DELETE FROM jobs",
    "",
    " ; ",
    "SELECT",
    "SELECT 1\0; DELETE FROM jobs",
    "SELECT '\ud800'",
    "no SQL at all",
)

SQLITE_ATTACKS = (
    "ATTACH DATABASE '{path}' AS other",
    "DETACH DATABASE main",
    "PRAGMA writable_schema = ON",
    "PRAGMA journal_mode = DELETE",
    "PRAGMA query_only = OFF",
    "PRAGMA wal_checkpoint(TRUNCATE)",
    "PRAGMA user_version = 7",
    "PRAGMA table_info(jobs)",
    "SELECT * FROM pragma_table_info('jobs')",
    "SELECT * FROM pragma_journal_mode",
    "SELECT load_extension('{path}')",
    "SELECT fts3_tokenizer('simple')",
    "SELECT writefile('{path}', 'x')",
    "SELECT readfile('/etc/passwd')",
    "REPLACE INTO aliases SELECT * FROM aliases",
    "INSERT INTO sqlite_master SELECT * FROM sqlite_master",
    "UPDATE sqlite_master SET sql = ''",
    "CREATE VIRTUAL TABLE mine USING fts5(x)",
    "CREATE TRIGGER mine AFTER INSERT ON jobs BEGIN DELETE FROM jobs; END",
    "EXPLAIN DELETE FROM jobs",
)

POSTGRESQL_ATTACKS = (
    "TRUNCATE cams",
    "SELECT * INTO mine FROM jobs",
    "SELECT * INTO TEMP mine FROM jobs",
    "SELECT * FROM jobs FOR UPDATE",
    "SELECT * FROM jobs FOR KEY SHARE",
    "MERGE INTO models m USING models n ON m.id = n.id WHEN MATCHED THEN DELETE",
    "LOCK TABLE jobs",
    "SET TRANSACTION READ WRITE",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
    "SET ROLE postgres",
    "RESET ROLE",
    "RESET ALL",
    "DISCARD ALL",
    "SET SESSION AUTHORIZATION postgres",
    "SELECT set_config('transaction_read_only', 'off', true)",
    "SELECT set_config('role', 'postgres', true)",
    "SELECT set_config('session_authorization', 'postgres', true)",
    # The login's role back, and then a function that looks at the role only when it is called.
    "SELECT set_config('role', 'postgres', true), query_to_xml("
    "'SELECT pg_read_file(''/etc/passwd'')', true, false, '')",
    "SELECT query_to_xml('SELECT lo_export(1, ''{path}'')', true, false, '') "
    "FROM (SELECT set_config('role', 'none', true) OFFSET 0) AS first",
    "SELECT query_to_xml('SET ROLE postgres', true, false, '')",
    "SELECT query_to_xml('DELETE FROM jobs', true, false, '')",
    "SELECT ts_stat('DELETE FROM jobs RETURNING state::tsvector')",
    "COPY jobs TO '{path}'",
    "COPY (SELECT 1) TO STDOUT",
    "COPY jobs TO PROGRAM 'touch {path}'",
    "COPY jobs FROM PROGRAM 'echo 1'",
    "SELECT lo_import('/etc/passwd')",
    "SELECT lo_export(1, '{path}')",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT pg_read_binary_file('/etc/passwd')",
    "SELECT pg_ls_dir('/')",
    "SELECT pg_stat_file('/etc/passwd')",
    "SELECT nextval('jobs_id_seq')",
    "SELECT setval('jobs_id_seq', 99)",
    "DO $$ BEGIN DELETE FROM jobs; END $$",
    "CALL mine()",
    "PREPARE mine AS SELECT 1",
    "EXECUTE mine",
    "DECLARE mine CURSOR FOR SELECT 1",
    "LISTEN mine",
    "NOTIFY mine",
    "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE FUNCTION pg_temp.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE EXTENSION dblink",
    "CREATE ROLE mine SUPERUSER",
    "ALTER ROLE pneumoq_reader SUPERUSER",
    "GRANT postgres TO pneumoq_reader",
    "ALTER SYSTEM SET fsync = off",
    "CHECKPOINT",
    "REFRESH MATERIALIZED VIEW mine",
    "SELECT dblink('', 'DELETE FROM jobs')",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()",
    "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()",
    "SELECT pg_reload_conf()",
    "SELECT pg_switch_wal()",
    "SELECT pg_create_restore_point('mine')",
    "SELECT pg_create_physical_replication_slot('mine')",
    "SELECT pg_stat_reset()",
    "SELECT pg_promote()",
    "SELECT rolpassword FROM pg_authid",
    "SELECT * FROM pg_temp.answer()",
    "SELECT $1",
)

#: What PostgreSQL lets every login call; the rollback takes it back.
TAKEN_BACK = (
    "SELECT lo_from_bytea(0, 'mine')",
    "SELECT lo_create(4711)",
    "SELECT pg_notify('mine', 'x')",
    "SELECT set_config('search_path', 'mine', false)",
    "SELECT pg_advisory_lock(7663086)",
)

#: A row or two from each kind of reading that people do, and the answer.
QUESTIONS: tuple[tuple[str, list[tuple[Any, ...]]], ...] = (
    ("SELECT 1 AS one", [(1,)]),
    ("select state, count(*) from v_job_progress group by state;", [("running", 1)]),
    ("VALUES (1, 'a'), (2, 'b')", [(1, "a"), (2, "b")]),
    (
        "WITH scored AS (SELECT job_id, count(*) AS n FROM v_predictions GROUP BY job_id) "
        "SELECT j.state, s.n FROM v_job_progress j LEFT JOIN scored s ON s.job_id = j.job_id",
        [("running", 3)],
    ),
    (
        "WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 5) "
        "SELECT sum(n) FROM r",
        [(15,)],
    ),
    (
        "SELECT name, rank() OVER (ORDER BY item_no DESC) FROM v_predictions ORDER BY item_no",
        [("2.jpg", 3), ("3.jpg", 2), ("4.jpg", 1)],
    ),
    ("SELECT min(p.probability), count(*) FILTER (WHERE v.unusual = 1) FROM predictions p "
     "JOIN v_predictions v ON v.item_no = p.item_no", [(0.75, 0)]),
    ("SELECT name FROM v_refusals UNION SELECT name FROM v_item_errors ORDER BY name",
     [("0.jpg",), ("1.jpg",)]),
    ("SELECT 'Größe ☃ 胸片' AS \"Ü\", NULL -- a comment at the end", [("Größe ☃ 胸片", None)]),
    ("SELECT count(*) FROM models WHERE EXISTS (SELECT 1 FROM model_files)", [(1,)]),
    ("SELECT 100 % 7, '%s', 'a;b'", [(2, "%s", "a;b")]),
)  # fmt: skip


@pytest.fixture
def asked(database: sa.Engine) -> sa.Engine:
    """A database with a job that is half done."""
    given.running(database, shards=2, items=5)
    given.commit(database, given.claimed(database), refused=1, errors=1)
    return database


@pytest.fixture
def target() -> Iterator[Path]:
    """A file that does not exist, where a server under another account could write it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o777)
        yield folder / "written"


def _url(engine: sa.Engine) -> str:
    return engine.url.render_as_string(hide_password=False)


def _ask(url: str, statement: str, reader_url: str | None = None) -> list[tuple[Any, ...]]:
    with query.run(url, statement, reader_url) as answer:
        return list(answer.rows)


def _digest(engine: sa.Engine) -> str:
    """Changes with any row, and with any table, role, sequence or setting."""
    statements: list[sa.Executable] = [
        *(sa.select(t).order_by(*t.primary_key.columns) for t in metadata.sorted_tables),
        sa.text("SELECT version_num FROM alembic_version"),
    ]
    if engine.dialect.name == "sqlite":
        statements += [
            sa.text("SELECT type, name, sql FROM sqlite_master ORDER BY 1, 2"),
            sa.text("PRAGMA user_version"),
            sa.text("PRAGMA journal_mode"),
        ]
    else:
        statements += [
            sa.text("SELECT relname, relkind FROM pg_class WHERE relkind <> 't' ORDER BY 1, 2"),
            sa.text("SELECT proname FROM pg_proc WHERE oid > 16383 ORDER BY 1"),
            sa.text("SELECT sequencename, last_value FROM pg_sequences ORDER BY 1"),
            sa.text("SELECT rolname, rolsuper, rolcanlogin FROM pg_roles ORDER BY 1"),
            sa.text("SELECT roleid, member FROM pg_auth_members ORDER BY 1, 2"),
            sa.text("SELECT setdatabase, setrole, setconfig::text FROM pg_db_role_setting"),
            sa.text("SELECT extname FROM pg_extension"),
            sa.text("SELECT slot_name FROM pg_replication_slots"),
            sa.text("SELECT count(*) FROM pg_largeobject_metadata"),
        ]
    digest = hashlib.sha256()
    with reading(engine) as connection:
        for statement in statements:
            digest.update(repr(connection.execute(statement).all()).encode())
    return digest.hexdigest()


def _attack(
    url: str, attacks: tuple[str, ...], target: Path, reader_url: str | None = None
) -> dict[str, str]:
    """Attacks that were answered, or that were refused in more than one line."""
    wrong = {}
    for attack in attacks:
        statement = attack.replace("{path}", str(target))
        try:
            wrong[attack] = f"answered {_ask(url, statement, reader_url)}"
        except QueryRefused as error:
            if "\n" in str(error) or not str(error).strip():
                wrong[attack] = f"refused with {str(error)!r}"
    return wrong


def test_the_database_refuses_everything_that_is_not_reading(
    asked: sa.Engine, target: Path
) -> None:
    sqlite = asked.dialect.name == "sqlite"
    before = _digest(asked)

    attacks = (*ATTACKS, *(SQLITE_ATTACKS if sqlite else POSTGRESQL_ATTACKS))
    assert _attack(_url(asked), attacks, target) == {}

    assert _digest(asked) == before
    assert list(target.parent.iterdir()) == []
    if sqlite:
        file = Path(str(asked.url.database))
        made = {path.name for path in file.parent.iterdir()}
        assert made <= {file.name, f"{file.name}-wal", f"{file.name}-shm"}


def test_the_digest_notices_a_change(asked: sa.Engine) -> None:
    before = _digest(asked)

    write(asked, lambda c: c.exec_driver_sql("UPDATE models SET name = 'other'"))

    assert _digest(asked) != before


@pytest.mark.parametrize(("statement", "rows"), QUESTIONS, ids=lambda v: None)
def test_reading_is_answered(asked: sa.Engine, statement: str, rows: list[tuple[Any, ...]]) -> None:
    assert _ask(_url(asked), statement) == rows


def test_json_is_read_as_the_database_reads_it(asked: sa.Engine) -> None:
    url = _url(asked)
    if asked.dialect.name == "sqlite":
        statements = (
            "SELECT json_extract(spec, '$.precision') FROM jobs",
            "SELECT e.value FROM jobs, json_each(jobs.spec) AS e",
        )
    else:
        statements = (
            "SELECT spec ->> 'precision' FROM jobs",
            "SELECT e.value #>> '{}' FROM jobs, jsonb_each(jobs.spec) AS e",
        )
    for statement in statements:
        assert _ask(url, statement) == [("fp32",)]


def test_columns_keep_their_names_even_when_two_are_the_same(asked: sa.Engine) -> None:
    with query.run(_url(asked), 'SELECT 1 AS a, 2 AS "große Zahl", 3 AS a') as answer:
        assert answer.columns == ["a", "große Zahl", "a"]
        assert list(answer.rows) == [(1, 2, 3)]


def test_the_schema_can_be_read(asked: sa.Engine) -> None:
    if asked.dialect.name == "sqlite":
        statement = "SELECT name FROM sqlite_master WHERE type = 'view' AND name = 'v_models'"
    else:
        statement = (
            "SELECT DISTINCT table_name FROM information_schema.columns "
            "WHERE table_name = 'v_models'"
        )

    assert _ask(_url(asked), statement) == [("v_models",)]


def test_a_mistake_is_explained_in_one_line(asked: sa.Engine) -> None:
    for statement, words in {
        "SELECT nope FROM jobs": "nope",
        "SELECT * FROM no_such_table": "no_such_table",
        "SELEC 1": "syntax error",
        "DELETE FROM jobs": "only reading is allowed here",
        "SELECT 1; SELECT 2": "only reading is allowed here: one SELECT",
    }.items():
        with pytest.raises(QueryRefused, match=words) as caught:
            _ask(_url(asked), statement)
        assert "\n" not in str(caught.value)


def test_an_error_in_the_middle_of_the_rows_is_a_refusal(asked: sa.Engine) -> None:
    failing = "CAST(json('no') AS int)" if asked.dialect.name == "sqlite" else "1 / (n - 5000)"
    statement = (
        "WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 9000) "
        f"SELECT CASE WHEN n < 5000 THEN n ELSE {failing} END FROM r"
    )

    with pytest.raises(QueryRefused):
        _ask(_url(asked), statement)


def test_an_answer_can_be_left_before_its_end(asked: sa.Engine) -> None:
    statement = (
        "WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 5000) "
        "SELECT n FROM r"
    )
    with query.run(_url(asked), statement) as answer:
        assert [next(answer.rows) for _ in range(1500)][-1] == (1500,)

    assert len(_ask(_url(asked), statement)) == 5000


def test_a_question_is_answered_while_others_write(asked: sa.Engine) -> None:
    with query.run(_url(asked), "SELECT id FROM jobs ORDER BY id") as answer:
        job_id = given.queued(asked)
        assert (job_id,) not in list(answer.rows)

    assert (job_id,) in _ask(_url(asked), "SELECT id FROM jobs")


def test_a_sqlite_file_is_found_whatever_its_name_is(
    sqlite_database: sa.Engine, tmp_path: Path
) -> None:
    odd = tmp_path / "a b#c?d%20e ü.db"
    with reading(sqlite_database) as connection:
        connection.exec_driver_sql("SELECT 1")
    sqlite_database.dispose()
    Path(str(sqlite_database.url.database)).rename(odd)

    assert _ask(f"sqlite:///{odd}", "SELECT count(*) FROM models") == [(1,)]


def test_a_sqlite_file_that_is_absent_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(QueryRefused, match="cannot be opened for reading"):
        _ask(f"sqlite:///{tmp_path}/absent.db", "SELECT 1")

    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a database at all, but long enough " * 100)

    with pytest.raises(QueryRefused, match="not a database"):
        _ask(f"sqlite:///{tmp_path}/notes.txt", "SELECT * FROM jobs")


@pytest.mark.postgres
@pytest.mark.parametrize("statement", TAKEN_BACK)
def test_what_every_login_may_do_is_taken_back(
    postgres_database: sa.Engine, statement: str
) -> None:
    before = _digest(postgres_database)

    with query.run(_url(postgres_database), statement) as answer:
        list(answer.rows)

    assert _digest(postgres_database) == before
    with reading(postgres_database) as connection:
        held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        assert connection.exec_driver_sql(held).scalar_one() == 0


@pytest.mark.postgres
@pytest.mark.parametrize("role", ["none", "postgres", "pneumoq_reader"])
def test_the_login_cannot_have_its_role_back(postgres_database: sa.Engine, role: str) -> None:
    with pytest.raises(QueryRefused, match="within security-definer function"):
        _ask(_url(postgres_database), f"SELECT set_config('role', '{role}', false)")


@pytest.mark.postgres
def test_the_statement_runs_as_the_reader_in_a_read_only_transaction(
    postgres_database: sa.Engine,
) -> None:
    statement = "SELECT current_user, current_setting('transaction_read_only')"

    assert _ask(_url(postgres_database), statement) == [("pneumoq_reader", "on")]


@pytest.mark.postgres
def test_times_are_in_utc_whatever_the_server_thinks(
    postgres_server: servers.Postgres, postgres_database: sa.Engine
) -> None:
    url = postgres_database.url.update_query_dict({"options": "-c timezone=Asia/Tokyo"})

    for reader in (None, url.render_as_string(hide_password=False)):
        (row,) = _ask(
            url.render_as_string(hide_password=False),
            "SELECT to_timestamp(0)::text, to_timestamp(0)",
            reader,
        )
        assert row[0] == "1970-01-01 00:00:00+00"
        assert str(row[1].utcoffset()) == "0:00:00"


@pytest.mark.postgres
def test_columns_without_a_type_of_their_own_come_as_text(postgres_database: sa.Engine) -> None:
    url = _url(postgres_database)

    assert _ask(url, "SELECT ROW(1, 'a'), 1") == [("(1,a)", 1)]
    assert _ask(url, "SELECT most_common_vals FROM pg_stats LIMIT 0") == []


@pytest.fixture
def login(postgres_server: servers.Postgres, postgres_database: sa.Engine) -> Iterator[str]:
    """URL of a login that may read and nothing else, as an administrator would make it."""
    with postgres_server.connect(str(postgres_database.url.database)) as connection:
        connection.execute("CREATE ROLE looker LOGIN")
        connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO looker")
    yield _url(postgres_database).replace("postgres@", "looker@")
    with postgres_server.connect(str(postgres_database.url.database)) as connection:
        connection.execute("DROP OWNED BY looker")
        connection.execute("DROP ROLE looker")


@pytest.mark.postgres
def test_a_login_of_its_own_reads_and_is_refused_the_same(
    postgres_database: sa.Engine, login: str, target: Path
) -> None:
    url = _url(postgres_database)
    given.running(postgres_database, shards=2, items=5)
    given.commit(postgres_database, given.claimed(postgres_database), refused=1, errors=1)
    before = _digest(postgres_database)

    assert _attack(url, (*ATTACKS, *POSTGRESQL_ATTACKS), target, login) == {}
    for statement, rows in QUESTIONS:
        assert _ask(url, statement, login) == rows
    assert _ask(url, "SELECT current_user", login) == [("looker",)]

    assert _digest(postgres_database) == before
    assert list(target.parent.iterdir()) == []


@pytest.mark.postgres
def test_workers_survive_whoever_asks(postgres_database: sa.Engine) -> None:
    """Even an owner of the database, who may end its own sessions elsewhere, cannot here."""
    job_id = given.running(postgres_database)
    with postgres_database.connect() as worker:
        pid = worker.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
        for function in ("pg_terminate_backend", "pg_cancel_backend"):
            with pytest.raises(QueryRefused, match="must be"):
                _ask(_url(postgres_database), f"SELECT {function}({pid})")
        assert worker.execute(sa.text("SELECT 1")).scalar_one() == 1

    assert jobs.get(postgres_database, job_id)["state"] == "running"


def test_sqlite_itself_refuses_to_write_where_the_authorizer_is_not_asked(
    sqlite_database: sa.Engine,
) -> None:
    """The file is opened read-only; the authorizer is the second wall."""
    uri = Path(str(sqlite_database.url.database)).as_uri() + "?mode=ro"
    connection = sqlite3.connect(uri, uri=True)
    try:
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            connection.execute("DELETE FROM jobs")
    finally:
        connection.close()
