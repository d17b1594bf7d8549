"""Many rows at once: whole or not at all, and errors are those of any statement."""

from __future__ import annotations

import time

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError

from db.base import bulk
from db.base.database import away, write
from db.base.schema import predictions
from db.queue import results
from tests.db import given

#: What a commit may cost beside the bare rows: it has more columns, a fence and counters.
RATIO = 5

COLUMNS = ("job_id", "item_no", "shard_no", "name", "model_id", "label_no", "probability")


def _row(item_no: int, name: str = "x") -> bulk.Row:
    return (1, item_no, 0, name, 1, 0, 0.5)


def test_odd_values_come_back_as_they_were(database: sa.Engine) -> None:
    given.running(database)
    names = ["", "tab\there", "new\nline", "back\\slash", "\\N", "Größe ☃ 胸片", "'\"", "NULL"]

    write(
        database,
        lambda c: bulk.insert(
            c, "predictions", COLUMNS, [_row(n, name) for n, name in enumerate(names)]
        ),
    )

    for n, name in enumerate(names):
        assert given.one(database, predictions, predictions.c.item_no == n).name == name


@pytest.mark.postgres
def test_an_array_comes_back_as_it_was(postgres_database: sa.Engine) -> None:
    names = [
        "",
        "tab\there",
        "new\nline",
        "back\\slash",
        "\\N",
        "Größe ☃ 胸片",
        "'\"",
        "NULL",
        "{},",
    ]
    given_ones: dict[str, list[bytes] | list[int] | list[str]] = {
        "text": names,
        "int": [-3, 0, 2**31 - 1],
        "bytea": [b"", bytes(range(256)), b"\\x"],
    }
    with postgres_database.connect() as connection:
        for kind, values in given_ones.items():
            found = connection.exec_driver_sql(
                f"SELECT v FROM unnest(%s::{kind}[]) AS v",  # constants
                (bulk.array(values),),
            )
            assert found.scalars().all() == values


def test_one_bad_row_keeps_all_out(database: sa.Engine) -> None:
    given.running(database)

    with pytest.raises(IntegrityError):
        write(
            database,
            lambda c: bulk.insert(c, "predictions", COLUMNS, [_row(0), _row(1), _row(1)]),
        )

    assert given.count(database, predictions) == 0


@pytest.mark.postgres
def test_a_connection_that_breaks_while_rows_are_sent_is_heard_as_a_passing_error(
    postgres_database: sa.Engine,
) -> None:
    given.running(postgres_database)

    def work(connection: sa.Connection) -> None:
        pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        with postgres_database.connect() as other:
            other.exec_driver_sql(f"SELECT pg_terminate_backend({pid})")
        bulk.insert(connection, "predictions", COLUMNS, [_row(n) for n in range(1000)])

    with (
        pytest.raises(DBAPIError) as caught,
        postgres_database.connect() as connection,
        connection.begin(),
    ):
        work(connection)

    assert isinstance(caught.value.orig, psycopg.Error)
    assert away(caught.value)
    calls = []

    def once_broken(connection: sa.Connection) -> None:
        calls.append(1)
        if len(calls) == 1:
            work(connection)
        bulk.insert(connection, "predictions", COLUMNS, [_row(n) for n in range(1000)])

    write(postgres_database, once_broken)
    assert given.count(postgres_database, predictions) == 1000


def test_committing_a_shard_costs_little_more_than_sending_its_rows(database: sa.Engine) -> None:
    """A few times what the driver needs to insert such rows and nothing else."""
    given.running(database, shards=8, items=1024)
    rows = [
        {"n": n, "name": f"film {n}.jpeg", "content": n.to_bytes(16, "big"), "p": 0.5}
        for n in range(1024)
    ]
    bare = sa.text("INSERT INTO bare VALUES (:n, :name, :content, :p)")
    column = "bytea" if database.dialect.name == "postgresql" else "blob"
    write(
        database,
        lambda c: c.exec_driver_sql(
            f"CREATE TABLE bare (n int, name varchar(64), content {column}, p float)"
        ),
    )
    spent_s = bare_s = 0.0
    for _ in range(8):
        shard = given.claimed(database)
        made = [
            o._replace(content=(o.item_no * 2654435761 % 2**32).to_bytes(16, "big"))
            for o in given.outcomes(shard)
            if isinstance(o, results.Prediction)
        ]
        start = time.process_time()
        write(database, lambda c, s=shard, m=made: results.commit(c, s, m))  # type: ignore[misc]
        spent_s += time.process_time() - start
        start = time.process_time()
        write(database, lambda c: c.execute(bare, rows))
        bare_s += time.process_time() - start

    assert spent_s < RATIO * bare_s
