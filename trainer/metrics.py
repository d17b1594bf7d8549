"""Metrics: what a two-way decision is worth, from scores and truth. NumPy only.

Everywhere `score` is P(positive), float `[N]`, and `truth` is boolean `[N]`, true where the film is
positive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.floating[Any]]
Truth = NDArray[np.bool_]

#: Bins of equal width in `ece`, as in Guo et al. 2017.
ECE_BINS = 15


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Counts of the four ways a decision can come out."""

    true_positive: int
    false_positive: int
    true_negative: int
    false_negative: int

    @property
    def accuracy(self) -> float:
        """Share of right decisions; NaN without films."""
        right = self.true_positive + self.true_negative
        return _ratio(right, right + self.false_positive + self.false_negative)

    @property
    def sensitivity(self) -> float:
        """Share of positives that are called so; NaN without positives."""
        return _ratio(self.true_positive, self.true_positive + self.false_negative)

    @property
    def specificity(self) -> float:
        """Share of negatives that are called so; NaN without negatives."""
        return _ratio(self.true_negative, self.true_negative + self.false_positive)


def confusion(score: Scores, truth: Truth, threshold: float) -> Confusion:
    """Counts when a score at or above `threshold` is called positive."""
    called = score >= threshold
    return Confusion(
        true_positive=int(np.sum(called & truth)),
        false_positive=int(np.sum(called & ~truth)),
        true_negative=int(np.sum(~called & ~truth)),
        false_negative=int(np.sum(~called & truth)),
    )


def auroc(score: Scores, truth: Truth) -> float:
    """Chance that a positive scores above a negative, ties counting half; NaN without both.

    The Mann-Whitney statistic, from mid-ranks.
    """
    positives = int(truth.sum())
    negatives = len(truth) - positives
    if not positives or not negatives:
        return float("nan")
    _, place, size = np.unique(score, return_inverse=True, return_counts=True)
    rank = np.cumsum(size) - (size - 1) / 2
    excess = float(rank[place][truth].sum()) - positives * (positives + 1) / 2
    return excess / (positives * negatives)


def ece(score: Scores, truth: Truth, bins: int = ECE_BINS) -> float:
    """Expected calibration error of P(positive): mean |share of positives - score| over bins."""
    if not len(score):
        return float("nan")
    bin_of = np.minimum((score * bins).astype(np.int64), bins - 1)
    gap = np.bincount(bin_of, weights=truth.astype(np.float64) - score, minlength=bins)
    return float(np.abs(gap).sum() / len(score))


def summary(score: Scores, truth: Truth, threshold: float) -> dict[str, float]:
    """Every metric by the name it is stored under."""
    counts = confusion(score, truth, threshold)
    return {
        "auroc": auroc(score, truth),
        "accuracy": counts.accuracy,
        "sensitivity": counts.sensitivity,
        "specificity": counts.specificity,
        "ece": ece(score, truth),
        "films": float(len(truth)),
    }


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
