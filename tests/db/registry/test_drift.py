"""Drift: a job's scores are held against its model's reference; alarms are few, and say why."""

from __future__ import annotations

import json
import random
from datetime import timedelta
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from db.base.database import reading, write
from db.base.errors import Conflict, NotFound
from db.base.schema import drift as drift_table
from db.base.schema import model_events, notices
from db.base.schema import models as models_table
from db.queue import jobs, results
from db.registry import divergence, drift, models
from db.work import control, purge
from tests.db import given

#: A model's validation: 100 films, a fifth of them sick.
VALIDATION = {
    "of": "validation",
    "n": 100,
    "histogram": [70, 5, 3, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 5, 10],
    "unusual": 4,
    "golden": {"scores": [[0.9, 0.1]]},
}

#: 100 films that are scored like them, and as many that are scored otherwise.
ALIKE = {0: 68, 1: 6, 3: 2, 5: 1, 12: 1, 16: 2, 17: 3, 18: 7, 19: 10}

OTHERWISE = {0: 10, 5: 10, 9: 30, 19: 50}


@pytest.fixture
def model_id(database: sa.Engine, tmp_path: Path) -> int:
    """A model that was validated."""
    return _validated(database, tmp_path, "validated")


def _validated(database: sa.Engine, folder: Path, name: str, **changes: Any) -> int:
    new = given.model(folder, name, **{"reference": VALIDATION, **changes})
    return write(database, lambda c: models.register(c, new, "tests"))


def _scored(
    database: sa.Engine,
    model_id: int,
    histogram: dict[int, int],
    *,
    unusual: int = 4,
    shards: int = 4,
    errors: int = 0,
) -> int:
    """A job that has ended, with films in these buckets in several shards."""
    films = [bucket / 20 + 0.02 for bucket, n in histogram.items() for _ in range(n)]
    random.Random(0).shuffle(films)
    size = len(films) // shards + errors
    job_id = given.running(database, shards=shards, items=size, model_id=model_id)
    for n in range(shards):
        shard = given.claimed(database)
        made = given.outcomes(shard, errors=errors)
        scores = films[n * (size - errors) :]
        for i, (place, score) in enumerate(zip(range(errors, size), scores, strict=False)):
            one = made[place]
            assert isinstance(one, results.Prediction)
            strange = n * (size - errors) + i < unusual
            made[place] = one._replace(probability=score, unusual=strange)
        write(database, lambda c, s=shard, m=made: results.commit(c, s, m))  # type: ignore[misc]
    assert given.close(database, job_id)
    return job_id


def _measured(database: sa.Engine, job_id: int) -> dict[str, Any]:
    found = drift.of_job(database, job_id)
    assert found is not None
    return found


def test_a_job_like_the_reference_is_measured_in_silence(
    database: sa.Engine, model_id: int
) -> None:
    job_id = _scored(database, model_id, ALIKE)

    found = _measured(database, job_id)
    assert (found["model_id"], found["reference"]) == (model_id, "validation")
    assert (found["n"], found["reference_n"]) == (100, 100)
    assert (found["unusual"], found["reference_unusual"]) == (4, 4)
    histogram = [ALIKE.get(bucket, 0) for bucket in range(20)]
    assert found["psi"] == pytest.approx(
        divergence.population_stability(histogram, VALIDATION["histogram"])  # type: ignore[arg-type]
    )
    assert 0 < found["psi"] < found["psi_limit"]
    largest = max(
        abs(a - b) / 100
        for a, b in zip(
            accumulate(histogram),
            accumulate(VALIDATION["histogram"]),  # type: ignore[arg-type]
            strict=True,
        )
    )
    assert found["ks"] == pytest.approx(largest)
    assert not found["warned"]
    assert found["detail"].startswith("100 films against 100 validation films: PSI 0.")
    assert "drift" not in given.events(database, job_id)
    assert given.count(database, notices, notices.c.event == "drift") == 0


def test_a_job_unlike_the_reference_warns_in_a_sentence_with_its_numbers(
    database: sa.Engine, model_id: int
) -> None:
    job_id = _scored(database, model_id, OTHERWISE, unusual=30)

    found = _measured(database, job_id)
    assert found["warned"]
    for words in (
        f"these 100 films are not scored as the 100 validation films that model {model_id} is",
        f"PSI {found['psi']:.2f} where chance stays below 0.88",
        f"KS distance {found['ks']:.2f} (p below 0.001)",
        "30.0% are unlike the training films, of the reference 4.0% (p below 0.001)",
        f"`pneumoq models reference {model_id} --job {job_id}` makes it the measure",
    ):
        assert words in found["detail"]
    with reading(database) as connection:
        view = connection.execute(sa.text("SELECT * FROM v_drift")).mappings().one()
    assert (view["job_id"], view["model"], view["warned"]) == (job_id, "validated", 1)
    # The job ends as it would have, and tells.
    assert given.events(database, job_id)[-2:] == ["completed", "drift"]
    assert jobs.events(database, job_id)[-1]["detail"] == found["detail"]
    assert jobs.get(database, job_id)["state"] == "completed"
    assert given.one(database, models_table, models_table.c.id == model_id).state == "candidate"


