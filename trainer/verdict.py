"""Verdict: may a new model take the champion's place? Both are judged on the same films.

The new one need not be better, only not worse by more than a margin that was chosen beforehand: on
AUROC, and on sensitivity and specificity at each model's own operating point. Differences are
paired, film by film, and the patients are what is resampled: films of one patient say much the
same. NumPy only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer import metrics

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

#: Draws of the bootstrap (Efron and Tibshirani 1993 ask for 1,000 or more for percentiles).
DRAWS = 2_000

#: Of the distribution of differences, what is cut off: a one-sided 95 % bound.
TAIL = 0.05

#: Fewer films of a class than this say nothing about a model.
LEAST = 20

#: Draws that are computed at once: bounds memory at this × films × 8 bytes.
_AT_ONCE = 100

#: What is compared: name → in words.
NAMES = {"auroc": "AUROC", "sensitivity": "sensitivity", "specificity": "specificity"}


@dataclass(frozen=True, kw_only=True)
class Side:
    """What one model says of the films."""

    #: P(positive), `float64 [N]`, 0 to 1.
    score: Floats
    #: Its operating point.
    threshold: float


@dataclass(frozen=True, kw_only=True)
class Margins:
    """By how much a new model may be worse, each 0 to 1."""

    auroc: float = 0.01
    sensitivity: float = 0.02
    specificity: float = 0.05
    #: On AUROC, sensitivity and specificity within a slice.
    slice: float = 0.05


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Candidate less champion of one figure."""

    candidate: float
    champion: float
    #: One-sided 95 % bounds of the difference: at worst, at best.
    low: float
    high: float

    @property
    def value(self) -> float:
        """Above 0 where the candidate is better."""
        return self.candidate - self.champion


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether the candidate may take the champion's place."""

    accepted: bool
    #: For a person, with the figures.
    text: str
    #: The same without the slices' names, which come from outside.
    told: str
    #: JSON-able: `films`, `positives`, `patients`, a difference per figure, `slices`.
    figures: dict[str, Any]


def compare(
    truth: Flags,
    patients: Sequence[str],
    candidate: Side,
    champion: Side,
    margins: Margins,
    *,
    slices: Mapping[str, Flags] | None = None,
    seed: int = 0,
) -> Verdict:
    """Judge a candidate beside the champion on the films that both scored.

    `truth` is true where a film is positive, `patients` whose each film is, and `slices` name parts
    of the films. A slice is looked at where it has `LEAST` films of each class, and speaks against
    the candidate where that is worse there by more than its margin, and beyond chance.
    """
    positives = int(truth.sum())
    negatives = len(truth) - positives
    figures: dict[str, Any] = {
        "films": len(truth), "positives": positives, "patients": len(set(patients)),
    }  # fmt: skip
    on = f"on {len(truth)} frozen films of {len(set(patients))} patients"
    if min(positives, negatives) < LEAST:
        few = (
            f"only {positives} positive and {negatives} negative frozen films are left to judge "
            f"by, where at least {LEAST} of each are needed"
        )
        return Verdict(accepted=False, figures=figures, text=few, told=few)
    for side, name in ((candidate, "the new model"), (champion, "the champion")):
        if not np.isfinite(side.score).all():
            wrong = f"{name} gives probabilities that are no numbers"
            return Verdict(accepted=False, figures=figures, text=wrong, told=wrong)
    found = differences(truth, patients, candidate, champion, seed=seed)
    figures |= {name: _plain(one) for name, one in found.items()}
    worse = [
        _clause(name, one, getattr(margins, name))
        for name, one in found.items()
        if not one.low > -getattr(margins, name)
    ]
    told = list(worse)
    figures["slices"] = {}
    for part, chosen in (slices or {}).items():
        there = truth[chosen]
        enough = min(int(there.sum()), int((~there).sum())) >= LEAST
        figures["slices"][part] = {"films": int(chosen.sum()), "judged": enough}
        if not enough:
            continue
        within = differences(
            there,
            [patient for patient, inside in zip(patients, chosen, strict=True) if inside],
            Side(score=candidate.score[chosen], threshold=candidate.threshold),
            Side(score=champion.score[chosen], threshold=champion.threshold),
            seed=seed,
        )
        figures["slices"][part] |= {name: _plain(one) for name, one in within.items()}
        for name, one in within.items():
            if one.value < -margins.slice and one.high < 0:
                clause = f"({int(chosen.sum())} films) {_clause(name, one, margins.slice)}"
                worse.append(f"in {part} {clause}")
                told.append(f"in a part of them {clause}")
    if worse:
        return Verdict(
            accepted=False,
            figures=figures,
            text=f"{on} {'; '.join(worse)}",
            told=f"{on} {'; '.join(told)}",
        )
    both = ", ".join(
        f"{NAMES[name]} {one.candidate:.4f} against the champion's {one.champion:.4f}"
        for name, one in found.items()
    )
    good = f"{on} {both}: not worse, within the margins"
    return Verdict(accepted=True, figures=figures, text=good, told=good)


