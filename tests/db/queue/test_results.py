"""A shard's outcomes are kept all together with its end, or not at all."""

from __future__ import annotations

import time
from functools import partial

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from db.base.database import reading, write
from db.base.errors import Conflict, LeaseLost
from db.base.schema import (
    FINAL_JOB_STATES,
    cams,
    films,
    item_errors,
    predictions,
    refusals,
    rollups,
    shards,
)
from db.queue import jobs, results
from db.work import control
from tests.db import given
from tests.support import chance

OUTCOME_TABLES = (predictions, cams, refusals, item_errors, rollups)

#: Times that a race is run.
RACES = 30


def test_what_is_committed_is_what_comes_back(database: sa.Engine) -> None:
    job_id = given.running(database, items=4)
    shard = given.claimed(database)
    cam = results.Cam(height=2, width=3, low=-1.5, high=2.5, data=bytes([0, 1, 2, 253, 254, 255]))
    made: list[results.Outcome] = [
        results.Prediction(
            item_no=0, name="a/1.jpg", label_no=1, probability=0.1 + 0.2, positive=True,
            scores=[0.25, 0.5, 0.25], ood=9.5, unusual=True, look=0, cam=cam,
        ),
        results.Prediction(item_no=1, name="Ω 2.jpg", label_no=0, probability=0.0, positive=False),
        results.NotPredicted(
            item_no=2, name="3.dcm", code="lateral", detail="a side view", refused=True
        ),
        results.NotPredicted(item_no=3, name="4.jpg", code="truncated", detail="ends early"),
    ]  # fmt: skip

    write(database, lambda c: results.commit(c, shard, made))

    first = given.one(database, predictions, predictions.c.item_no == 0)
    assert (first.job_id, first.name, first.model_id, first.label_no) == (job_id, "a/1.jpg", 1, 1)
    assert (first.probability, first.ood, first.scores) == (0.1 + 0.2, 9.5, [0.25, 0.5, 0.25])
    assert first.look == 0
    second = given.one(database, predictions, predictions.c.item_no == 1)
    assert (second.name, second.scores, second.ood) == ("Ω 2.jpg", None, None)
    assert second.look is None
    kept = given.one(database, cams)
    assert (kept.item_no, kept.height, kept.width, kept.low, kept.high, bytes(kept.data)) == (
        0, 2, 3, -1.5, 2.5, cam.data,
    )  # fmt: skip
    refused = given.one(database, refusals)
    assert (refused.item_no, refused.code, refused.detail) == (2, "lateral", "a side view")
    broken = given.one(database, item_errors)
    assert (broken.item_no, broken.code, broken.detail) == (3, "truncated", "ends early")


def test_the_shard_counts_its_outcomes(database: sa.Engine) -> None:
    given.running(database, items=9)
    shard = given.claimed(database)
    made = given.outcomes(shard, refused=2, errors=3)
    made[-1] = results.Prediction(
        item_no=8, name="8.jpg", label_no=0, probability=0.1, positive=False, unusual=True, look=2
    )

    write(database, lambda c: results.commit(c, shard, made))

    row = given.one(database, shards)
    assert (row.state, row.finished_at is not None, row.lease_until) == ("done", True, None)
    counts = (row.n_predictions, row.n_positive, row.n_unusual, row.n_refused, row.n_errors)
    assert counts == (4, 3, 1, 2, 3)
    assert row.n_looks == 1


