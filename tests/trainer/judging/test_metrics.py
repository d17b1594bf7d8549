from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom, binomtest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    confusion_matrix,
    precision_score,
    recall_score,
    roc_auc_score,
)

from trainer.judging import metrics


def draw(seed: int, n: int = 300, levels: int = 0) -> tuple[metrics.Scores, metrics.Truth]:
    """Scores that say something, and truth; with `levels` the scores have many ties."""
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < 0.3
    score = 1 / (1 + np.exp(-(rng.normal(0, 1, n) + truth)))
    return (np.round(score * levels) / levels if levels else score), truth


@pytest.mark.parametrize("levels", [0, 1, 2, 5])
def test_auroc_agrees_with_scikit_learn_with_and_without_ties(levels: int) -> None:
    for seed in range(10):
        score, truth = draw(seed, levels=levels)
        assert metrics.auroc(score, truth) == pytest.approx(roc_auc_score(truth, score), abs=1e-12)


def test_auroc_of_one_class_is_not_a_number() -> None:
    assert math.isnan(metrics.auroc(np.array([0.1, 0.2]), np.array([True, True])))


def test_counts_and_ratios_agree_with_scikit_learn() -> None:
    for seed in range(10):
        score, truth = draw(seed, levels=10)
        called = score >= 0.5
        ours = metrics.confusion(score, truth, 0.5)
        theirs = confusion_matrix(truth, called).ravel().tolist()
        assert theirs == [
            ours.true_negative,
            ours.false_positive,
            ours.false_negative,
            ours.true_positive,
        ]
        assert ours.accuracy == pytest.approx(accuracy_score(truth, called))
        assert ours.sensitivity == pytest.approx(recall_score(truth, called))
        assert ours.specificity == pytest.approx(recall_score(~truth, ~called))
        assert ours.ppv == pytest.approx(precision_score(truth, called))
        assert ours.npv == pytest.approx(precision_score(~truth, ~called))


def test_a_ratio_of_nothing_is_not_a_number() -> None:
    counts = metrics.confusion(np.array([0.9]), np.array([True]), 0.5)
    assert counts.sensitivity == 1
    assert math.isnan(counts.specificity)


def test_calibration_error_is_small_where_scores_are_frequencies_and_grows_when_sharpened() -> None:
    rng = np.random.default_rng(0)
    score = rng.random(20_000)
    truth = rng.random(20_000) < score
    assert metrics.ece(score, truth) < 0.015
    assert metrics.ece(score**3, truth) > 0.1


def test_calibration_error_is_the_mean_gap_over_bins() -> None:
    score, truth = np.array([0.1, 0.2, 0.9, 1.0]), np.array([False, True, True, True])
    assert metrics.ece(score, truth, bins=2) == pytest.approx((abs(1 - 0.3) + abs(2 - 1.9)) / 4)


@pytest.mark.parametrize("levels", [0, 1, 2, 5])
def test_average_precision_agrees_with_scikit_learn_with_and_without_ties(levels: int) -> None:
    for seed in range(10):
        score, truth = draw(seed, levels=levels)
        theirs = average_precision_score(truth, score)
        assert metrics.auprc(score, truth) == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize(("part", "whole"), [(0, 20), (1, 7), (390, 400), (624, 624)])
def test_intervals_of_shares_are_around_wilsons_and_hold_them(part: int, whole: int) -> None:
    theirs = binomtest(part, whole).proportion_ci(0.95, method="wilson")
    low, high = metrics.share_interval(part / whole, whole)
    assert low <= theirs.low + 1e-9
    assert high >= theirs.high - 1e-9
    # As long as that of as many normal draws, with two of each kind more (z squared / 2 of them).
    films, hits = whole + metrics.Z**2, part + metrics.Z**2 / 2
    reach = metrics.Z * math.sqrt(hits / films * (1 - hits / films) / films)
    assert (low, high) == pytest.approx(
        (max(0, hits / films - reach), min(1, hits / films + reach))
    )


@pytest.mark.parametrize("share", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("films", [20, 50, 200])
def test_intervals_of_shares_of_independent_films_cover_the_truth(share: float, films: int) -> None:
    hits = np.arange(films + 1)
    inside = [low <= share <= high for low, high in (
        metrics.share_interval(hit / films, films) for hit in hits
    )]  # fmt: skip
    assert binom.pmf(hits, films, share)[inside].sum() >= 0.93


@pytest.mark.parametrize("value", [0.5, 0.8, 0.97])
def test_the_interval_of_an_auroc_ends_where_its_standard_error_says(value: float) -> None:
    positives, negatives = 390, 234
    for end in metrics.auroc_interval(value, positives, negatives):
        # Hanley and McNeil's formula with both counts at their mean, as Newcombe has it.
        q1, q2 = end / (2 - end), 2 * end**2 / (1 + end)
        n = (positives + negatives) / 2 - 1
        variance = end * (1 - end) + n * (q1 - end**2) + n * (q2 - end**2)
        error = math.sqrt(variance / (positives * negatives))
        assert abs(value - end) == pytest.approx(metrics.Z * error, rel=1e-4)


def test_an_auroc_of_one_has_an_interval_that_narrows_with_more_films() -> None:
    few, many = metrics.auroc_interval(1.0, 20, 20), metrics.auroc_interval(1.0, 390, 234)
    assert few[1] == many[1] == 1
    assert 0.8 < few[0] < many[0] < 1


def test_the_interval_of_an_auroc_holds_the_truth_nineteen_times_in_twenty() -> None:
    rng = np.random.default_rng(5)
    true = 0.9213504  # of two unit normals 2 apart: Phi(sqrt 2)
    held = 0
    for _ in range(400):
        truth = np.arange(150) < 60
        score = rng.normal(0, 1, 150) + 2 * truth
        low, high = metrics.auroc_interval(metrics.auroc(score, truth), 60, 90)
        held += low <= true <= high
    assert 0.92 <= held / 400 <= 0.99


def test_a_share_of_no_films_may_be_anything() -> None:
    assert metrics.share_interval(0.5, 0) == (0.0, 1.0)
    assert metrics.share_interval(math.nan, 10) == (0.0, 1.0)
