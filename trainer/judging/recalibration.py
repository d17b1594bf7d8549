"""Recalibration: a model's temperature, bias and operating point, chosen anew on a site's films.

The network stays as it is. What is chosen on a film tells nothing of how good the choice is on that
film, so patients are dealt to folds, and each fold is decided by what the others chose: all figures
are of films that chose nothing. NumPy only.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.judging import calibration, clusters, metrics
from trainer.judging.verdict import Side

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Numbers = NDArray[np.int64]

#: Parts that patients are dealt to: four fifths of the films choose for the last fifth (Hastie,
#: Tibshirani and Friedman 2009, 7.10, recommend five or ten).
FOLDS = 5

#: Films and patients of each class at least. With 50 films a sensitivity of 0.95 is known to within
#: 0.09 (Wilson).
LEAST, LEAST_PATIENTS = 50, 20

#: Films at least that a threshold is to leave on its wrong side: where it leaves one in 20 there,
#: 40 films are needed, else the threshold lies at the end of what there is and says nothing.
BEYOND = 2

#: The smallest probability of which a logarithm is taken: below it float32 says 0.
_TINY = 1e-38

#: How near to 1 a score of 1 is taken to be: float32 has no number between half as near and 1.
_NEXT_TO_ONE = 2.0**-25


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What calibration chooses."""

    temperature: float
    #: Added to the logits, `float64 [C]`.
    bias: Floats
    #: On P(positive), 0 to 1.
    threshold: float

    def scores(self, logits: Floats) -> Floats:
        """Calibrated probabilities `[N, C]` of logits `[N, C]`."""
        return calibration.softmax(logits + self.bias, self.temperature)


@dataclass(frozen=True, kw_only=True)
class Recalibrated:
    """What all films chose, and what the films say of it that had no part in the choice."""

    chosen: Chosen
    #: P(positive) by what the other folds chose, `float64 [N]`.
    probability: Floats
    #: Their threshold for each film, `float64 [N]`.
    threshold: Floats

    @property
    def called(self) -> Flags:
        """Which films are called positive, `bool [N]`."""
        return self.probability >= self.threshold

    def side(self) -> Side:
        """The films as one model with one threshold would have scored them.

        Each probability is moved by how far its fold's threshold is from a half, in log odds: so
        the decisions are those of the folds.
        """
        score = 1 / (1 + np.exp(_log_odds(self.threshold) - _log_odds(self.probability)))
        below = np.nextafter(0.5, 0.0)
        score = np.where(self.called, np.maximum(score, 0.5), np.minimum(score, below))
        return Side(score=score, threshold=0.5)

    def figures(
        self, truth: Flags, patients: Sequence[str], *, known: str = ""
    ) -> dict[str, float]:
        """As of `measured`, by the folds' decisions and probabilities."""
        return measured(self.probability, self.called, truth, patients, known=known)


def measured(
    probability: Floats,
    called: Flags,
    truth: Flags,
    patients: Sequence[str],
    *,
    known: str = "",
) -> dict[str, float]:
    """Every metric as of `metrics.summary`, of decisions that may be by several thresholds.

    `known` is whether it is known whose the films are, as of `trainer.data.whose.state`. Intervals
    are of patients, of whom some have several films, where clusters have them; that of the average
    precision is as of independent films.
    """
    found = metrics.summary(probability, truth, 0.5, patients=known)
    decided = metrics.summary(called.astype(np.float64), truth, 0.5)
    of_scores = {"auroc", "auprc", "ece"}
    found |= {
        name: value
        for name, value in decided.items()
        if name.removesuffix("_low").removesuffix("_high") not in of_scores
    }
    owners = np.asarray(patients, dtype=np.str_)
    right = called == truth
    for name, which in (
        ("accuracy", np.ones(len(truth), np.bool_)),
        ("sensitivity", truth),
        ("specificity", ~truth),
        ("ppv", called),
        ("npv", ~called),
    ):
        if name in found:
            ends = clusters.share_interval(right[which], owners[which].tolist())
            found[f"{name}_low"], found[f"{name}_high"] = ends
    if "auroc" in found:
        ends = clusters.auroc_interval(probability, truth, patients)
        found["auroc_low"], found["auroc_high"] = ends
    return found


