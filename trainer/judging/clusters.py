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


def share_interval(hit: NDArray[np.bool_] | Floats, patients: Sequence[str]) -> tuple[float, float]:
    """95 % interval of the share of films that are hit; bool [N]. (0, 1) where there are none.

    Wilson's, of as many films as are worth independent ones. A film that is hit in some of several
    trials may be given as their share, 0 to 1.
    """
    n = len(hit)
    if not n:
        return 0.0, 1.0
    who = _numbers(patients)
    share = float(hit.mean())
    apart = _by_patient(hit - share, who)
    found = _effect(float(apart @ apart) / n**2, share * (1 - share) / n, len(apart))
    return metrics.wilson(share, n / min(max(1.0, found), _alike(who)))


def auroc_interval(
    score: NDArray[np.floating[Any]], truth: NDArray[np.bool_], patients: Sequence[str]
) -> tuple[float, float]:
    """95 % interval of the AUROC of float [N], or of the mean AUROC of float [trials, N] of the
    same films; (0, 1) where there is none.

    Newcombe's, which has a width at 1 too, of as many films as give Hanley and McNeil's standard
    error the variance that Obuchowski (1997) finds between patients. Never of more films than there
    are, and of one per patient where all pairs are in order and nothing is seen of it.
    """
    positives = int(truth.sum())
    negatives = len(truth) - positives
    trials = np.atleast_2d(score)
    area = float(np.mean([metrics.auroc(one, truth) for one in trials]))
    if math.isnan(area):
        return 0.0, 1.0
    who = _numbers(patients)
    placed = [_placements(one, truth) for one in trials]
    above, below = (np.mean(part, axis=0) for part in zip(*placed, strict=True))
    # Of each patient, by how much the films are better placed than all: of both classes together,
    # since some patients have films of both.
    apart = _by_patient(above - area, who[truth], int(who.max()) + 1) / positives
    apart += _by_patient(below - area, who[~truth], int(who.max()) + 1) / negatives
    expected = metrics.auroc_error(area, positives, negatives) ** 2
    found = _effect(float(apart @ apart), expected, len(apart))
    alike = max(_alike(who[truth]), _alike(who[~truth]))
    effect = alike if math.isinf(found) else max(1.0, found)
    return metrics.auroc_interval(area, positives / effect, negatives / effect)


def _numbers(patients: Sequence[str]) -> Numbers:
    return np.unique(np.asarray(patients, dtype=np.str_), return_inverse=True)[1].reshape(-1)


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
