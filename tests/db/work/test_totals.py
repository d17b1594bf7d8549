"""Sums over shards are what the rows say, whatever was retried, reused, purged or repeated."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from db.base import workers
from db.base.database import reading, write
from db.base.schema import shard_totals, shards
from db.queue import labels, listings, measured, results, reuse
from db.work import claims, control, purge, totals
from tests.db import given

ALL = timedelta(seconds=-1)
ZIP = [{"uri": "/films.zip", "kind": "zip", "fingerprint": "1", "content_id": "zip:9:ab"}]

#: Figures of v_daily_scores that are counted.
COUNTED = ("predictions", "positives", "unusual", "reused", "refused", "errors")

#: As release 0.2.0 purges a job: it knows nothing of sums per day.
PURGED_BY_AN_OLDER_RELEASE = (
    "UPDATE jobs SET purged_at = finished_at WHERE id = {job}",
    *(f"DELETE FROM {table} WHERE job_id = {{job}}" for table in (
        "predictions", "cams", "refusals", "item_errors", "labels", "identities", "rollups",
        "shard_listings",
    )),
    "CREATE TEMPORARY TABLE kept AS SELECT SUM(n_items) AS n, SUM(n_predictions) AS p, "
    "SUM(n_positive) AS pos, SUM(n_unusual) AS u, SUM(n_refused) AS r, SUM(n_errors) AS e, "
    "MAX(finished_at) AS at FROM shards WHERE job_id = {job} AND finished_at IS NOT NULL",
    "DELETE FROM shards WHERE job_id = {job}",
    "DELETE FROM sources WHERE job_id = {job}",
    "INSERT INTO shards (job_id, shard_no, source_no, first_item, n_items, state, finished_at, "
    "n_predictions, n_positive, n_unusual, n_refused, n_errors) "
    "SELECT {job}, 0, 0, 0, n, 'done', at, p, pos, u, r, e FROM kept",
    "DROP TABLE kept",
)  # fmt: skip


def _outcomes(shard: Any, *, refused: int = 0, errors: int = 0) -> list[results.Outcome]:
    """Outcomes whose films are told apart, of all tenths of probability."""
    made = given.outcomes(shard, refused=refused, errors=errors)
    return [
        o._replace(
            probability=(o.item_no * 7 % 100) / 100,
            positive=o.item_no % 2 == 0,
            unusual=o.item_no % 3 == 0,
            label_no=int(o.item_no % 2 == 0),
            content=f"film {o.item_no}".encode().ljust(16),
        )
        if isinstance(o, results.Prediction)
        else o
        for o in made
    ]


def _scored(database: sa.Engine, count: int = 2, items: int = 6, **options: Any) -> int:
    """A job that has ended, with a refusal and an error in each shard."""
    job_id = given.running(database, shards=count, items=items, source_rows=ZIP, **options)
    for _ in range(count):
        shard = given.claimed(database)
        made = _outcomes(shard, refused=1, errors=1)
        write(database, lambda c, s=shard, m=made: results.commit(c, s, m, 1.5))  # type: ignore[misc]
    given.close(database, job_id)
    return job_id


def _by_an_older_release(database: sa.Engine) -> None:
    """What was committed up to now was so by release 0.2.0, which writes no sums."""

    def forget(connection: sa.Connection) -> None:
        connection.execute(sa.delete(shard_totals))
        connection.execute(sa.update(shards).values(summed=None, seconds=None))

    write(database, forget)


def _counted(database: sa.Engine) -> dict[str, float]:
    """A full count of what is there."""
    with reading(database) as connection:
        row = connection.execute(
            sa.text(
                "SELECT COUNT(*), COALESCE(SUM(label_no), 0), COUNT(reused_from_job), "
                "COALESCE(SUM(probability), 0) FROM predictions"
            )
        ).one()
        unusual = connection.execute(sa.select(sa.func.sum(shards.c.n_unusual))).scalar()
        refused, errors = (
            connection.execute(sa.text(f"SELECT COUNT(*) FROM {table}")).scalar_one()
            for table in ("refusals", "item_errors")
        )
    return {
        "predictions": row[0], "positives": row[1], "unusual": unusual, "reused": row[2],
        "refused": refused, "errors": errors, "score_sum": round(row[3], 6),
    }  # fmt: skip


def _said(database: sa.Engine) -> dict[str, float]:
    """The same from the sums."""
    with reading(database) as connection:
        rows = connection.execute(sa.text("SELECT * FROM v_daily_scores")).mappings().all()
    found: Counter[str] = Counter()
    for row in rows:
        assert sum(row[f"tenth_{n}"] for n in range(10)) == row["predictions"]
        found.update({name: row[name] for name in COUNTED})
        found["score_sum"] += (row["mean_probability"] or 0) * row["predictions"]
    return {**{n: int(found[n]) for n in COUNTED}, "score_sum": round(found["score_sum"], 6)}


def _query(database: sa.Engine, statement: str) -> list[tuple[Any, ...]]:
    with reading(database) as connection:
        return [tuple(row) for row in connection.execute(sa.text(statement))]


def _tables(database: sa.Engine) -> list[list[tuple[Any, ...]]]:
    names = ("day_totals", "host_totals", "model_totals", "source_totals")
    return [sorted(_query(database, f"SELECT * FROM {name}")) for name in names]


def test_sums_are_a_full_count_before_and_after_they_are_added(database: sa.Engine) -> None:
    assert _said(database)["predictions"] == 0
    _scored(database)

    before = _said(database)
    assert before == _counted(database)
    assert before["predictions"] == 8
    assert totals.add_all(database) == 2
    assert _said(database) == before
    assert totals.add_all(database) == 0
    assert _said(database) == before

    _scored(database)  # the same day again, beside what was added
    assert _said(database) == _counted(database)
    assert len(_query(database, "SELECT * FROM v_daily_scores")) == 1


def test_whoever_is_interrupted_between_batches_goes_on_with_the_next(
    database: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(totals, "SHARDS", 1)
    _scored(database, count=5)
    everything = _said(database)

    for left in (4, 3, 2, 1, 0):
        assert write(database, totals.add_batch) == 1
        assert given.count(database, shard_totals) == left
        assert _said(database) == everything == _counted(database)


def test_what_an_older_release_scored_is_added_in_batches_from_its_rows(
    database: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(totals, "ROW_SHARDS", 2)
    monkeypatch.setattr(totals, "ITEMS", 6)
    _scored(database, count=3)
    _by_an_older_release(database)
    _scored(database, count=2)  # and beside it, by this one

    assert _said(database)["predictions"] == 8
    assert write(database, totals.add_batch) == 2
    assert _said(database)["predictions"] == 8
    for left in (2, 1, 0):
        assert write(database, totals.add_batch) == 1
        assert given.count(database, shards, shards.c.summed.is_(None)) == left
    assert write(database, totals.add_batch) == 0
    assert _said(database) == _counted(database)


def test_a_batch_that_is_rolled_back_has_added_nothing(database: sa.Engine) -> None:
    _scored(database)

    class Broken(Exception):
        pass

    def add(connection: sa.Connection) -> None:
        totals.add_batch(connection)
        raise Broken

    with pytest.raises(Broken):
        write(database, add)

    assert _tables(database) == [[], [], [], []]
    assert _said(database) == _counted(database)


def test_several_that_add_at_the_same_moment_count_each_shard_once(database: sa.Engine) -> None:
    _scored(database, count=8)
    everything = _said(database)

    found = given.together(*[lambda: totals.add_all(database)] * 4)

    assert not [one for one in found if isinstance(one, BaseException)]
    totals.add_all(database)
    assert _said(database) == everything == _counted(database)


@pytest.mark.parametrize("added", [False, True])
def test_retry_reuse_and_labels_leave_the_sums_right(database: sa.Engine, added: bool) -> None:
    def add() -> None:
        if added:
            totals.add_all(database)

    first = _scored(database)
    add()
    # Only what failed, again.
    retried = write(database, lambda c: control.retry(c, first, "kim@ward", failed_only=True))
    lease = write(database, lambda c: claims.claim_job(c, "score", "p", given.LEASE_S))
    assert lease is not None
    assert lease.lease.job_id == retried
    write(database, lambda c: listings.add(c, lease.lease, given.new_shards(1, 2)))
    write(database, lambda c: listings.complete(c, lease.lease, {}))
    shard = given.claimed(database)
    write(database, lambda c: results.commit(c, shard, _outcomes(shard)))
    given.close(database, retried)
    add()
    # An unchanged archive, from the store: what had errors is scored.
    whole = given.running(database, items=4, source_rows=ZIP)
    shard = given.claimed(database)
    write(database, lambda c: results.commit(c, shard, _outcomes(shard)))
    given.close(database, whole)
    add()
    copying = given.planning(database, source_rows=ZIP).lease
    copied = write(database, lambda c: reuse.copy_source(c, copying, whole, 0, 0, {"JPEG": 1}))
    assert (copied.items, copied.complete) == (4, True)
    write(database, lambda c: listings.complete(c, copying, {}))
    given.close(database, copying.job_id)
    add()
    write(database, lambda c: labels.import_rows(c, whole, [(0, "NORMAL")], "kim@ward"))
    measured.metrics(database, whole)

    said = _said(database)
    assert said == _counted(database)
    assert said["reused"] == 4
    assert _query(database, "SELECT labelled, rank FROM v_model_leaderboard") == [(1, None)]


@pytest.mark.parametrize("added", [False, True])
def test_what_is_purged_stays_in_the_sums_of_its_day(database: sa.Engine, added: bool) -> None:
    old, kept = _scored(database), _scored(database)
    if added:
        totals.add_all(database)
    before = _said(database)
    days = _query(database, "SELECT day, host, items, seconds FROM v_throughput")

    assert purge.purge(database, ALL, "kim@ward", [kept]).jobs == 1

    assert _said(database) == before
    assert totals.add_all(database) == (0 if added else 2)
    assert _said(database) == before
    assert _query(database, "SELECT day, host, items, seconds FROM v_throughput") == days
    left = _counted(database)
    assert before["predictions"] - left["predictions"] == 8
    assert _query(database, "SELECT DISTINCT job_id FROM source_totals") == [(kept,)]
    assert _query(database, "SELECT jobs, newest_job, scored FROM v_completeness") == [(1, kept, 8)]
    assert given.count(database, shards, shards.c.job_id == old) == 1


@pytest.mark.parametrize("older", [False, True], ids=["of this release", "of an older one"])
@pytest.mark.parametrize("added", ["nothing", "some", "all"])
def test_what_an_older_release_purges_is_counted_once(
    database: sa.Engine, monkeypatch: pytest.MonkeyPatch, added: str, older: bool
) -> None:
    job_id = _scored(database)
    before = _said(database)
    if older:
        _by_an_older_release(database)
    if added == "some":
        monkeypatch.setattr(totals, "SHARDS", 1)
        monkeypatch.setattr(totals, "ROW_SHARDS", 1)
        write(database, totals.add_batch)
    elif added == "all":
        totals.add_all(database)

    def old(connection: sa.Connection) -> None:
        for statement in PURGED_BY_AN_OLDER_RELEASE:
            connection.exec_driver_sql(statement.format(job=job_id))

    write(database, old)

    def counted() -> list[tuple[Any, ...]]:
        # What was reused, and the spread of the scores, went with the rows where nobody had added.
        return _query(
            database,
            "SELECT SUM(predictions), SUM(positives), SUM(unusual), SUM(refused), SUM(errors) "
            "FROM v_daily_scores",
        )

    expected = [tuple(before[n] for n in COUNTED if n != "reused")]
    if not older:
        assert counted() == expected
    assert totals.add_all(database) >= 1
    assert counted() == expected
    assert _query(database, "SELECT predictions FROM model_totals") == [(8,)]
    assert _query(database, "SELECT * FROM v_completeness") == []


def test_the_day_is_that_of_the_commit_in_utc_and_the_machine_that_of_the_worker(
    database: sa.Engine,
) -> None:
    write(
        database,
        lambda c: workers.register(
            c, "worker", host="gpu1", pid=1, queues="score", engine=None, versions={}, health=None
        ),
    )
    _scored(database, count=1)

    def told() -> list[tuple[Any, ...]]:
        return _query(
            database,
            "SELECT day, host, model, precision, items, scored, reused, timed, seconds, "
            "items_per_s FROM v_throughput",
        )

    with reading(database) as connection:
        day = connection.execute(sa.select(shards.c.finished_at)).scalar_one().strftime("%Y-%m-%d")
    expected = [(day, "gpu1", "first", "fp32", 6, 4, 0, 6, 1.5, 4.0)]
    assert told() == expected
    totals.add_all(database)
    assert told() == expected

    _scored(database, count=1)
    late = {"sqlite": "'2026-01-31T23:59:59.999Z'", "postgresql": "'2026-01-31 23:59:59.999+00'"}
    at = late[database.dialect.name]
    write(database, lambda c: c.exec_driver_sql(f"UPDATE shards SET finished_at = {at}"))
    write(
        database,
        lambda c: c.execute(sa.update(shards).where(shards.c.job_id == 2).values(summed=None)),
    )
    write(database, lambda c: c.execute(sa.delete(shard_totals)))
    totals.add_all(database)
    assert ("2026-01-31", "gpu1", 4) in _query(
        database, "SELECT day, host, scored FROM host_totals"
    )
    assert _query(database, "SELECT day FROM v_daily_scores WHERE day = '2026-01-31'") == [
        ("2026-01-31",)
    ]
    assert _query(database, f"SELECT * FROM v_daily_scores WHERE day > '{day}'") == []


def test_nothing_else_is_summed(database: sa.Engine) -> None:
    """Shards that are open, or lost with their job, are not."""
    job_id = given.running(database, shards=3, items=2)
    given.commit(database, given.claimed(database))
    shard = given.claimed(database)
    write(database, lambda c: results.give_up(c, shard, ["a", "b"], "worker_died", "died"))
    write(database, lambda c: control.cancel(c, job_id, "kim@ward"))

    assert totals.add_all(database) == 2

    assert given.count(database, shard_totals) == 0
    assert given.count(database, shards, shards.c.summed.is_(None)) == 1
    assert _query(database, "SELECT predictions, errors FROM v_daily_scores") == [(2, 2)]
    assert _query(database, "SELECT listed, scored, failed, missing FROM v_completeness") == [
        (6, 2, 2, 2)
    ]
