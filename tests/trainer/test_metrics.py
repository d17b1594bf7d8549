from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, recall_score, roc_auc_score

from trainer import metrics


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