def test_hooks_are_told_of_drift_in_figures_and_nothing_of_the_films(
    database: sa.Engine, model_id: int
) -> None:
    job_id = _scored(database, model_id, OTHERWISE, unusual=30)

    notice = given.one(database, notices, notices.c.event == "drift")

    assert (notice.state, notice.job_id, notice.model_id) == ("waiting", job_id, model_id)
    payload = notice.payload
    assert payload["text"] == _measured(database, job_id)["detail"]
    assert (payload["n"], payload["reference_n"], payload["unusual"]) == (100, 100, 30)
    assert (payload["model"], payload["job"]) == (model_id, job_id)
    assert not {"/films.zip", ".jpg"} & set(json.dumps(payload).split('"'))
    assert ".zip" not in json.dumps(payload)


def test_a_job_with_errors_is_measured_by_what_it_predicted(
    database: sa.Engine, model_id: int
) -> None:
    job_id = _scored(database, model_id, OTHERWISE, errors=3)

    assert jobs.get(database, job_id)["state"] == "completed_with_errors"
    assert _measured(database, job_id)["n"] == 100
    assert given.events(database, job_id)[-2:] == ["completed_with_errors", "drift"]


def test_a_job_that_failed_or_was_cancelled_is_not_measured(
    database: sa.Engine, model_id: int
) -> None:
    failed = given.running(
        database, items=10, model_id=model_id, spec={"precision": "fp32", "max_errors": "1"}
    )
    given.commit(database, given.claimed(database), errors=5)
    given.close(database, failed)
    cancelled = given.running(database, shards=2, model_id=model_id)
    given.commit(database, given.claimed(database))
    write(database, lambda c: control.cancel(c, cancelled, "kim"))

    assert [jobs.get(database, n)["state"] for n in (failed, cancelled)] == ["failed", "cancelled"]
    assert given.count(database, drift_table) == 0


def test_a_job_without_predictions_is_not_measured(database: sa.Engine, model_id: int) -> None:
    job_id = given.running(database, items=3, model_id=model_id)
    given.commit(database, given.claimed(database), refused=3)

    assert given.close(database, job_id)

    assert drift.of_job(database, job_id) is None


@pytest.mark.parametrize(
    "reference",
    [None, {"golden": {"scores": []}}, {**VALIDATION, "histogram": [50, 50]}],
    ids=["none", "no histogram", "other buckets"],
)
def test_a_model_without_a_measure_closes_its_jobs_unmeasured(
    database: sa.Engine, tmp_path: Path, reference: dict[str, Any] | None
) -> None:
    model = _validated(database, tmp_path, "unmeasured", reference=reference)

    job_id = _scored(database, model, OTHERWISE)

    assert jobs.get(database, job_id)["state"] == "completed"
    assert drift.of_job(database, job_id) is None


def test_a_model_that_knows_nothing_unusual_is_measured_by_its_scores(
    database: sa.Engine, tmp_path: Path
) -> None:
    reference = {**VALIDATION, "unusual": None}
    model = _validated(
        database, tmp_path, "no detector", ood_threshold=None, reference=reference
    )  # fmt: skip

    found = _measured(database, _scored(database, model, OTHERWISE, unusual=0))

    assert (found["reference_unusual"], found["unusual_p"]) == (None, None)
    assert found["warned"]
    assert "unlike the training films" not in found["detail"]


def test_a_small_job_says_that_it_tells_nothing(database: sa.Engine, model_id: int) -> None:
    found = _measured(database, _scored(database, model_id, {9: 48}))

    assert not found["warned"]
    assert found["detail"].endswith("; below 50 films nothing is told from that")


def test_what_was_measured_outlives_the_jobs_outcomes(database: sa.Engine, model_id: int) -> None:
    job_id = _scored(database, model_id, OTHERWISE)
    before = _measured(database, job_id)

    assert purge.purge(database, timedelta(seconds=-1), "kim@ward").jobs == 1

    assert _measured(database, job_id) == before
    with reading(database) as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM v_drift")).scalar_one() == 1


