"""Verdict: what two models say of the same films, and by how much one is the better.

Compared are AUROC, and sensitivity and specificity at each model's own operating point. Differences
are paired, film by film, and patients are the sample (`trainer.judging.paired`). Whether a new
model may take the champion's place is the gate's to say. NumPy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.judging import clusters, paired
from trainer.judging.margins import NAMES
from trainer.judging.paired import Sums

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Numbers = NDArray[np.int64]

#: Fewer films of a class than this say nothing about a model.
LEAST = 20

#: Nor do they where they are of fewer patients than this.
LEAST_PATIENTS = 5


@dataclass(frozen=True, kw_only=True)
class Side:
    """What one model says of the films."""

    #: P(positive), `float64 [N]`, 0 to 1.
    score: Floats
    #: Its operating point.
    threshold: float


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Candidate less champion, or anchor, of one figure."""

    candidate: float
    champion: float
    #: One-sided 95 % bounds of the difference: at worst, at best.
    low: float
    high: float
    #: What the bounds are made of.
    sums: Sums

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
    #: The same without a name of the user's: slices are often called as their folders are.
    shareable: str
    #: JSON-able: `gate` (its version), `films`, `positives`, `patients`, `margins`, a difference
    #: per figure, the same of the `anchor`, `floors`, `shift`, `slices`, and how many films of
    #: each class would be `enough` to decide.
    figures: dict[str, Any]


def differences(
    truth: Flags, patients: Sequence[str], candidate: Side, champion: Side
) -> dict[str, Difference]:
    """AUROC, sensitivity and specificity of both, and their paired differences with bounds.

    `truth` is true where a film is positive, `patients` whose each film is. AUROC's ties count
    half. Both classes must be there.
    """
    number = clusters.numbered(patients)
    found = {}
    for name in NAMES:
        values, sums = _figure(name, truth, number, candidate, champion)
        low, high = paired.bounds(sums)
        found[name] = Difference(
            candidate=values[0], champion=values[1], low=float(low), high=float(high), sums=sums
        )
    return found


def levels(truth: Flags, patients: Sequence[str], side: Side) -> dict[str, tuple[float, Sums]]:
    """Each figure of one model: its one-sided 95 % lower bound, and what that is made of."""
    number = clusters.numbered(patients)
    found = {}
    for name in NAMES:
        _, sums = _figure(name, truth, number, side)
        found[name] = float(paired.bounds(sums)[0]), sums
    return found


def _figure(name: str, truth: Flags, number: Numbers, *sides: Side) -> tuple[list[float], Sums]:
    """Its value for each of one or two models, and the sums of it, or of their difference."""
    if name == "auroc":
        placed = [paired.placements(side.score, truth) for side in sides]
        values = [float(sick.mean()) for sick, _ in placed]
        sick, well = (
            placed[0][n] - placed[1][n] if len(placed) == 2 else placed[0][n] for n in (0, 1)
        )
        sums = paired.of_placements(
            sick, well, number[truth], number[~truth], difference=len(placed) == 2
        )
        return values, sums
    of = truth if name == "sensitivity" else ~truth
    right = [((side.score >= side.threshold) == truth)[of].astype(np.float64) for side in sides]
    values = [float(one.mean()) for one in right]
    owner = np.unique(number[of], return_inverse=True)[1].reshape(-1)
    films = np.bincount(owner).astype(np.float64)
    theirs = [np.bincount(owner, weights=one).astype(np.float64) for one in right]
    if len(theirs) == 2:
        return values, paired.of_differences(theirs[0] - theirs[1], films)
    return values, paired.of_share(theirs[0], films)


def lack(truth: Flags, patients: NDArray[np.str_]) -> str:
    """What is too little to judge by; empty where it is enough."""
    for name, which in (("positive", truth), ("negative", ~truth)):
        n, theirs = int(which.sum()), len(np.unique(patients[which]))
        if n < LEAST:
            films = "film is" if n == 1 else "films are"
            return f"{n} {name} frozen {films} left, where {LEAST} are the least"
        if theirs < LEAST_PATIENTS:
            of = "1 patient" if theirs == 1 else f"{theirs} patients"
            return (
                f"the {n:,} {name} frozen films are of {of}, where {LEAST_PATIENTS} are the least"
            )
    return ""
