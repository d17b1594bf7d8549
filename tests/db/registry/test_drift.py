"""Drift: a job's scores are held against its model's reference; alarms are few, and say why."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from datetime import timedelta
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.special
import scipy.stats
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

#: How a good model's scores are spread: nearly all near 0 or 1.
SHARP = (0.25, 0.02, *[0.002] * 16, 0.03, 0.668)
#: How a model's are that is sure of little.
FLAT = (0.05,) * 20
#: Sharp, with hardly anything between.
SHARPEST = (0.3, *[0.0003] * 18, 0.6946)

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


def _counts(histogram: Sequence[int], unusual: int | None = 0) -> divergence.Counts:
    return divergence.Counts(histogram=histogram, unusual=unusual)


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


def _events(database: sa.Engine, job_id: int) -> list[str]:
    return [event["event"] for event in jobs.events(database, job_id)]


def _measured(database: sa.Engine, job_id: int) -> dict[str, Any]:
    found = drift.of_job(database, job_id)
    assert found is not None
    return found


# ---- the statistics ----


def test_the_limit_of_psi_is_the_quantile_of_chi_square() -> None:
    assert scipy.stats.chi2.ppf(0.999, divergence.BUCKETS - 1) == pytest.approx(
        divergence.CHI_SQUARE, abs=5e-4
    )
    compared = divergence.compare(_counts([10] * 20), _counts([40] * 20))
    assert compared.psi_limit == pytest.approx(divergence.CHI_SQUARE * (1 / 200 + 1 / 800))


def test_psi_is_as_it_is_defined_and_finite_where_buckets_are_empty() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        found, reference = (rng.multinomial(300, SHARP).tolist() for _ in range(2))
        p, q = ((np.array(x) + 0.5) / (300 + 10) for x in (found, reference))
        expected = scipy.special.rel_entr(p, q).sum() + scipy.special.rel_entr(q, p).sum()
        assert divergence.population_stability(found, reference) == pytest.approx(expected)
        assert divergence.population_stability(found, found) == 0
    apart = divergence.population_stability([100] + [0] * 19, [0] * 19 + [100])
    assert 5 < apart < 15


def test_the_distance_is_that_of_scipy_on_the_middles_of_the_buckets() -> None:
    rng = np.random.default_rng(1)
    for n, m in ((60, 300), (5000, 300), (40, 40)):
        found, reference = rng.multinomial(n, SHARP), rng.multinomial(m, FLAT)
        middles = (np.arange(20) + 0.5) / 20
        scores = [np.repeat(middles, counts) for counts in (found, reference)]
        said = scipy.stats.ks_2samp(*scores, method="asymp")
        assert divergence.distance(found.tolist(), reference.tolist()) == pytest.approx(
            said.statistic
        )


def test_the_p_value_of_the_distance_is_kolmogorovs() -> None:
    for x in np.linspace(0.01, 4, 400):
        assert divergence.kolmogorov(float(x)) == pytest.approx(
            scipy.special.kolmogorov(x), abs=1e-12
        ), x


def test_buckets_hide_distance_but_never_add_any() -> None:
    rng = np.random.default_rng(2)
    for _ in range(100):
        a, b = rng.beta(0.5, 0.7, 200), rng.beta(0.6, 0.6, 300)
        found, reference = (np.histogram(x, bins=20, range=(0, 1))[0].tolist() for x in (a, b))
        true = scipy.stats.ks_2samp(a, b).statistic
        assert divergence.distance(found, reference) <= true + 1e-12


def test_two_shares_are_compared_as_fishers_exact_test_does() -> None:
    rng = np.random.default_rng(3)
    cases = [(0, 50, 0, 300), (3, 50, 0, 1000), (0, 50, 40, 300), (50, 50, 0, 300), (50, 50, 9, 9)]
    for _ in range(300):
        n, m = (int(x) for x in rng.integers(1, 3000, 2))
        cases.append((int(rng.binomial(n, 0.05)), n, int(rng.binomial(m, 0.08)), m))
    for a, n, b, m in cases:
        table = [[a, n - a], [b, m - b]]
        tails = [scipy.stats.fisher_exact(table, side)[1] for side in ("greater", "less")]
        assert divergence.same_share(a, n, b, m) == pytest.approx(
            min(1, 2 * min(tails)), rel=1e-6, abs=1e-300
        ), (a, n, b, m)


def test_millions_of_films_are_compared_in_no_time() -> None:
    assert divergence.same_share(500_000, 10_000_000, 51_000, 1_000_000) < 1e-4
    assert divergence.same_share(500_000, 10_000_000, 50_000, 1_000_000) == pytest.approx(
        1, abs=0.01
    )


@pytest.mark.parametrize("spread", [SHARP, SHARPEST, FLAT], ids=["sharp", "sharpest", "flat"])
@pytest.mark.parametrize(
    ("n", "m"), [(50, 60), (50, 5000), (400, 300), (20_000, 300), (10_000, 10_000)]
)
def test_of_a_thousand_jobs_like_the_reference_hardly_one_is_warned_of(
    spread: Sequence[float], n: int, m: int
) -> None:
    rng = np.random.default_rng(4)
    times = 1000
    drawn = (
        rng.multinomial(n, spread, times), rng.binomial(n, 0.04, times),
        rng.multinomial(m, spread, times), rng.binomial(m, 0.04, times),
    )  # fmt: skip

    alarms = sum(
        divergence.compare(_counts(a.tolist(), int(x)), _counts(b.tolist(), int(y))).warned
        for a, x, b, y in zip(*drawn, strict=True)
    )

    # Three tests, each wrong once in a thousand: six alarms would be seen once in fifty times.
    assert alarms <= 6


def test_each_of_the_three_signs_warns_by_itself() -> None:
    habit = [int(1000 * share) for share in SHARP]
    shifted = list(habit)
    shifted[0], shifted[19] = habit[0] + 150, habit[19] - 150
    spread_out = [50] * 20
    assert not divergence.compare(_counts(habit, 40), _counts(habit, 40)).warned

    more_healthy = divergence.compare(_counts(shifted, 40), _counts(habit, 40))
    assert more_healthy.warned
    assert more_healthy.psi < divergence.LEAST_PSI
    assert more_healthy.ks >= divergence.LEAST_KS
    unsure = divergence.compare(_counts(spread_out, 40), _counts(habit, 40))
    assert unsure.warned
    assert unsure.psi > max(divergence.LEAST_PSI, unsure.psi_limit)
    strangers = divergence.compare(_counts(habit, 140), _counts(habit, 40))
    assert strangers.warned
    assert (strangers.psi, strangers.ks) == (0, 0)
    assert strangers.unusual_p is not None
    assert strangers.unusual_p < divergence.SURE


def test_a_sure_but_small_difference_and_a_fall_of_the_unusual_are_no_warning() -> None:
    habit = [int(1_000_000 * share) for share in SHARP]
    moved = list(habit)
    moved[0], moved[19] = habit[0] + 50_000, habit[19] - 50_000
    compared = divergence.compare(_counts(moved, 40_000), _counts(habit, 55_000))
    assert compared.psi > compared.psi_limit
    assert compared.ks_p < 1e-6
    assert compared.unusual_p is not None
    assert compared.unusual_p < 1e-6
    assert not compared.warned
    assert not divergence.compare(_counts(habit, 0), _counts(habit, 100_000)).warned


def test_fewer_films_than_fifty_are_no_ground_for_a_warning() -> None:
    far = [0] * 19
    assert not divergence.compare(_counts([49, *far]), _counts([*far, 1000])).warned
    assert divergence.compare(_counts([50, *far]), _counts([*far, 1000])).warned


# ---- what happens when a job ends ----


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
    assert "drift" not in _events(database, job_id)
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
    assert _events(database, job_id)[-2:] == ["completed", "drift"]
    assert jobs.events(database, job_id)[-1]["detail"] == found["detail"]
    assert jobs.get(database, job_id)["state"] == "completed"
    assert given.one(database, models_table, models_table.c.id == model_id).state == "candidate"


def test_hooks_are_told_of_drift_in_figures_and_nothing_of_the_films(
    database: sa.Engine, model_id: int
) -> None:
    job_id = _scored(database, model_id, OTHERWISE, unusual=30)

    notice = given.one(database, notices, notices.c.event == "drift")

    assert (notice.state, notice.job_id, notice.model_id) == ("waiting", job_id, model_id)
    told = notice.payload
    assert told["text"] == _measured(database, job_id)["detail"]
    assert (told["n"], told["reference_n"], told["unusual"]) == (100, 100, 30)
    assert (told["model"], told["job"]) == (model_id, job_id)
    assert not {"/films.zip", ".jpg"} & set(json.dumps(told).split('"'))
    assert ".zip" not in json.dumps(told)


def test_a_job_with_errors_is_measured_by_what_it_predicted(
    database: sa.Engine, model_id: int
) -> None:
    job_id = _scored(database, model_id, OTHERWISE, errors=3)

    assert jobs.get(database, job_id)["state"] == "completed_with_errors"
    assert _measured(database, job_id)["n"] == 100
    assert _events(database, job_id)[-2:] == ["completed_with_errors", "drift"]


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


# ---- choosing the measure ----


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
    # What engines must say stays, and what validation said.
    kept = models.get(database, model_id)["reference"]
    assert kept["golden"] == VALIDATION["golden"]
    write(database, lambda c: drift.use_job(c, model_id, third, "kim@ward"))

    back = write(database, lambda c: drift.use_validation(c, model_id, "kim@ward"))

    assert back == {k: v for k, v in VALIDATION.items() if k != "golden"}
    assert drift.measured_by(models.get(database, model_id)["reference"]) == back
    assert not _measured(database, _scored(database, model_id, ALIKE))["warned"]
    with reading(database) as connection:
        told = connection.execute(
            sa.select(model_events.c.detail)
            .where(model_events.c.event == "reference")
            .order_by(model_events.c.id)
        ).scalars()
        assert list(told) == [
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
