from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from trainer.judging import calibration, metrics


def draw(seed: int, n: int = 4000) -> tuple[metrics.Scores, metrics.Truth]:
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < 0.6
    return 1 / (1 + np.exp(-(rng.normal(0, 1, n) + 2 * truth - 1))), truth


@pytest.mark.parametrize("blur", [0.5, 1.0, 3.0])
def test_the_temperature_and_bias_that_spoiled_the_logits_are_found(blur: float) -> None:
    rng = np.random.default_rng(0)
    honest = rng.normal(0, 2, (10_000, 3))
    chance = calibration.softmax(honest)
    labels = (rng.random((len(honest), 1)) > chance.cumsum(axis=1)).sum(axis=1)
    moved = np.array([1.0, 0.5, -1.5])
    temperature, bias = calibration.scaling(honest * blur - moved, labels)
    assert temperature == pytest.approx(blur, rel=0.05)
    assert bias == pytest.approx(moved, abs=0.1 * blur)


def test_mean_probabilities_are_the_classes_shares() -> None:
    score, truth = draw(0)
    logits = np.stack([np.zeros(len(score)), np.log(score / (1 - score)) * 2 - 5], axis=1)
    temperature, bias = calibration.scaling(logits, truth.astype(int))
    p = calibration.softmax(logits + bias, temperature)[:, 1]
    assert p.mean() == pytest.approx(truth.mean(), abs=1e-3)
    assert metrics.ece(p, truth) < 0.03


def test_a_network_that_is_always_right_does_not_become_endlessly_sure() -> None:
    labels = np.arange(200) % 2
    logits = np.stack([3.0 - 6 * labels, 6.0 * labels - 3], axis=1)
    temperature, bias = calibration.scaling(logits, labels)
    score = calibration.softmax(logits + bias, temperature)
    assert score.max() == pytest.approx(101 / 102, abs=1e-3)


def test_a_network_that_knows_nothing_says_the_classes_shares() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random(2000) < 0.7).astype(int)
    logits = rng.normal(0, 3, (2000, 2))
    temperature, bias = calibration.scaling(logits, labels)
    score = calibration.softmax(logits + bias, temperature)[:, 1]
    assert np.abs(score - 0.7).max() < 0.15


def test_youdens_point_is_scikit_learns_best() -> None:
    for seed in range(5):
        score, truth = draw(seed)
        counts = metrics.confusion(score, truth, calibration.operating_point(score, truth))
        false_rate, true_rate, _ = roc_curve(truth, score)
        best = float((true_rate - false_rate).max())
        assert counts.sensitivity + counts.specificity - 1 == pytest.approx(best)


def test_the_operating_point_lies_halfway_between_the_scores_it_separates() -> None:
    score, truth = np.array([0.1, 0.2, 0.6, 0.9]), np.array([False, False, True, True])
    assert calibration.operating_point(score, truth) == pytest.approx(0.4)


@pytest.mark.parametrize("goal", [0.5, 0.9, 0.95, 1.0])
def test_a_wanted_sensitivity_is_reached_at_the_highest_threshold(goal: float) -> None:
    score, truth = draw(1)
    at = calibration.operating_point(score, truth, f"sensitivity={goal}")
    assert metrics.confusion(score, truth, at).sensitivity >= goal
    next_score = float(score[score > at].min())
    assert metrics.confusion(score, truth, next_score + 1e-12).sensitivity <= goal


def test_a_wanted_specificity_is_reached_at_the_lowest_threshold() -> None:
    score, truth = draw(2)
    at = calibration.operating_point(score, truth, "specificity=0.9")
    assert 0.9 <= metrics.confusion(score, truth, at).specificity < 0.902


@pytest.mark.parametrize("cost", [0.2, 1.0, 5.0])
def test_a_cost_gives_the_cheapest_of_all_thresholds(cost: float) -> None:
    score, truth = draw(4)

    def price(threshold: float) -> float:
        counts = metrics.confusion(score, truth, threshold)
        return cost * counts.false_negative + counts.false_positive

    at = calibration.operating_point(score, truth, f"cost={cost}")
    assert price(at) == min(price(edge) for edge in (0.0, *np.unique(score) + 1e-12))


@pytest.mark.parametrize(
    "rule", ["best", "sensitivity", "sensitivity=2", "accuracy=0.9", "", "cost=", "cost=-1"]
)
def test_another_rule_is_refused(rule: str) -> None:
    score, truth = draw(3, n=20)
    with pytest.raises(ValueError, match="the operating point's rule is"):
        calibration.operating_point(score, truth, rule)
