"""Old jobs leave the database; what was answered from them stays whole."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from db.base import partitions
from db.base.database import reading, write
from db.base.errors import Conflict
from db.base.schema import PARTITION_JOBS, PARTITIONED, metadata
from db.queue import jobs, labels, results, reuse
from db.work import control, purge
from tests.db import given

ALL = timedelta(seconds=-1)
ZIP = [{"uri": "/films.zip", "kind": "zip", "fingerprint": "1", "content_id": "zip:9:ab"}]
LEFT_EMPTY = (
    *PARTITIONED, "rollups", "shard_listings", "sources", "films", "shard_totals", "source_totals",
)  # fmt: skip


def _ended(database: sa.Engine, **options: Any) -> int:
    """A job with rows in every table."""
    job_id = given.running(database, shards=2, items=5, source_rows=ZIP, **options)
    for _ in range(2):
        shard = given.claimed(database)
        made = [
            o._replace(identity=results.Identity("p", "s", "a"))
            for o in given.outcomes(shard, refused=1, errors=1)
        ]
        made[2:] = [
            o._replace(
                content=bytes([o.item_no * 25]) * 16, cam=results.Cam(1, 1, 0.0, 1.0, b"x"),
                unusual=True,
            )
            for o in made[2:] if isinstance(o, results.Prediction)
        ]  # fmt: skip
        write(database, lambda c, s=shard, m=made: results.commit(c, s, m))  # type: ignore[misc]
    given.close(database, job_id)
    write(database, lambda c: labels.import_rows(c, job_id, [(2, "NORMAL")], "tests"))
    return job_id


def _purge(database: sa.Engine, older_than: timedelta = ALL, **options: Any) -> purge.Purged:
    return purge.purge(database, older_than, "kim@ward", **options)


def test_nothing_of_a_purged_job_is_left_but_its_sums(
    database: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purge, "ITEMS", 3)
    job_id = _ended(database, key="nightly")
    before = dict(jobs.progress(database, job_id))

    assert _purge(database) == (1, 10, 0)

    for name in LEFT_EMPTY:
        assert given.count(database, metadata.tables[name]) == 0, name
    after = dict(jobs.progress(database, job_id))
    assert after["purged_at"] is not None
    changed = {k for k in after if after[k] != before[k]}
    assert changed == {"purged_at", "shards", "shards_done"}
    assert [(e["event"], e["who"]) for e in jobs.events(database, job_id)] == [
        ("purged", "kim@ward")
    ]
    assert _purge(database) == (0, 0, 0)
    assert given.queued(database, key="nightly") != job_id


def test_only_old_jobs_that_have_ended_are_purged(database: sa.Engine) -> None:
    ended, kept = _ended(database), _ended(database)
    running, training = given.running(database), given.queued(database, "train")
    write(database, lambda c: control.cancel(c, training, "x"))

    assert _purge(database, timedelta(days=1)) == (0, 0, 0)
    assert [row["id"] for row in purge.candidates(database, ALL)] == [ended, kept]
    assert _purge(database, keep=[kept]).jobs == 1

    purged = {n for n in (ended, kept, running, training) if jobs.get(database, n)["purged_at"]}
    assert purged == {ended}
    assert given.claimed(database).job_id == running


def test_a_job_that_a_retry_still_reads_is_kept(database: sa.Engine) -> None:
    parent = _ended(database)
    child = write(database, lambda c: control.retry(c, parent, "x", failed_only=True))

    assert _purge(database).jobs == 0

    write(database, lambda c: control.cancel(c, child, "x"))
    assert _purge(database).jobs == 2


def test_what_was_answered_from_a_purged_job_stays_whole(database: sa.Engine) -> None:
    origin = _ended(database)
    lease = given.planning(database, source_rows=ZIP).lease
    statement = sa.text("SELECT * FROM v_predictions WHERE job_id = :job ORDER BY item_no")
    given.running(database, items=1, priority=1)
    shard = given.claimed(database)
    made = [results.Prediction(0, "x.jpg", 1, 0.5, True, reused_from=(origin, 3))]
    write(database, lambda c: results.commit(c, shard, made))
    with reading(database) as connection:
        before = connection.execute(statement, {"job": shard.job_id}).all()
    assert len(before) == 1

    _purge(database)

    with reading(database) as connection:
        assert connection.execute(statement, {"job": shard.job_id}).all() == before
        assert before[0].reused_from_job == origin
        assert reuse.find_copy(connection, "zip:9:ab", 1, "fp32", {}) is None
        assert not reuse.any_known(connection, 1, "fp32")
    assert jobs.get(database, origin)["purged_at"] is not None
    # A planner that had found it before lists the archive itself.
    assert write(database, lambda c: reuse.copy_source(c, lease, origin, 0, 0, {})) == (0, 0, False)


def test_a_purged_job_is_neither_retried_nor_labelled(database: sa.Engine) -> None:
    job_id = _ended(database)
    _purge(database)

    with pytest.raises(Conflict, match="was purged"):
        write(database, lambda c: control.retry(c, job_id, "x"))
    with pytest.raises(Conflict, match="was purged"):
        write(database, lambda c: labels.import_rows(c, job_id, [(2, "NORMAL")], "x"))


def test_a_purge_that_was_interrupted_goes_on(database: sa.Engine) -> None:
    job_id = _ended(database)

    def interrupt(_c: object, _k: object, statement: str, *_: object) -> None:
        if statement.startswith("DELETE FROM sources"):
            raise KeyboardInterrupt

    sa.event.listen(database, "before_cursor_execute", interrupt)
    with pytest.raises(KeyboardInterrupt):
        _purge(database)
    sa.event.remove(database, "before_cursor_execute", interrupt)
    assert jobs.get(database, job_id)["purged_at"] is not None

    assert _purge(database).jobs == 1
    assert jobs.progress(database, job_id)["done"] == 10


@pytest.fixture
def far(postgres_database: sa.Engine) -> Iterator[int]:
    """From now on jobs have numbers above this one, in another partition."""
    number = 3 * PARTITION_JOBS

    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(f"SELECT setval('jobs_id_seq', {number})")

    def end(connection: sa.Connection) -> None:
        for table in PARTITIONED:
            connection.exec_driver_sql(f"DROP TABLE IF EXISTS {table}_p3")
        partitions.ensure(connection, 1)

    _ended(postgres_database)
    write(postgres_database, begin)
    yield number
    write(postgres_database, end)


@pytest.mark.postgres
def test_a_partition_of_purged_jobs_is_dropped_whole(
    postgres_database: sa.Engine, far: int
) -> None:
    new = _ended(postgres_database)
    assert new > far

    assert _purge(postgres_database, keep=[new]) == (1, 10, len(PARTITIONED))

    with reading(postgres_database) as connection:
        names = connection.exec_driver_sql("SELECT relname FROM pg_class").scalars().all()
    assert "predictions_p0" not in names
    assert "predictions_p3" in names
    assert jobs.progress(postgres_database, 1)["done"] == 10
    assert jobs.progress(postgres_database, new)["done"] == 10


@pytest.mark.postgres
@pytest.mark.usefixtures("far")
def test_a_partition_that_somebody_reads_is_emptied_instead(
    postgres_database: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purge, "DROP_TIMEOUT_MS", 50)
    given.queued(postgres_database)

    with reading(postgres_database) as reader:
        reader.exec_driver_sql("SELECT count(*) FROM v_predictions")
        assert _purge(postgres_database) == (1, 10, 0)

    assert given.count(postgres_database, metadata.tables["predictions"]) == 0
