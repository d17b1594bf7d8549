"""PostgreSQL keeps the rows of a thousand jobs together, and new partitions disturb nobody."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from db.base import partitions
from db.base.database import reading, write
from db.base.schema import PARTITION_JOBS, PARTITIONED, metadata
from db.queue import results
from tests.db import given

pytestmark = pytest.mark.postgres

FAR = 7 * PARTITION_JOBS


@pytest.fixture(autouse=True)
def only_the_first(postgres_database: sa.Engine) -> None:
    """Partitions that an earlier test made are dropped."""

    def drop(connection: sa.Connection) -> None:
        for table in PARTITIONED:
            connection.exec_driver_sql(f"DROP TABLE IF EXISTS {table}_p7")

    write(postgres_database, drop)


def _partitions(database: sa.Engine) -> set[str]:
    with reading(database) as connection:
        return set(
            connection.exec_driver_sql("SELECT inhrelid::regclass::text FROM pg_inherits").scalars()
        )


def test_partitions_are_made_for_the_jobs_that_need_them(postgres_database: sa.Engine) -> None:
    for job_id in (FAR, FAR + 1, FAR + PARTITION_JOBS - 1):
        write(postgres_database, lambda c, j=job_id: partitions.ensure(c, j))  # type: ignore[misc]

    assert {name for name in _partitions(postgres_database) if name.endswith("_p7")} == {
        f"{table}_p7" for table in PARTITIONED
    }


def test_rows_at_both_ends_of_a_partition_find_their_place(postgres_database: sa.Engine) -> None:
    write(postgres_database, lambda c: partitions.ensure(c, FAR))
    item = {"item_no": 0, "shard_no": 0, "name": "x", "code": "x", "detail": "x"}

    for job_id in (FAR, FAR + PARTITION_JOBS - 1):
        write(
            postgres_database,
            lambda c, j=job_id: c.execute(  # type: ignore[misc]
                sa.insert(metadata.tables["refusals"]).values(job_id=j, **item)
            ),
        )
    with pytest.raises(sa.exc.IntegrityError, match="no partition"):
        write(
            postgres_database,
            lambda c: c.execute(
                sa.insert(metadata.tables["refusals"]).values(job_id=FAR - 1, **item)
            ),
        )


def test_a_partition_keeps_the_rules_of_its_table(postgres_database: sa.Engine) -> None:
    write(postgres_database, lambda c: partitions.ensure(c, FAR))
    row = {
        "job_id": FAR, "item_no": 0, "shard_no": 0, "name": "x", "model_id": 1, "label_no": 0,
    }  # fmt: skip

    def insert(probability: float) -> None:
        write(
            postgres_database,
            lambda c: c.execute(
                sa.insert(metadata.tables["predictions"]).values(probability=probability, **row)
            ),
        )

    with pytest.raises(sa.exc.IntegrityError, match="ck_predictions_probability"):
        insert(1.5)
    insert(0.5)
    with pytest.raises(sa.exc.IntegrityError, match="duplicate key"):
        insert(0.5)


def test_new_partitions_wait_for_no_reader_and_no_writer(postgres_database: sa.Engine) -> None:
    given.running(postgres_database, shards=2)
    shard = given.claimed(postgres_database)

    def ensure(connection: sa.Connection) -> None:
        connection.exec_driver_sql("SET LOCAL lock_timeout = '1s'")
        partitions.ensure(connection, FAR)

    with reading(postgres_database) as reader, postgres_database.begin() as writer:
        reader.exec_driver_sql("SELECT count(*) FROM v_predictions")
        results.commit(writer, shard, given.outcomes(shard))
        write(postgres_database, ensure, patience_s=0.0)

    assert "predictions_p7" in _partitions(postgres_database)


def test_many_that_need_a_new_partition_at_once_all_get_it(postgres_database: sa.Engine) -> None:
    done = given.together(
        *[
            lambda n=n: write(postgres_database, lambda c: partitions.ensure(c, FAR + n))
            for n in range(6)
        ]
    )

    assert done == [None] * 6