def test_the_histogram_counts_every_prediction_in_its_bucket(database: sa.Engine) -> None:
    probabilities = [0.0, 0.049, 0.05, 0.5, 0.949, 0.95, 1.0, 1.0]
    given.running(database, items=len(probabilities))
    shard = given.claimed(database)
    made = [
        results.Prediction(
            item_no=n, name=str(n), label_no=int(p >= 0.5), probability=p, positive=p >= 0.5
        )
        for n, p in enumerate(probabilities)
    ]

    write(database, lambda c: results.commit(c, shard, made))

    with reading(database) as connection:
        rows = connection.execute(
            sa.select(rollups.c.bucket, rollups.c.label_no, rollups.c.n).order_by(rollups.c.bucket)
        ).all()
    assert [tuple(row) for row in rows] == [
        (0, 0, 2), (1, 0, 1), (10, 1, 1), (18, 1, 1), (19, 1, 3),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "table", [predictions, refusals, item_errors], ids=["prediction", "refusal", "error"]
)
def test_an_item_that_has_an_outcome_already_keeps_the_whole_shard_out(
    database: sa.Engine, table: sa.Table
) -> None:
    """Such a row cannot come from this program; when it is there, that must be an error."""
    given.running(database, items=9)
    shard = given.claimed(database)
    made = given.outcomes(shard, refused=3, errors=3)
    stray = {"job_id": shard.job_id, "shard_no": 0, "name": "stray"}
    if table is predictions:
        stray |= {"item_no": 8, "model_id": 1, "label_no": 0, "probability": 0.0}
    else:
        stray |= {"item_no": 0 if table is refusals else 3, "code": "x", "detail": "x"}
    write(database, lambda c: c.execute(sa.insert(table).values(**stray)))

    with pytest.raises(IntegrityError):
        write(database, lambda c: results.commit(c, shard, made))

    assert {t.name: given.count(database, t) for t in OUTCOME_TABLES if t is not table} == {
        t.name: 0 for t in OUTCOME_TABLES if t is not table
    }
    assert given.count(database, table) == 1
    row = given.one(database, shards)
    assert (row.state, row.n_predictions, row.lease_token) == ("leased", 0, shard.token)


@pytest.mark.parametrize("change", ["one missing", "one twice", "one too many", "another shard's"])
def test_outcomes_that_are_not_one_per_item_are_refused(database: sa.Engine, change: str) -> None:
    given.running(database, shards=2, items=3)
    given.claimed(database)
    shard = given.claimed(database)
    made = given.outcomes(shard)
    wrong = {
        "one missing": made[:-1],
        "one twice": [*made[:-1], made[0]],
        "one too many": [*made, made[-1]._replace(item_no=made[-1].item_no + 1)],
        "another shard's": [o._replace(item_no=o.item_no - 3) for o in made],
    }[change]

    with pytest.raises(ValueError, match="outcomes that are not one each"):
        write(database, lambda c: results.commit(c, shard, wrong))

    assert given.count(database, predictions) == 0
    write(database, lambda c: results.commit(c, shard, made[::-1]))


def test_a_probability_above_one_is_refused_by_the_database(database: sa.Engine) -> None:
    given.running(database)
    shard = given.claimed(database)
    made = [results.Prediction(item_no=0, name="0.jpg", label_no=1, probability=1.5, positive=True)]

    with pytest.raises(IntegrityError):
        write(database, lambda c: results.commit(c, shard, made))


def test_a_cancelled_job_takes_no_more_outcomes(database: sa.Engine) -> None:
    job_id = given.running(database, shards=2)
    done, late = given.claimed(database), given.claimed(database)
    given.commit(database, done)
    write(database, lambda c: control.cancel(c, job_id, "a person"))

    with pytest.raises(LeaseLost):
        given.commit(database, late)
    with pytest.raises(LeaseLost):
        write(database, lambda c: results.give_up(c, late, ["x"], "worker_died", "died"))

    assert given.count(database, predictions) == 1


def test_a_commit_waits_for_a_cancel_that_is_under_way(database: sa.Engine) -> None:
    job_id = given.running(database)
    shard = given.claimed(database)

    committed = given.meanwhile(
        database,
        lambda c: control.cancel(c, job_id, "a person"),
        lambda: given.commit(database, shard),
    )

    assert isinstance(committed, LeaseLost)
    assert given.count(database, predictions) == 0


def test_a_cancel_waits_for_a_commit_that_is_under_way(database: sa.Engine) -> None:
    job_id = given.running(database)
    shard = given.claimed(database)

    cancelled = given.meanwhile(
        database,
        lambda c: results.commit(c, shard, given.outcomes(shard)),
        lambda: write(database, lambda c: control.cancel(c, job_id, "a person")),
    )

    assert cancelled is None
    assert given.count(database, predictions) == 1
    assert jobs.get(database, job_id)["state"] == "cancelled"


