"""Verdict: may a new model take the champion's place? Both are judged on the same films.

The new one need not be better, only not worse by more than a margin that was chosen beforehand: on
AUROC, and on sensitivity and specificity at each model's own operating point. Differences are
paired, film by film, and the patients are what is resampled: films of one patient say much the
same. NumPy only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.judging import metrics

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Numbers = NDArray[np.int64]

#: Draws of the bootstrap (Efron and Tibshirani 1993 ask for 1,000 or more for percentiles).
DRAWS = 2_000

#: Of the distribution of differences, what is cut off: a one-sided 95 % bound.
TAIL = 0.05

#: The same in standard errors of the normal distribution.
Z = 1.6448536269514722

#: Fewer films of a class than this say nothing about a model.
LEAST = 20

#: Nor do they where they are of fewer patients than this: resampling so few shows no spread.
LEAST_PATIENTS = 5

#: Draws that are computed at once: bounds memory at this × films × 8 bytes, a few times.
_AT_ONCE = 50

#: What is compared: name → in words.
NAMES = {"auroc": "AUROC", "sensitivity": "sensitivity", "specificity": "specificity"}


@dataclass(frozen=True, kw_only=True)
class Margins:
    """By how much a new model may be worse, each 0 to 1."""

    auroc: float = 0.01
    sensitivity: float = 0.02
    specificity: float = 0.05
    #: On AUROC, sensitivity and specificity within a slice.
    slice: float = 0.05


@dataclass(frozen=True, kw_only=True)
class Side:
    """What one model says of the films."""

    #: P(positive), `float64 [N]`, 0 to 1.
    score: Floats
    #: Its operating point.
    threshold: float


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
    #: The same without a name of the user's: slices are often called as their folders are.
    shareable: str
    #: JSON-able: `films`, `positives`, `patients`, `margins`, a difference per figure, `delong`
    #: (bounds of the AUROC's difference as if each film were a patient's only one), `slices`.
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
    of the films, each `bool [N]`. A slice is looked at where it has `LEAST` films of each class,
    and speaks against the candidate where that is worse there by more than its margin, and beyond
    chance.
    """
    owners = np.asarray(patients, dtype=np.str_)
    positives = int(truth.sum())
    figures: dict[str, Any] = {
        "films": len(truth),
        "positives": positives,
        "patients": len(np.unique(owners)),
        "margins": {name: getattr(margins, name) for name in (*NAMES, "slice")},
    }

    def verdict(accepted: bool, text: str, shareable: str = "") -> Verdict:
        return Verdict(accepted=accepted, text=text, shareable=shareable or text, figures=figures)

    if missing := lack(truth, owners):
        return verdict(
            False, f"{missing}: more frozen films are needed to compare the new model by"
        )
    for side, name in ((candidate, "new model"), (champion, "champion")):
        if n := int(np.sum(~np.isfinite(side.score))):
            return verdict(False, f"the {name} gives no number for {n:,} of {len(truth):,} films")
        if not math.isfinite(side.threshold):
            return verdict(False, f"the {name} has no operating point")
    on = f"on {len(truth):,} frozen films of {figures['patients']:,} patients"
    found = differences(truth, patients, candidate, champion, seed=seed)
    low, high = delong(truth, candidate.score, champion.score)
    figures |= {name: _plain(one) for name, one in found.items()}
    figures |= {"delong": {"low": low, "high": high}, "slices": {}}
    against = [
        (clause := _clause(name, one, getattr(margins, name)), clause)
        for name, one in found.items()
        if not one.low > -getattr(margins, name)
    ]
    for part, inside in (slices or {}).items():
        judged = not lack(truth[inside], owners[inside])
        figures["slices"][part] = {"films": int(inside.sum()), "judged": judged}
        if not judged:
            continue
        within = differences(
            truth[inside],
            owners[inside].tolist(),
            Side(score=candidate.score[inside], threshold=candidate.threshold),
            Side(score=champion.score[inside], threshold=champion.threshold),
            seed=seed,
        )
        figures["slices"][part] |= {name: _plain(one) for name, one in within.items()}
        for name, one in within.items():
            if one.value < -margins.slice and one.high < 0:
                clause = f"({int(inside.sum()):,} films) {_clause(name, one, margins.slice)}"
                against.append((f"in {part} {clause}", f"in a part of the films {clause}"))
    if against:
        text, shareable = ("; ".join(clauses) for clauses in zip(*against, strict=True))
        return verdict(False, f"{on} {text}", f"{on} {shareable}")
    better = ", ".join(
        f"{NAMES[name]} is {_number(one.candidate)}, the champion's {_number(one.champion)} "
        f"(95 % at worst {_number(one.low, sign=True)})"
        for name, one in found.items()
    )
    return verdict(True, f"{on} the new model's {better}: not worse than it may be")


def differences(
    truth: Flags, patients: Sequence[str], candidate: Side, champion: Side, *, seed: int = 0
) -> dict[str, Difference]:
    """AUROC, sensitivity and specificity of both, and their paired differences with bounds.

    The bounds are percentiles of a bootstrap over patients; AUROC's ties count half. Both classes
    must be there. Where no film tells the two models apart they are 0: then the bootstrap sees no
    spread, however few the films are.
    """
    number = np.unique(np.asarray(patients, dtype=np.str_), return_inverse=True)[1].reshape(-1)
    weights = _draws(truth, number, seed)
    sides = (candidate, champion)
    found = {}
    for name in NAMES:
        if name == "auroc":
            values = [metrics.auroc(side.score, truth) for side in sides]
            drawn = [_aurocs(side.score, truth, weights, number) for side in sides]
        else:
            of = truth if name == "sensitivity" else ~truth
            right = [((side.score >= side.threshold) == truth)[of] for side in sides]
            values = [float(one.mean()) for one in right]
            drawn = [_shares(one, weights, number[of]) for one in right]
        low, high = np.quantile(drawn[0] - drawn[1], (TAIL, 1 - TAIL))
        found[name] = Difference(
            candidate=values[0], champion=values[1], low=float(low), high=float(high)
        )
    return found


