"""Cohen's kappa and its interval, against published figures, scikit-learn and resampling."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from trainer.judging import agreement


def readers(table: list[list[int]]) -> tuple[list[int], list[int]]:
    """Two readers whose labels count up to a table."""
    pairs = [(i, j) for i, row in enumerate(table) for j, n in enumerate(row) for _ in range(n)]
    return [i for i, _ in pairs], [j for _, j in pairs]


def test_kappa_and_its_error_are_those_of_a_published_table() -> None:
    # Fleiss, Cohen and Everitt 1969, table 1: 200 subjects, kappa 0.429, standard error 0.054.
    first, second = readers([[106, 10, 4], [22, 28, 10], [2, 12, 6]])
    found = agreement.cohen(first, second, 3)
    assert (found.films, found.observed) == (200, pytest.approx(0.70))
    assert found.kappa == pytest.approx(0.429, abs=0.0005)
    assert (found.high - found.kappa) / 1.96 == pytest.approx(0.0536, abs=0.001)


@pytest.mark.parametrize("seed", range(5))
def test_kappa_is_that_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 3, 80)
    second = np.where(rng.random(80) < 0.7, first, rng.integers(0, 3, 80))
    found = agreement.cohen(first.tolist(), second.tolist(), 3)
    assert found.kappa == pytest.approx(cohen_kappa_score(first, second))


def test_the_interval_is_as_wide_as_drawing_the_films_again_makes_kappa() -> None:
    rng = np.random.default_rng(4)
    first = (rng.random(400) < 0.3).astype(int)
    second = np.where(rng.random(400) < 0.85, first, 1 - first)
    found = agreement.cohen(first.tolist(), second.tolist(), 2)
    drawn = []
    for _ in range(600):
        take = rng.integers(0, 400, 400)
        drawn.append(agreement.cohen(first[take].tolist(), second[take].tolist(), 2).kappa)
    low, high = np.quantile(drawn, (0.025, 0.975))
    assert found.low == pytest.approx(low, abs=0.025)
    assert found.high == pytest.approx(high, abs=0.025)


def test_readers_who_agree_on_all_and_those_who_say_one_thing_only() -> None:
    same = agreement.cohen([0, 1, 1, 0], [0, 1, 1, 0], 2)
    assert (same.kappa, same.low, same.high) == (1, 1, 1)
    one = agreement.cohen([0, 0], [0, 0], 1)
    assert (one.observed, math.isnan(one.kappa)) == (1, True)
    assert math.isnan(agreement.cohen([], [], 2).kappa)
    opposed = agreement.cohen([0, 1] * 10, [1, 0] * 10, 2)
    assert opposed.kappa == -1
    with pytest.raises(ValueError, match="same films"):
        agreement.cohen([0], [0, 1], 2)
