"""Intervals of figures whose films are of patients."""

from __future__ import annotations

import numpy as np
import pytest

from tests.bench.judging import clusters as simulated
from trainer.judging import clusters, metrics


def alone(n: int) -> list[str]:
    return [f"p{i}" for i in range(n)]


def test_of_one_film_a_patient_a_share_has_the_interval_of_independent_films() -> None:
    hit = np.arange(200) < 30
    found = clusters.share_interval(hit, alone(200))
    assert found == pytest.approx(metrics.share_interval(0.15, 200))


def test_films_that_are_alike_count_as_one_per_patient() -> None:
    hit = np.repeat(np.arange(50) < 10, 4)
    found = clusters.share_interval(hit, [f"p{i // 4}" for i in range(200)])
    assert found == pytest.approx(metrics.share_interval(0.2, 50), abs=5e-3)


def test_a_share_of_none_or_all_is_of_as_many_films_as_patients() -> None:
    patients = [f"p{i // 4}" for i in range(200)]
    none = np.zeros(200, np.bool_)
    assert clusters.share_interval(none, patients) == pytest.approx(metrics.share_interval(0.0, 50))
    assert clusters.share_interval(~none, patients) == pytest.approx(
        metrics.share_interval(1.0, 50)
    )
    assert clusters.share_interval(none[:0], []) == (0.0, 1.0)


def test_an_auroc_of_one_has_an_interval_and_fewer_patients_have_a_wider_one() -> None:
    truth = np.arange(100) % 2 == 1
    low, high = clusters.auroc_interval(truth * 1.0, truth, alone(100))
    assert low == pytest.approx(metrics.auroc_interval(1.0, 50, 50)[0])
    assert high == 1.0
    paired = [f"p{i % 2}{i // 10}" for i in range(100)]
    assert clusters.auroc_interval(truth * 1.0, truth, paired)[0] < low


def test_an_auroc_of_films_that_are_alike_is_that_of_one_film_a_patient() -> None:
    rng = np.random.default_rng(0)
    truth = np.arange(80) % 2 == 1
    score = rng.normal(size=80) + 1.5 * truth
    once = clusters.auroc_interval(score, truth, alone(80))
    four = clusters.auroc_interval(
        np.repeat(score, 4), np.repeat(truth, 4), [f"p{i // 4}" for i in range(320)]
    )
    assert four == pytest.approx(once, abs=0.01)
    each = clusters.auroc_interval(np.repeat(score, 4), np.repeat(truth, 4), alone(320))
    assert each[1] - each[0] < 0.7 * (four[1] - four[0])
    assert clusters.auroc_interval(score, np.ones(80, np.bool_), alone(80)) == (0.0, 1.0)


@pytest.mark.parametrize("films", [1, 5])
def test_intervals_cover_what_they_are_of(films: int) -> None:
    """A small part of `python -m tests.bench.judging.clusters`, whose table is in docs."""
    share = simulated.of_shares(60, films, share=0.1, alike=0.5, times=400)
    area = simulated.of_aurocs(60, films, area=0.97, alike=0.5, times=200)
    assert share.covered >= 0.91
    assert area.covered >= 0.91