def test_cancelling_while_the_last_shard_commits_leaves_one_consistent_state(
    database: sa.Engine,
) -> None:
    moments = chance.moments()
    for _ in range(RACES):
        job_id = given.running(database, items=3)
        shard = given.claimed(database)
        delay_s = moments.uniform(-0.004, 0.004)

        def finish(shard=shard, delay_s=delay_s) -> None:  # type: ignore[no-untyped-def]
            time.sleep(max(0.0, delay_s))
            given.commit(database, shard)
            given.close(database, shard.job_id)

        def cancel(job_id=job_id, delay_s=delay_s) -> None:  # type: ignore[no-untyped-def]
            time.sleep(max(0.0, -delay_s))
            write(database, lambda c: control.cancel(c, job_id, "a person"))

        finished, cancelled = given.together(finish, cancel)

        assert finished is None or isinstance(finished, LeaseLost), finished
        assert cancelled is None or isinstance(cancelled, Conflict), cancelled
        state = jobs.get(database, job_id)["state"]
        assert state == ("cancelled" if cancelled is None else "completed")
        kept = given.count(database, predictions, predictions.c.job_id == job_id)
        assert kept == (3 if finished is None else 0)
        row = given.one(database, shards, shards.c.job_id == job_id)
        assert row.state == ("done" if finished is None else "leased")
        ends = [e["event"] for e in jobs.events(database, job_id) if e["event"] in FINAL_JOB_STATES]
        assert ends == [state]


def test_a_worker_cannot_commit_the_same_shard_twice(database: sa.Engine) -> None:
    given.running(database)
    shard = given.claimed(database)
    given.commit(database, shard)

    with pytest.raises(LeaseLost):
        given.commit(database, shard)

    assert given.count(database, predictions) == 1


def test_a_shard_that_is_given_up_makes_one_error_row_per_item(database: sa.Engine) -> None:
    job_id = given.running(database, items=3)
    shard = given.claimed(database)

    write(
        database,
        lambda c: results.give_up(c, shard, ["a", "b", "c"], "given_up", "workers died"),
    )

    with reading(database) as connection:
        rows = connection.execute(
            sa.select(item_errors.c.item_no, item_errors.c.name, item_errors.c.code).order_by(
                item_errors.c.item_no
            )
        ).all()
    assert [tuple(row) for row in rows] == [
        (0, "a", "given_up"),
        (1, "b", "given_up"),
        (2, "c", "given_up"),
    ]
    row = given.one(database, shards)
    assert (row.state, row.n_errors, row.last_error) == ("dead", 3, "workers died")
    assert given.close(database, job_id)
    assert jobs.get(database, job_id)["state"] == "completed_with_errors"
    assert "shard_dead" in [event["event"] for event in jobs.events(database, job_id)]


def test_a_shard_cannot_be_given_up_with_some_of_its_names(database: sa.Engine) -> None:
    given.running(database, items=3)
    shard = given.claimed(database)

    with pytest.raises(ValueError, match="3 items, but 2 names"):
        write(
            database, lambda c: results.give_up(c, shard, ["a", "b"], "worker_died", "workers died")
        )

    assert given.one(database, shards).state == "leased"


def test_a_shard_is_not_done_before_each_item_has_an_outcome(database: sa.Engine) -> None:
    given.running(database, items=3)

    with pytest.raises(IntegrityError, match="ck_shards_complete"):
        write(
            database,
            lambda c: c.exec_driver_sql(
                "UPDATE shards SET state = 'done', n_errors = 2, "
                "finished_at = (SELECT created_at FROM jobs)"
            ),
        )


def test_a_film_that_is_refused_by_now_is_not_known_any_more(database: sa.Engine) -> None:
    known = {"content": b"c" * 16, "reader": ("JPEG", 1)}
    for outcome, count in ((given.outcomes, 1), (partial(given.outcomes, refused=1), 0)):
        given.running(database)
        shard = given.claimed(database)
        made = [o._replace(**known) for o in outcome(shard)]
        write(database, lambda c, s=shard, m=made: results.commit(c, s, m))  # type: ignore[misc]
        assert given.count(database, films) == count
