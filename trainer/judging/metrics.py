"""Metrics: what a two-way decision is worth, from scores and truth. NumPy only.

Everywhere `score` is P(positive), float `[N]`, and `truth` is boolean `[N]`, true where the film is
positive.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.floating[Any]]
Truth = NDArray[np.bool_]

#: Bins of equal width in `ece`, as in Guo et al. 2017.
ECE_BINS = 15

#: Two-sided 95 % of the normal distribution, for every interval here.
Z = 1.959963984540054


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Counts of the four ways a decision can come out."""

    true_positive: int
    false_positive: int
    true_negative: int
    false_negative: int

    @property
    def films(self) -> int:
        """All decisions."""
        return self.called_positive + self.called_negative

    @property
    def positives(self) -> int:
        """Films that are positive."""
        return self.true_positive + self.false_negative

    @property
    def negatives(self) -> int:
        """Films that are negative."""
        return self.true_negative + self.false_positive

    @property
    def called_positive(self) -> int:
        """Films that are called positive, rightly or not."""
        return self.true_positive + self.false_positive

    @property
    def called_negative(self) -> int:
        """Films that are called negative, rightly or not."""
        return self.true_negative + self.false_negative

    @property
    def accuracy(self) -> float:
        """Share of right decisions; NaN without films."""
        return _ratio(self.true_positive + self.true_negative, self.films)

    @property
    def sensitivity(self) -> float:
        """Share of positives that are called so; NaN without positives."""
        return _ratio(self.true_positive, self.positives)

    @property
    def specificity(self) -> float:
        """Share of negatives that are called so; NaN without negatives."""
        return _ratio(self.true_negative, self.negatives)

    @property
    def ppv(self) -> float:
        """Share of positive calls that are right, at these films' prevalence; NaN without calls."""
        return _ratio(self.true_positive, self.called_positive)

    @property
    def npv(self) -> float:
        """Share of negative calls that are right, at these films' prevalence; NaN without calls."""
        return _ratio(self.true_negative, self.called_negative)


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


def auprc(score: Scores, truth: Truth) -> float:
    """Average precision: precision at each distinct score, weighted by the recall gained there.

    NaN without positives.
    """
    positives = int(truth.sum())
    if not positives:
        return float("nan")
    distinct, place = np.unique(-score, return_inverse=True)  # from the highest score down
    films = np.cumsum(np.bincount(place, minlength=len(distinct)))
    gained = np.bincount(place, weights=truth, minlength=len(distinct))
    return float(np.sum(gained * (np.cumsum(gained) / films)) / positives)


def ece(score: Scores, truth: Truth, bins: int = ECE_BINS) -> float:
    """Expected calibration error of P(positive): mean |share of positives - score| over bins."""
    if not len(score):
        return float("nan")
    bin_of = np.minimum((score * bins).astype(np.int64), bins - 1)
    gap = np.bincount(bin_of, weights=truth.astype(np.float64) - score, minlength=bins)
    return float(np.abs(gap).sum() / len(score))


def share_interval(share: float, n: float) -> tuple[float, float]:
    """95 % confidence interval of a share of `n` films; (0, 1) where there is none.

    Agresti and Coull's (1998): around the same middle as Wilson's, and never shorter, so that it
    covers enough near 0 and 1 too, where that does not (Brown, Cai and DasGupta 2001).
    """
    if not n or math.isnan(share):
        return 0.0, 1.0
    films = n + Z**2
    middle = (share * n + Z**2 / 2) / films
    reach = Z * math.sqrt(middle * (1 - middle) / films)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def auroc_error(value: float, positives: float, negatives: float) -> float:
    """Standard error of an AUROC of so many films, at this value: Hanley and McNeil 1982.

    With half of all films in the place of either number, as Newcombe 2006 takes it.
    """
    half = (positives + negatives) / 2 - 1
    spread = 1 + half * ((1 - value) / (2 - value) + value / (1 + value))
    return math.sqrt(value * (1 - value) * spread / (positives * negatives))


def auroc_interval(value: float, positives: float, negatives: float) -> tuple[float, float]:
    """95 % confidence interval of an AUROC; (0, 1) where there is none.

    Newcombe 2006 (part 2, method 5): the values that this one is within Z standard errors of, by
    the standard error of Hanley and McNeil 1982 at those values; so an AUROC of 1 has an interval.
    """
    if math.isnan(value) or not positives or not negatives:
        return 0.0, 1.0

    def beyond(other: float) -> bool:
        return abs(value - other) > Z * auroc_error(other, positives, negatives)

    return _edge(beyond, 0.0, value), _edge(beyond, 1.0, value)


def _edge(beyond: Callable[[float], bool], outside: float, inside: float) -> float:
    """Where `beyond` turns true between two values, to 1e-9."""
    while abs(outside - inside) > 1e-9:
        middle = (outside + inside) / 2
        if beyond(middle):
            outside = middle
        else:
            inside = middle
    return inside


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