def logits_of(scores: NDArray[np.floating[Any]], temperature: float) -> Floats:
    """Logits `[N, C]` that give these scores at this temperature, up to a constant in each row."""
    return temperature * np.log(np.maximum(scores.astype(np.float64), _TINY))


def of_positive(probability: Floats, positive: int) -> Floats:
    """Scores `[N, 2]` of P(positive) `[N]`, of a model of two classes.

    Near 1 float32 says 1; such a score is taken for the next smaller one that there could be.
    """
    p = np.minimum(probability, 1 - _NEXT_TO_ONE)
    return np.stack([p, 1 - p] if positive == 0 else [1 - p, p], axis=1)


def lack(truth: Flags, patients: Sequence[str], rule: str, names: tuple[str, str]) -> str:
    """What is too little to choose by, and how much is needed; empty where it is enough.

    `rule` is as of `calibration.operating_point`, and `names` what the films are called that are
    positive, and the others.
    """
    owners = np.asarray(patients, dtype=np.str_)
    kind, _, goal = rule.partition("=")
    for name, which, figure in (
        (names[0], truth, "sensitivity"),
        (names[1], ~truth, "specificity"),
    ):
        films, theirs, least = int(which.sum()), len(np.unique(owners[which])), LEAST
        why = ""
        if kind == figure:
            if float(goal) >= 1:
                return f"no number of films can show that {rule}; ask for less than 1"
            least = max(LEAST, math.ceil(round(BEYOND / (1 - float(goal)), 6)))
            why = f" for {rule}" if least > LEAST else ""
        if films < least:
            return (
                f"{films} films of {name} are too few{why}: {least} are needed, of "
                f"{LEAST_PATIENTS} patients or more"
            )
        if theirs < LEAST_PATIENTS:
            return (
                f"the {films} films of {name} are of {theirs} patients, where {LEAST_PATIENTS} are "
                "needed"
            )
    return ""


def recalibrate(
    logits: Floats, labels: Numbers, patients: Sequence[str], positive: int, rule: str
) -> Recalibrated:
    """Choose temperature, bias and threshold on all films, and for each fold on the others.

    `logits` are the network's, `[N, C]`; `labels` true classes, `[N]`; `positive` is the class that
    is the disease. There must be enough of both, as `lack` has it. Raises ValueError for a rule
    that `calibration.operating_point` does not know.
    """
    truth = labels == positive
    number = folds(truth, patients)
    probability, threshold = np.empty(len(labels)), np.empty(len(labels))
    for fold in range(FOLDS):
        inside = number == fold
        by_others = _choose(logits[~inside], labels[~inside], positive, rule)
        probability[inside] = by_others.scores(logits[inside])[:, positive]
        threshold[inside] = by_others.threshold
    return Recalibrated(
        chosen=_choose(logits, labels, positive, rule),
        probability=probability,
        threshold=threshold,
    )


def folds(truth: Flags, patients: Sequence[str]) -> Numbers:
    """The fold of each film, `int [N]`: all films of a patient are in one.

    Patients with positive films, with negative ones and with both are dealt out apart, in an order
    that follows from a hash of their names, so that each fold has its share of both classes.
    """
    names, owner = np.unique(np.asarray(patients, dtype=np.str_), return_inverse=True)
    owner = owner.reshape(-1)
    sick, well = np.zeros(len(names), np.bool_), np.zeros(len(names), np.bool_)
    sick[owner[truth]] = True
    well[owner[~truth]] = True
    order = sorted(
        range(len(names)),
        key=lambda n: (bool(sick[n]), bool(well[n]), _place(str(names[n]))),
    )
    fold = np.empty(len(names), np.int64)
    fold[order] = np.arange(len(names)) % FOLDS
    return np.asarray(fold[owner])


def _choose(logits: Floats, labels: Numbers, positive: int, rule: str) -> Chosen:
    temperature, bias = calibration.scaling(logits, labels)
    score = calibration.softmax(logits + bias, temperature)[:, positive]
    threshold = calibration.operating_point(score, labels == positive, rule)
    return Chosen(temperature=temperature, bias=bias, threshold=threshold)


def _log_odds(p: Floats) -> Floats:
    p = np.clip(p, 1e-300, 1 - 1e-16)
    return np.asarray(np.log(p) - np.log1p(-p))


def _place(patient: str) -> bytes:
    return hashlib.sha256(patient.encode("utf-8", "surrogateescape")).digest()
