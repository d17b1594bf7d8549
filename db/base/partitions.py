"""PostgreSQL partitions of the tables keyed by (job, item): one per thousand jobs."""

from __future__ import annotations

import sqlalchemy as sa

from db.base.schema import PARTITION_JOBS, PARTITIONED

#: Key of the advisory lock under which partitions are made.
LOCK = 7663087


def ensure(connection: sa.Connection, job_id: int) -> None:
    """Make the partitions that hold this job's rows, where they are missing."""
    if connection.dialect.name != "postgresql":
        return
    number = job_id // PARTITION_JOBS
    first, last = number * PARTITION_JOBS, (number + 1) * PARTITION_JOBS
    if _exist(connection, number):
        return
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
    if _exist(connection, number):
        return
    for table in PARTITIONED:
        # CREATE TABLE … PARTITION OF would wait for whoever reads or writes the table, and make
        # everybody wait behind it; ATTACH PARTITION waits for nobody.
        name = f"{table}_p{number}"
        connection.exec_driver_sql(
            f"CREATE TABLE {name} (LIKE {table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS)"
        )
        connection.exec_driver_sql(
            f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ({first}) TO ({last})"
        )


def _exist(connection: sa.Connection, number: int) -> bool:
    # They are made together, so that one stands for all. to_regclass() would answer from a cache
    # that does not notice what another session has committed meanwhile.
    table = PARTITIONED[0]
    found = connection.execute(
        sa.text(
            "SELECT 1 FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid "
            "WHERE inhparent = CAST(:table AS regclass) AND relname = :partition"
        ),
        {"table": table, "partition": f"{table}_p{number}"},
    )
    return found.first() is not None
