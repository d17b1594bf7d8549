"""A write waits for what passes, repeats what is safe to repeat, and reports what is wrong."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError

from db.base.database import away, connect, patient, reading, write
from db.base.errors import Unavailable
from db.base.schema import jobs as jobs_table
from db.queue import jobs
from tests.db import given
from tests.support import servers


@pytest.fixture
def impatient(sqlite_database: sa.Engine) -> sa.Engine:
    """A SQLite database that reports a lock after 20 ms instead of waiting for it."""

    @event.listens_for(sqlite_database, "connect")
    def _(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA busy_timeout = 20")

    return sqlite_database


@contextmanager
def write_lock(engine: sa.Engine) -> Iterator[sqlite3.Connection]:
    """The lock that SQLite gives to one writer, held by somebody else."""
    path = str(engine.url.database)
    with closing(
        sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    ) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield connection


def test_a_write_waits_while_another_process_holds_the_lock(impatient: sa.Engine) -> None:
    began = time.monotonic()
    with write_lock(impatient) as holder:
        release = threading.Timer(2.0, holder.rollback)
        release.start()
        job_id = given.queued(impatient)
        waited_s = time.monotonic() - began
        release.join()

    assert waited_s >= 2.0
    assert jobs.get(impatient, job_id)["state"] == "queued"


def test_a_write_is_given_up_when_patience_ends(impatient: sa.Engine) -> None:
    calls: list[None] = []
    with (
        write_lock(impatient),
        pytest.raises(Unavailable, match=r"did not answer for 0 s: .*locked"),
    ):
        write(impatient, lambda _: calls.append(None), patience_s=0.3)

    assert calls == []


def test_what_is_in_hand_is_waited_for_longer_than_any_patience(impatient: sa.Engine) -> None:
    in_hand = threading.Event()
    in_hand.set()
    held = patient(impatient, 0.1, in_hand=in_hand.is_set)
    with write_lock(impatient) as holder:
        release = threading.Timer(1.0, holder.rollback)
        release.start()
        job_id = given.queued(held)
        release.join()
    assert jobs.get(impatient, job_id)["state"] == "queued"
    with write_lock(impatient), pytest.raises(Unavailable) as caught:
        threading.Timer(0.5, in_hand.clear).start()
        given.queued(held)
    assert away(caught.value)


def test_reading_does_not_wait_for_a_writer(impatient: sa.Engine) -> None:
    job_id = given.queued(impatient)
    with write_lock(impatient):
        assert jobs.get(impatient, job_id)["state"] == "queued"


def test_reading_sees_one_state_throughout(database: sa.Engine) -> None:
    count = sa.select(sa.func.count()).select_from(jobs_table)
    with reading(database) as connection:
        before = connection.execute(count).scalar_one()
        given.queued(database)
        assert connection.execute(count).scalar_one() == before

    assert given.count(database, jobs_table) == before + 1


def test_a_write_that_fails_leaves_nothing(database: sa.Engine) -> None:
    def work(connection: sa.Connection) -> None:
        jobs.submit(connection, kind="train", spec={}, submitted_by="tests")
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        write(database, work)

    assert given.count(database, jobs_table) == 0


def test_a_broken_constraint_is_reported_at_once(database: sa.Engine) -> None:
    calls: list[None] = []

    def work(connection: sa.Connection) -> None:
        calls.append(None)
        jobs.submit(connection, kind="nonsense", spec={}, submitted_by="tests")

    with pytest.raises(IntegrityError):
        write(database, work)

    assert len(calls) == 1


def test_wrong_sql_is_reported_at_once(database: sa.Engine) -> None:
    calls: list[None] = []

    def work(connection: sa.Connection) -> None:
        calls.append(None)
        connection.execute(sa.text("SELECT no_such_column FROM jobs"))

    with pytest.raises(sa.exc.DBAPIError) as caught:
        write(database, work)

    assert len(calls) == 1
    assert not away(caught.value)


def test_a_writer_that_reads_first_does_not_have_to_begin_again(
    sqlite_database: sa.Engine,
) -> None:
    """A transaction that took no lock when it began would fail where another wrote meanwhile."""
    calls: list[None] = []

    def work(connection: sa.Connection) -> None:
        calls.append(None)
        connection.execute(sa.select(jobs_table.c.id)).all()
        time.sleep(0.05)
        jobs.submit(connection, kind="train", spec={}, submitted_by="tests")

    given.together(*[lambda: write(sqlite_database, work)] * 3)

    assert len(calls) == 3
    assert given.count(sqlite_database, jobs_table) == 3


def test_two_writers_that_insert_the_same_get_one_row(database: sa.Engine) -> None:
    for n in range(10):
        ids = given.together(*[lambda n=n: given.queued(database, key=f"key {n}")] * 4)
        assert len(set(ids)) == 1, ids

    assert given.count(database, jobs_table) == 10


@pytest.mark.postgres
def test_a_write_whose_connection_is_cut_is_repeated(
    postgres_database: sa.Engine, postgres_server: servers.Postgres
) -> None:
    calls: list[int] = []

    def work(connection: sa.Connection) -> int:
        job_id = jobs.submit(connection, kind="train", spec={}, submitted_by="tests")
        calls.append(job_id)
        if len(calls) == 1:
            own = connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
            with postgres_server.connect() as other:
                other.execute("SELECT pg_terminate_backend(%s, 5000)", [own])
            connection.execute(sa.text("SELECT 1"))
        return job_id

    job_id = write(postgres_database, work)

    assert len(calls) == 2
    assert given.one(postgres_database, jobs_table).id == job_id


@pytest.mark.postgres
def test_idle_connections_that_were_cut_are_replaced(
    postgres_database: sa.Engine, postgres_server: servers.Postgres
) -> None:
    given.queued(postgres_database)
    with postgres_server.connect() as other:
        other.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s",
            [postgres_database.url.database],
        )

    with reading(postgres_database) as connection:
        assert connection.execute(sa.select(sa.func.count(jobs_table.c.id))).scalar_one() == 1


@pytest.mark.postgres
def test_a_deadlock_is_repeated(postgres_database: sa.Engine) -> None:
    first, second = given.queued(postgres_database), given.queued(postgres_database)
    both = threading.Barrier(2)
    calls: list[int] = []

    def work(order: tuple[int, int]) -> None:
        def lock(connection: sa.Connection) -> None:
            calls.append(order[0])
            connection.execute(sa.text("SET LOCAL deadlock_timeout = '50ms'"))
            for n, job_id in enumerate(order):
                connection.execute(
                    sa.select(jobs_table.c.id).where(jobs_table.c.id == job_id).with_for_update()
                )
                if n == 0 and len(calls) <= 2:
                    both.wait(timeout=10)

        write(postgres_database, lock)

    done = given.together(lambda: work((first, second)), lambda: work((second, first)))

    assert done == [None, None]
    assert len(calls) == 3


def test_a_server_that_is_absent_is_unavailable(tmp_path: Path) -> None:
    engine = connect(f"postgresql://nobody@/nothing?host={tmp_path}")

    with pytest.raises(Unavailable, match="did not answer"):
        write(engine, lambda _: None, patience_s=0.2)


def test_a_folder_that_is_absent_is_unavailable(tmp_path: Path) -> None:
    engine = connect(f"sqlite:///{tmp_path}/absent/pneumoq.db")

    with pytest.raises(Unavailable, match="unable to open"):
        write(engine, lambda _: None, patience_s=0.2)


@pytest.mark.postgres
def test_the_servers_default_isolation_does_not_matter(
    postgres_server: servers.Postgres, postgres_url: str
) -> None:
    name = sa.make_url(postgres_url).database
    with postgres_server.connect() as connection:
        connection.execute(
            f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'".encode()
        )
    engine = connect(postgres_url)

    level = write(engine, lambda c: c.execute(sa.text("SHOW transaction_isolation")).scalar())

    engine.dispose()
    assert level == "read committed"
