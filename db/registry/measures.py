"""What a job's decisions were worth, from probabilities and truth. NumPy only, and no SQL.

The definitions are those of the trainer, whose validation metrics stand beside these; the two
packages know nothing of each other, and a test holds them equal.

Everywhere `score` is P(positive), float64 `[N]`; `truth` and `called` are boolean `[N]`: whether a
film is positive, and whether it was called so.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]
Flags = NDArray[np.bool_]

#: Bins of equal width in the calibration error.
ECE_BINS = 15


def auroc(score: Scores, truth: Flags) -> float | None:
    """Chance that a positive scores above a negative, ties counting half; None without both."""
    positives = int(truth.sum())
    negatives = len(truth) - positives
    if not positives or not negatives:
        return None
    _, place, size = np.unique(score, return_inverse=True, return_counts=True)
    rank = np.cumsum(size) - (size - 1) / 2
    excess = float(rank[place][truth].sum()) - positives * (positives + 1) / 2
    return excess / (positives * negatives)


def auprc(score: Scores, truth: Flags) -> float | None:
    """Average precision: precision at each distinct score, weighted by the recall gained there.

    None without positives.
    """
    positives = int(truth.sum())
    if not positives:
        return None
    distinct, place = np.unique(-score, return_inverse=True)  # from the highest score down
    films = np.cumsum(np.bincount(place, minlength=len(distinct)))
    gained = np.bincount(place, weights=truth, minlength=len(distinct))
    return float(np.sum(gained * (np.cumsum(gained) / films)) / positives)


def ece(score: Scores, truth: Flags) -> float | None:
    """Expected calibration error of P(positive): mean |share of positives - score| over bins."""
    if not len(score):
        return None
    bin_of = np.minimum((score * ECE_BINS).astype(np.int64), ECE_BINS - 1)
    gap = np.bincount(bin_of, weights=truth.astype(np.float64) - score, minlength=ECE_BINS)
    return float(np.abs(gap).sum() / len(score))


def summary(score: Scores, truth: Flags, called: Flags) -> dict[str, float | int | None]:
    """Every metric by the name it is stored under; None where the films do not allow it."""
    true_positive = int(np.sum(called & truth))
    false_positive = int(np.sum(called & ~truth))
    true_negative = int(np.sum(~called & ~truth))
    false_negative = int(np.sum(~called & truth))
    positives, negatives = true_positive + false_negative, true_negative + false_positive
    return {
        "auroc": auroc(score, truth),
        "auprc": auprc(score, truth),
        "accuracy": _ratio(true_positive + true_negative, len(truth)),
        "sensitivity": _ratio(true_positive, positives),
        "specificity": _ratio(true_negative, negatives),
        "ppv": _ratio(true_positive, true_positive + false_positive),
        "npv": _ratio(true_negative, true_negative + false_negative),
        "ece": ece(score, truth),
        "positives": positives,
        "negatives": negatives,
    }


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