def differences(
    truth: Flags, patients: Sequence[str], candidate: Side, champion: Side, *, seed: int = 0
) -> dict[str, Difference]:
    """AUROC, sensitivity and specificity of both, and their paired differences with bounds.

    The bounds are percentiles of a bootstrap over patients, drawn apart among those who have a
    positive film and the others, so that no draw is without a class. AUROC's ties count half.
    """
    number = np.unique(np.asarray(patients), return_inverse=True)[1].reshape(-1)
    weights = _draws(truth, number, seed)
    low, high = 100 * TAIL, 100 * (1 - TAIL)
    found = {}
    for name in NAMES:
        values, drawn = [], []
        for side in (candidate, champion):
            if name == "auroc":
                values.append(metrics.auroc(side.score, truth))
                drawn.append(_aurocs(side.score, truth, weights, number))
            else:
                right = (side.score >= side.threshold) == truth
                of = truth if name == "sensitivity" else ~truth
                values.append(float(right[of].mean()))
                drawn.append(_shares(right[of], weights, number[of]))
        apart = drawn[0] - drawn[1]
        found[name] = Difference(
            candidate=values[0],
            champion=values[1],
            low=float(np.percentile(apart, low)),
            high=float(np.percentile(apart, high)),
        )
    return found


def _draws(truth: Flags, number: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """How often each patient is drawn, `int [DRAWS, patients]`."""
    rng = np.random.default_rng(seed)
    total = int(number.max()) + 1
    sick = np.zeros(total, np.bool_)
    sick[number[truth]] = True
    weights = np.zeros((DRAWS, total), np.int64)
    for group in (np.flatnonzero(sick), np.flatnonzero(~sick)):
        if len(group):
            weights[:, group] = rng.multinomial(len(group), np.full(len(group), 1 / len(group)),
                                                size=DRAWS)  # fmt: skip
    return weights


def _shares(right: Flags, weights: NDArray[np.int64], number: NDArray[np.int64]) -> Floats:
    """In each draw, the share of these films that are right, `float [DRAWS]`."""
    # Summed up by patient first: the draws are of patients.
    total = weights.shape[1]
    good = np.bincount(number, weights=right, minlength=total)
    films = np.bincount(number, minlength=total)
    shares: Floats = (weights @ good) / np.maximum(weights @ films, 1)
    return shares


def _aurocs(
    score: Floats, truth: Flags, weights: NDArray[np.int64], number: NDArray[np.int64]
) -> Floats:
    """The AUROC of each draw, `float [DRAWS]`: films count as often as their patient was drawn."""
    distinct, place = np.unique(score, return_inverse=True)
    order = np.argsort(place, kind="stable")
    ends = np.searchsorted(place[order], np.arange(len(distinct)), side="left")
    sick, owner = truth[order], number[order]
    found = np.empty(len(weights))
    for start in range(0, len(weights), _AT_ONCE):
        drawn = weights[start : start + _AT_ONCE, :][:, owner].astype(np.float64)
        positive = np.add.reduceat(np.where(sick, drawn, 0.0), ends, axis=1)
        negative = np.add.reduceat(np.where(sick, 0.0, drawn), ends, axis=1)
        below = np.cumsum(negative, axis=1) - negative / 2
        pairs = positive.sum(1) * negative.sum(1)
        found[start : start + _AT_ONCE] = (positive * below).sum(1) / np.maximum(pairs, 1.0)
    return found


def _clause(name: str, one: Difference, margin: float) -> str:
    """Why a difference speaks against the candidate."""
    change = f"lower by {-one.value:.4f}" if one.value < 0 else f"higher by {one.value:.4f}"
    return (
        f"the new model's {NAMES[name]} is {one.candidate:.4f}, the champion's "
        f"{one.champion:.4f}: {change} (95 % sure of no worse than {one.low:+.4f}), where "
        f"{-margin:+.4g} may be"
    )


def _plain(one: Difference) -> dict[str, float]:
    """JSON-able."""
    return {
        "candidate": one.candidate, "champion": one.champion, "difference": one.value,
        "low": one.low, "high": one.high,
    }  # fmt: skip
