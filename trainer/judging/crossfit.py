"""Cross-fitting: what was chosen on films is measured on patients that had no part in the choice.

What is chosen on a film tells nothing of how good the choice is on that film. So patients are dealt
to folds, and the films of each fold are decided by the epoch, temperature, bias and threshold that
the others choose; the network is trained once. All figures are of these decisions. What is used
afterwards is what all films choose together. NumPy only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.judging import calibration, figures, metrics
from trainer.judging.verdict import Side

Floats = NDArray[np.float64]
Logits = NDArray[np.floating[Any]]
Several = Sequence[Logits]
Flags = NDArray[np.bool_]
Numbers = NDArray[np.int64]

#: Parts that patients are dealt to at most: four fifths of the films choose for the last fifth
#: (Hastie, Tibshirani and Friedman 2009, 7.10, recommend five or ten).
FOLDS = 5

#: How a basis begins that says so.
CROSS_FITTED = "cross-fitted"


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What calibration chooses."""

    temperature: float
    #: Added to the logits, `float64 [C]`.
    bias: Floats
    #: On P(positive), 0 to 1.
    threshold: float

    def scores(self, logits: Logits) -> Floats:
        """Calibrated probabilities `[N, C]` of logits `[N, C]`."""
        return calibration.softmax(logits + self.bias, self.temperature)


@dataclass(frozen=True, kw_only=True)
class Epochs:
    """What the network said of the films after each epoch, and which epoch is kept."""

    #: `[1 + K, N, C]` of each: the films as they are, and in each of K dressings.
    logits: Several
    #: The place of the one that is kept, from 0.
    kept: int


@dataclass(frozen=True, kw_only=True)
class CrossFitted:
    """What all films chose, and what the films say of it that had no part in the choice."""

    chosen: Chosen
    #: P(positive) by what the other folds chose, `float64 [N]`.
    probability: Floats
    #: Their threshold for each film, `float64 [N]`.
    threshold: Floats
    #: Into how many parts patients were dealt; 0 where they are too few for it, and the films are
    #: decided by what they chose themselves.
    folds: int

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
        """As of `figures.summary`, by the folds' decisions and probabilities."""
        return figures.summary(self.probability, truth, self.threshold, patients, known=known)

    def basis(self, what: str = "temperature and threshold") -> str:
        """For a person: what the films that the figures are of had a part in; `what` is chosen."""
        if self.folds:
            return (
                f"{CROSS_FITTED} over patients: of each of {self.folds} parts the others chose "
                f"{what}"
            )
        return f"films that chose {what} themselves, of too few patients: too good"


def fit(
    logits: Logits,
    labels: Numbers,
    patients: Sequence[str],
    positive: int,
    rule: str,
    *,
    views: Logits | None = None,
    dressed: Logits | None = None,
    epochs: Epochs | None = None,
) -> CrossFitted:
    """Choose temperature, bias and threshold on all films, and for each fold on the others.

    `logits` are the network's, `[N, C]`; `labels` true classes, `[N]`; `positive` is the class that
    is the disease; `rule` is as of `calibration.operating_point`. With `views` `[V, N, C]`, what
    the network says of each film as other acquisitions would have made it, the threshold is chosen
    on these. What it says of the films dressed as others look, `dressed` `[K, N, C]`, has a part in
    all three. With `epochs` the other folds choose the epoch too. Where that is not the one that
    all films keep there are no views of it; its threshold is then the one that calls as large a
    share of their films positive. Raises ValueError for a rule that is none.
    """
    every = np.ones(len(labels), np.bool_)
    seen = logits[None] if dressed is None else np.concatenate([logits[None], dressed])
    if views is None:
        views = seen
    elif dressed is not None:
        views = np.concatenate([views, dressed])
    chosen = _choose(seen, views, labels, every, positive, rule)
    number, parts = folds(labels == positive, patients)
    if not parts:
        own = chosen.scores(logits)[:, positive]
        return CrossFitted(
            chosen=chosen, probability=own, threshold=np.full(len(own), chosen.threshold), folds=0
        )
    probability, threshold = np.empty(len(labels)), np.empty(len(labels))
    for fold in range(parts):
        inside = number == fold
        others = ~inside
        by_others = _choose(seen, views, labels, others, positive, rule)
        said: Logits = logits
        if epochs is not None:
            theirs = best_by([one[:, others] for one in epochs.logits], labels[others], positive)
            if theirs != epochs.kept:
                after = epochs.logits[theirs]
                said = after[0]
                by_others = _carried(
                    by_others, logits[others], after[:, others], labels[others], positive
                )
        probability[inside] = by_others.scores(said[inside])[:, positive]
        threshold[inside] = by_others.threshold
    return CrossFitted(chosen=chosen, probability=probability, threshold=threshold, folds=parts)