def test_a_job_becomes_the_measure_of_later_ones_and_can_be_replaced(
    database: sa.Engine, model_id: int
) -> None:
    first = _scored(database, model_id, OTHERWISE, unusual=30)

    measure = write(database, lambda c: drift.use_job(c, model_id, first, "kim@ward"))

    assert (measure["of"], measure["n"], measure["unusual"]) == (f"job {first}", 100, 30)
    assert measure["histogram"] == [OTHERWISE.get(bucket, 0) for bucket in range(20)]
    second = _measured(database, _scored(database, model_id, OTHERWISE, unusual=30))
    assert (second["reference"], second["warned"], second["psi"]) == (f"job {first}", False, 0)
    third = _scored(database, model_id, ALIKE)
    assert f"as the 100 of job {first} that model" in _measured(database, third)["detail"]
    # What engines must answer stays, and the measure of validation.
    kept = models.get(database, model_id)["reference"]
    assert kept["golden"] == VALIDATION["golden"]
    write(database, lambda c: drift.use_job(c, model_id, third, "kim@ward"))

    back = write(database, lambda c: drift.use_validation(c, model_id, "kim@ward"))

    assert back == {k: v for k, v in VALIDATION.items() if k != "golden"}
    assert drift.measured_by(models.get(database, model_id)["reference"]) == back
    assert not _measured(database, _scored(database, model_id, ALIKE))["warned"]
    with reading(database) as connection:
        details = connection.execute(
            sa.select(model_events.c.detail)
            .where(model_events.c.event == "reference")
            .order_by(model_events.c.id)
        ).scalars()
        assert list(details) == [
            f"drift is measured against job {first} instead of validation",
            f"drift is measured against job {third} instead of job {first}",
            f"drift is measured against validation instead of job {third}",
        ]


def test_an_imported_model_gets_its_first_measure_from_a_job(
    database: sa.Engine, tmp_path: Path
) -> None:
    model = _validated(database, tmp_path, "imported", reference=None)
    first = _scored(database, model, ALIKE)

    with pytest.raises(Conflict, match="came without a measure of its validation films"):
        write(database, lambda c: drift.use_validation(c, model, "kim@ward"))
    write(database, lambda c: drift.use_job(c, model, first, "kim@ward"))

    assert _measured(database, _scored(database, model, OTHERWISE))["warned"]
    with pytest.raises(Conflict, match="came without a measure"):
        write(database, lambda c: drift.use_validation(c, model, "kim@ward"))


def test_what_cannot_be_a_measure_says_why(
    database: sa.Engine, model_id: int, tmp_path: Path
) -> None:
    before = models.get(database, model_id)["reference"]
    other = _scored(database, _validated(database, tmp_path, "another"), ALIKE)
    small = _scored(database, model_id, {3: 12})
    purged = _scored(database, model_id, ALIKE)
    purge.purge(database, timedelta(seconds=-1), "kim", keep=[other, small])
    still = given.running(database, model_id=model_id)
    training = given.queued(database, "train")

    for job_id, why in (
        (other, f"job {other} was scored by model"),
        (small, f"job {small} has 12 predictions; a measure takes 50 or more"),
        (purged, f"job {purged} was purged"),
        (still, f"job {still} is running; only a job that completed"),
        (training, f"job {training} is no scoring job"),
    ):
        with pytest.raises(Conflict, match=why):
            write(database, lambda c, n=job_id: drift.use_job(c, model_id, n, "kim"))  # type: ignore[misc]
    with pytest.raises(NotFound, match="there is no job 4711"):
        write(database, lambda c: drift.use_job(c, model_id, 4711, "kim"))
    with pytest.raises(NotFound, match="there is no model 4711"):
        write(database, lambda c: drift.use_validation(c, 4711, "kim"))
    assert models.get(database, model_id)["reference"] == before


@pytest.mark.postgres
def test_a_job_closes_while_another_becomes_the_measure(
    postgres_database: sa.Engine, tmp_path: Path
) -> None:
    """Neither waits for the other where there is more than one writer."""
    model_id = _validated(postgres_database, tmp_path, "validated")
    first = _scored(postgres_database, model_id, ALIKE)
    second = given.running(postgres_database, items=2, model_id=model_id)
    given.commit(postgres_database, given.claimed(postgres_database))

    def use(connection: sa.Connection) -> None:
        drift.use_job(connection, model_id, first, "kim")
        assert given.close(postgres_database, second)

    write(postgres_database, use)

    assert _measured(postgres_database, second)["reference"] == "validation"
    measure = drift.measured_by(models.get(postgres_database, model_id)["reference"])
    assert measure is not None
    assert measure["of"] == f"job {first}"


def test_the_buckets_are_those_that_jobs_are_counted_in() -> None:
    assert divergence.BUCKETS == results.BUCKETS == len(VALIDATION["histogram"])  # type: ignore[arg-type]
