"""Many rows at once: whole or not at all, and errors are those of any statement."""

from __future__ import annotations

import time

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError

from db.base import bulk
from db.base.database import passing, write
from db.base.schema import predictions
from db.queue import results
from tests.db import given

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
    assert passing(caught.value)
    calls = []

    def once_broken(connection: sa.Connection) -> None:
        calls.append(1)
        if len(calls) == 1:
            work(connection)
        bulk.insert(connection, "predictions", COLUMNS, [_row(n) for n in range(1000)])

    write(postgres_database, once_broken)
    assert given.count(postgres_database, predictions) == 1000


def test_a_shard_of_usual_size_is_committed_fast(database: sa.Engine) -> None:
    """Some 70,000 predictions a second on one core; a tenth of that is demanded here."""
    given.running(database, shards=8, items=1024)
    spent_s = 0.0
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

    assert 8 * 1024 / spent_s > 7_000