def best_by(logits: Several, labels: Numbers, positive: int) -> int:
    """The place of the epoch that films like best, from 0: by `trainer.learning.epoch.merit`.

    By logits `[1 + K, N, C]` after each epoch, of films as they are and in K dressings, and true
    classes `[N]`.
    """

    def merit(one: Logits) -> tuple[float, float]:
        each = [calibration.softmax(logits) for logits in one]
        right = each[0][np.arange(len(labels)), labels]
        areas = [metrics.auroc(scores[:, positive], labels == positive) for scores in each]
        return min(areas), float(np.log(np.maximum(right, 1e-300)).mean())

    return max(range(len(logits)), key=lambda place: merit(logits[place]))


def folds(truth: Flags, patients: Sequence[str]) -> tuple[Numbers, int]:
    """The fold of each film, `int [N]`, and how many there are: FOLDS, or as many as there are
    patients of the rarer class; 0 where that is one.

    All films of a patient are in one fold. Patients with positive films, with both and with
    negative ones are dealt out one after another, in an order that follows from a hash of their
    names: so each fold has its share of both classes, and so have the others of it.
    """
    names, owner = np.unique(np.asarray(patients, dtype=np.str_), return_inverse=True)
    owner = owner.reshape(-1)
    sick, well = np.zeros(len(names), np.bool_), np.zeros(len(names), np.bool_)
    sick[owner[truth]] = True
    well[owner[~truth]] = True
    parts = min(FOLDS, int(sick.sum()), int(well.sum()))
    if parts < 2:
        return np.zeros(len(truth), np.int64), 0
    order = sorted(
        range(len(names)),
        key=lambda n: (int(well[n]) - int(sick[n]), _place(str(names[n]))),
    )
    fold = np.empty(len(names), np.int64)
    fold[order] = np.arange(len(names)) % parts
    return np.asarray(fold[owner]), parts


def _choose(
    seen: Logits,
    views: Logits,
    labels: Numbers,
    which: Flags,
    positive: int,
    rule: str,
) -> Chosen:
    """By these films only: temperature and bias by `seen`, the threshold by `views`."""
    truth = labels[which]
    temperature, bias = _scaling(seen[:, which], truth)
    score = calibration.softmax(np.concatenate(list(views[:, which])) + bias, temperature)
    threshold = calibration.operating_point(
        score[:, positive], np.tile(truth == positive, len(views)), rule
    )
    return Chosen(temperature=temperature, bias=bias, threshold=threshold)


def _scaling(seen: Logits, labels: Numbers) -> tuple[float, Floats]:
    return calibration.scaling(np.concatenate(list(seen)), np.tile(labels, len(seen)))


def _carried(kept: Chosen, before: Logits, after: Logits, labels: Numbers, positive: int) -> Chosen:
    """A choice made by films' logits of one epoch, `before` `[N, C]`, for those of another, `after`
    `[1 + K, N, C]`."""
    share = (kept.scores(before)[:, positive] < kept.threshold).mean()
    temperature, bias = _scaling(after, labels)
    moved = Chosen(temperature=temperature, bias=bias, threshold=0.0)
    score = np.concatenate(([0.0], np.sort(moved.scores(after[0])[:, positive]), [1.0]))
    at = round(share * (len(score) - 2))
    return Chosen(temperature=temperature, bias=bias, threshold=float(score[at : at + 2].mean()))


def _log_odds(p: Floats) -> Floats:
    p = np.clip(p, 1e-300, 1 - 1e-16)
    return np.asarray(np.log(p) - np.log1p(-p))


def _place(patient: str) -> bytes:
    return hashlib.sha256(patient.encode("utf-8", "surrogateescape")).digest()
