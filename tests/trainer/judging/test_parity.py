"""The gate: on the decision at the operating threshold, and on the probability beside it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import beta

from trainer.card import Card
from trainer.film import rules
from trainer.judging import parity

CARD = Card(
    labels=("NORMAL", "PNEUMONIA"),
    positive="PNEUMONIA",
    size=64,
    film_rule=rules.DEFAULT_RULE,
    golden=(),
    temperature=1.0,
    threshold=0.8,
    threshold_rule="none",
)


def scores(*probabilities: float) -> NDArray[np.float64]:
    """Scores of films with these probabilities of the positive class."""
    return np.array([(1 - p, p) for p in probabilities])


def test_equal_scores_pass() -> None:
    same = scores(*[0.1, 0.9] * 30)
    found = parity.compare(same, same, CARD)
    assert (found.films, found.turned, found.delta, found.largest) == (60, 0, 0.0, 0.0)
    assert found.agreement == 1
    assert found.passed


def test_the_decision_counts_and_not_the_likeliest_class() -> None:
    # Both are likelier positive than not, but only one reaches the threshold.
    found = parity.compare(scores(*[0.79] + [0.1] * 99), scores(*[0.8] + [0.1] * 99), CARD)
    assert found.turned == 1
    assert not found.passed
    # And this one changes its likeliest class, but not its decision.
    assert parity.compare(scores(*[0.51] + [0.1] * 99), scores(*[0.5] + [0.1] * 99), CARD).passed


@pytest.mark.parametrize(("films", "passes"), [(199, False), (200, True)])
def test_one_turned_film_in_200_may_be(films: int, passes: bool) -> None:
    before, after = np.full(films, 0.1), np.full(films, 0.1)
    before[0], after[0] = 0.795, 0.805
    found = parity.compare(scores(*before), scores(*after), CARD)
    assert (found.turned, found.passed) == (1, passes)


@pytest.mark.parametrize(("far", "passes"), [(1, True), (2, False)])
def test_one_film_in_100_may_be_further_off(far: int, passes: bool) -> None:
    before, after = np.full(101, 0.1), np.full(101, 0.1)
    after[:far] = 0.15
    found = parity.compare(scores(*before), scores(*after), CARD)
    assert found.passed is passes
    assert found.largest == pytest.approx(0.05)


def test_what_is_no_number_never_passes() -> None:
    found = parity.compare(scores(*[0.1] * 100), scores(*[float("nan")] * 100), CARD)
    assert (found.turned, found.delta) == (100, 1.0)
    assert not found.passed


def test_no_films_prove_nothing() -> None:
    nothing = np.empty((0, 2))
    assert not parity.compare(nothing, nothing, CARD).passed


def test_the_verdict_gives_the_figures() -> None:
    found = parity.compare(scores(*[0.79] + [0.1] * 99), scores(*[0.81] + [0.1] * 99), CARD)
    assert str(found) == (
        "1 of 100 decisions differ from fp32 (99.00% agree, 99.5% must; on all films up to 5.1% "
        "may differ, 95 %), 99 % of probabilities within 0.0200 (0.02 may)"
    )


@pytest.mark.parametrize(("films", "passes"), [(2, False), (59, False), (60, True)])
def test_films_must_be_enough_to_see_a_precision_that_decides_otherwise(
    films: int, passes: bool
) -> None:
    same = scores(*[0.1] * films)
    found = parity.compare(same, same, CARD)
    assert found.agreement == 1
    assert found.passed is passes
    assert ("are too few (60 needed)" in str(found)) is not passes
    # One that decides 1 film in 20 otherwise is seen 19 times of 20 on the least that pass.
    assert ((1 - 0.05) ** films <= 0.05) is passes or films == 59


@pytest.mark.parametrize("turned", [0, 1, 5])
def test_what_may_differ_unseen_is_about_the_exact_bound(turned: int) -> None:
    before, after = np.full(200, 0.1), np.full(200, 0.1)
    after[:turned] = 0.9
    found = parity.compare(scores(*before), scores(*after), CARD)
    exact = beta.ppf(0.95, turned + 1, 200 - turned)
    assert exact - 0.002 <= found.unseen <= 1.25 * exact
