"""Clusters: intervals of figures whose films are of patients, with several films each.

Films of one patient say much the same, so that fewer count than there are. How many is told by the
variance between patients, and an interval for independent films is made for as many (Rao and Scott
1992; for shares Korn and Graubard 1998). NumPy only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.judging import metrics

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]

#: How much worse the films of a patient are placed who counts beyond those that an AUROC is of: the
#: smallest tenth with which intervals of 50 patients cover enough (simulated).
WORSE = 0.3

#: Whose each film is, as numbers.
Owners = Numbers


def share_interval(
    hit: NDArray[np.bool_] | Floats, patients: Sequence[str] | Owners
) -> tuple[float, float]:
    """95 % interval of the share of films that are hit; bool [N]. (0, 1) where there are none.

    Agresti and Coull's, of as many films as are worth independent ones. How rare a patient is whose
    films all come out otherwise is not seen of few patients, so that there is one such beyond those
    seen: without, intervals of shares near 0 and 1 are too short (0.87 to 0.91 of 95 %). A film
    that is hit in some of several trials may be given as their share, 0 to 1.
    """
    n = len(hit)
    if not n:
        return 0.0, 1.0
    who = numbered(patients)
    share, alike = float(hit.mean()), _alike(who)
    apart = _by_patient(hit - share, who)
    # A patient of as many films as there are of the patient of a film taken at random.
    beyond = (alike * max(share, 1 - share)) ** 2
    with_it = (share * n + (alike if share <= 0.5 else 0.0)) / (n + alike)
    found = _effect(float(apart @ apart) + beyond, with_it * (1 - with_it) * n, len(apart))
    return metrics.share_interval(share, n / min(max(1.0, found), alike))


def auroc_interval(
    score: NDArray[np.floating[Any]], truth: NDArray[np.bool_], patients: Sequence[str] | Owners
) -> tuple[float, float]:
    """95 % interval of the AUROC of float [N], or of the mean AUROC of float [trials, N] of the
    same films; (0, 1) where there is none.

    Newcombe's, which has a width at 1 too, of as many films as give Hanley and McNeil's standard
    error the variance that Obuchowski (1997) finds between patients, and one more beyond those
    seen. Never of more films than there are, nor of fewer than patients.
    """
    area = _area(score, truth)
    if math.isnan(area):
        return 0.0, 1.0
    positives = int(truth.sum())
    effect = _auroc_effect(score, truth, numbered(patients))
    return metrics.auroc_interval(area, positives / effect, (len(truth) - positives) / effect)


def _area(score: NDArray[np.floating[Any]], truth: NDArray[np.bool_]) -> float:
    return float(np.mean([metrics.auroc(one, truth) for one in np.atleast_2d(score)]))


def _auroc_effect(score: NDArray[np.floating[Any]], truth: NDArray[np.bool_], who: Owners) -> float:
    """How many films of an AUROC are worth one independent one, 1 or more."""
    positives = int(truth.sum())
    negatives = len(truth) - positives
    alike = max(_alike(who[truth]), _alike(who[~truth]))
    if not positives or not negatives:
        return alike
    area = _area(score, truth)
    placed = [_placements(one, truth) for one in np.atleast_2d(score)]
    above, below = (np.mean(part, axis=0) for part in zip(*placed, strict=True))
    # Of each patient, by how much the films are better placed than all: of both classes together,
    # since some patients have films of both.
    apart = _by_patient(above - area, who[truth], int(who.max()) + 1) / positives
    apart += _by_patient(below - area, who[~truth], int(who.max()) + 1) / negatives
    # One patient of the class of which each patient weighs more.
    beyond = max(_alike(who[truth]) / positives, _alike(who[~truth]) / negatives)
    worse = min(WORSE, area)
    with_it = area - worse * beyond / (1 + beyond)
    expected = metrics.auroc_error(with_it, positives, negatives) ** 2
    found = _effect(float(apart @ apart) + (worse * beyond) ** 2, expected, len(apart))
    return min(max(1.0, found), alike)


def auprc_interval(
    score: NDArray[np.floating[Any]], truth: NDArray[np.bool_], patients: Sequence[str] | Owners
) -> tuple[float, float]:
    """95 % interval of the average precision of float [N]; (0, 1) where there is none.

    The variance of Boyd, Eng and Page (2013), p(1 - p) / positives, is that of a share: the
    interval is a share's, of as many positives as those of the AUROC are worth independent ones.
    """
    value = metrics.auprc(score, truth)
    if math.isnan(value):
        return 0.0, 1.0
    who = numbered(patients)
    return metrics.share_interval(value, int(truth.sum()) / _auroc_effect(score, truth, who))


def numbered(patients: Sequence[str] | Owners) -> Owners:
    """Whose each film is, as numbers from 0."""
    given = patients if isinstance(patients, np.ndarray) else np.asarray(patients, dtype=np.str_)
    return np.asarray(np.unique(given, return_inverse=True)[1].reshape(-1), dtype=np.int64)


def _by_patient(values: NDArray[Any], who: Numbers, patients: int = 0) -> Floats:
    return np.bincount(who, weights=values, minlength=patients).astype(np.float64)


def _effect(found: float, expected: float, patients: int) -> float:
    """By how much a variance between patients is greater than that of as many films, each alone.

    Infinite where none is seen. Of few patients it is known badly: as Korn and Graubard have it, by
    the square of Student's quantile over the normal one more.
    """
    if not found or not expected or patients < 2:
        return math.inf
    return found * patients / (patients - 1) / expected * (_student(patients - 1) / metrics.Z) ** 2


def _student(degrees: int) -> float:
    """Two-sided 95 % of Student's distribution, by Cornish and Fisher's expansion: to 0.01 from 7
    degrees of freedom on, too little below."""
    z = metrics.Z
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + (z**3 + z) / 4 / degrees + second / degrees**2


def _alike(who: Numbers) -> float:
    """The same where all films of a patient are alike (Kish 1965)."""
    sizes = np.bincount(who)
    return float(sizes @ sizes) / max(1, len(who))


def _placements(
    score: NDArray[np.floating[Any]], truth: NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    """Of each positive the share of negatives below it, of each negative that of positives above.

    Ties count half (DeLong, DeLong and Clarke-Pearson 1988).
    """
    sick, well = np.sort(score[truth]), np.sort(score[~truth])

    def below(values: NDArray[Any], among: NDArray[Any]) -> Floats:
        ends = np.searchsorted(among, values, "left") + np.searchsorted(among, values, "right")
        return np.asarray(ends / 2 / len(among))

    return below(score[truth], well), 1 - below(score[~truth], sick)