def delong(truth: Flags, candidate: Floats, champion: Floats) -> tuple[float, float]:
    """One-sided 95 % bounds of the difference of two AUROCs, by DeLong, DeLong and Clarke-Pearson.

    Computed from mid-ranks, as Sun and Xu 2014 do. It takes each film for a patient of its own, so
    it is a second opinion only. Two films of each class are needed.
    """
    placed = [_placements(score, truth) for score in (candidate, champion)]
    sick, well = (placed[0][n] - placed[1][n] for n in (0, 1))
    middle = float(sick.mean())
    error = math.sqrt(float(sick.var(ddof=1)) / len(sick) + float(well.var(ddof=1)) / len(well))
    return middle - Z * error, middle + Z * error


def _placements(score: Floats, truth: Flags) -> tuple[Floats, Floats]:
    """Of each positive the share of negatives below it, of each negative that of positives above.

    Both have the AUROC as their mean.
    """
    sick, well = np.sort(score[truth]), np.sort(score[~truth])

    def below(values: Floats, among: Floats) -> Floats:
        left = np.searchsorted(among, values, "left")
        ends: Floats = (left + np.searchsorted(among, values, "right")) / 2
        return ends / len(among)

    return below(score[truth], well), 1 - below(score[~truth], sick)


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


def _draws(truth: Flags, number: Numbers, seed: int) -> Floats:
    """How often each patient is drawn, `float [DRAWS, patients]`.

    Drawn apart among those with positive films, with negative ones and with both, so that no draw
    is without a class.
    """
    rng = np.random.default_rng(seed)
    total = int(number.max()) + 1
    sick, well = np.zeros(total, np.bool_), np.zeros(total, np.bool_)
    sick[number[truth]] = True
    well[number[~truth]] = True
    weights = np.zeros((DRAWS, total))
    for stratum in (sick & ~well, well & ~sick, sick & well):
        if n := int(stratum.sum()):
            weights[:, stratum] = rng.multinomial(n, np.full(n, 1 / n), size=DRAWS)
    return weights


def _shares(right: Flags, weights: Floats, number: Numbers) -> Floats:
    """In each draw, the share of these films that are right, `float [DRAWS]`."""
    # Summed up by patient first: the draws are of patients.
    total = weights.shape[1]
    good = np.bincount(number, weights=right, minlength=total)
    films = np.bincount(number, minlength=total).astype(np.float64)
    shares: Floats = (weights @ good) / (weights @ films)
    return shares


def _aurocs(score: Floats, truth: Flags, weights: Floats, number: Numbers) -> Floats:
    """The AUROC of each draw, `float [DRAWS]`: films count as often as their patient was drawn."""
    order = np.argsort(score, kind="stable")
    sick = truth[order]
    # Negatives below each positive are read off a running sum over the negatives in order: those
    # that are strictly below, and those that are not above. Their middle counts ties half.
    positives, negatives = score[order][sick], score[order][~sick]
    strictly = np.searchsorted(negatives, positives, "left")
    weakly = np.searchsorted(negatives, positives, "right")
    owner = number[order]
    found = np.empty(len(weights))
    for part in _parts(len(weights)):
        well = weights[part][:, owner[~sick]]  # shape (draws, negatives)
        ill = weights[part][:, owner[sick]]  # shape (draws, positives)
        running = np.zeros((len(well), well.shape[1] + 1))
        np.cumsum(well, axis=1, out=running[:, 1:])
        below = (running[:, strictly] + running[:, weakly]) / 2
        pairs = ill.sum(axis=1) * running[:, -1]
        found[part] = np.einsum("dp,dp->d", ill, below) / pairs
    return found


def _parts(n: int) -> Iterator[slice]:
    for start in range(0, n, _AT_ONCE):
        yield slice(start, start + _AT_ONCE)


def _clause(name: str, one: Difference, margin: float) -> str:
    """Why a difference speaks against the candidate."""
    if one.value < 0:
        change = f"lower by {_number(-one.value)}"
    elif one.value > 0:
        change = f"higher by {_number(one.value)}, which may be chance"
    else:
        change = "the same, which may be chance"
    return (
        f"the new model's {NAMES[name]} is {_number(one.candidate)}, the champion's "
        f"{_number(one.champion)}: {change} (95 % at worst {_number(one.low, sign=True)}), where "
        f"{_number(-margin, sign=True)} may be"
    )


def _number(value: float, *, sign: bool = False) -> str:
    """Three digits, or as many as it takes for a person to see that it is not 0."""
    digits = 3 if value == 0 or abs(value) >= 0.0005 else 6
    return f"{value:{'+' if sign and round(value, digits) else ''}.{digits}f}"


def _plain(one: Difference) -> dict[str, float]:
    """JSON-able."""
    return {
        "candidate": one.candidate,
        "champion": one.champion,
        "difference": one.value,
        "low": one.low,
        "high": one.high,
    }
