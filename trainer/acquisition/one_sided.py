"""One-sided groups: films that look acquired alike and are (nearly) all of one class.

A network learns the look in the place of the disease, and calls every film that looks so by that
class (Zech et al., PLOS Medicine 2018; DeGrave et al., Nature Machine Intelligence 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, lgamma

import numpy as np
from numpy.typing import NDArray

from trainer.acquisition.groups import Group
from trainer.acquisition.marks import SIDE

#: A group is nearly of one class from this share of its films on, where the other classes have at
#: most OTHERS times the share that they have among all films.
NEARLY, OTHERS = 0.93, 1 / 3

#: Patients in a named group, at least.
PATIENTS = 20

#: Chance that groups as one-sided as the named ones arise where looks and classes have nothing to
#: do with one another, for all groups together.
CHANCE = 0.01

#: No more groups are named; the clearest ones.
MOST = 8

#: A group is not named anew where this share of its films is in ones that are named. Marks whose
#: middles are further apart than this share of the side are never the same.
KNOWN, NEAR = 0.5, 1 / 7

#: Of two groups the exact one is named where it has at least this share of the other's number, and
#: this share of it is in the other.
SAME = 0.75


@dataclass(frozen=True)
class OneSided:
    """A group that is named."""

    group: Group
    #: Index of the class that it is nearly all of.
    label: int
    #: int64 [C]: its films by class.
    counts: NDArray[np.int64]
    patients: int
    #: Chance of this in all groups together, at most.
    chance: float


def find(
    groups: Sequence[Group],
    labels: NDArray[np.int64],
    patients: Sequence[str],
    classes: int,
    most: int = MOST,
) -> list[OneSided]:
    """Groups that are nearly of one class beyond chance, the clearest first.

    `labels` int64 [N] and `patients` are of all films. A patient counts once, as of the class of
    most of the films: labels are exchanged between patients, not films.
    """
    _, who = np.unique(np.asarray(patients), return_inverse=True)
    of_patient = _majority(who, labels, classes)
    totals = np.bincount(of_patient, minlength=classes)
    shares = np.bincount(labels, minlength=classes) / max(1, len(labels))
    found: list[OneSided] = []
    tests = max(1, len(groups)) * classes
    for group in groups:
        counts = np.bincount(labels[group.films], minlength=classes)
        label = int(counts.argmax())
        theirs = np.unique(who[group.films])
        part = counts[label] / len(group.films)
        if len(theirs) < PATIENTS or part < NEARLY or 1 - part > OTHERS * (1 - shares[label]):
            continue
        among = int((of_patient[theirs] == label).sum())
        chance = tests * upper_tail(among, int(totals.sum()), int(totals[label]), len(theirs))
        if chance <= CHANCE:
            found.append(OneSided(group, label, counts, len(theirs), chance))
    named: list[OneSided] = []
    ranked = sorted(found, key=lambda o: (o.chance, -len(o.group.films)))
    for one in (_sharpest(one, ranked) for one in ranked):
        known = np.zeros(len(labels), np.bool_)
        for other in named:
            if _may_be_one(one.group, other.group):
                known[other.group.films] = True
        if len(named) < most and known[one.group.films].mean() < KNOWN:
            named.append(one)
    return named


def _sharpest(one: OneSided, found: Sequence[OneSided]) -> OneSided:
    """Of a mark's groups the one that tells nearly the same films by the same pixels, if any."""
    films = one.group.films
    for other in found:
        its = other.group.films
        both = np.intersect1d(films, its, assume_unique=True).size
        marks = one.group.look == other.group.look == "mark"
        if marks and other.group.exact and min(both / its.size, its.size / films.size) >= SAME:
            return other
    return one


def _may_be_one(one: Group, other: Group) -> bool:
    """Whether groups may be of one look: marks whose middles are close, or about the same films."""
    if one.boxes is None or other.boxes is None:
        both = np.intersect1d(one.films, other.films, assume_unique=True).size
        return both >= KNOWN * max(one.films.size, other.films.size)
    a, b = (
        np.median(boxes[:, :2] + boxes[:, 2:] / 2, axis=0) for boxes in (one.boxes, other.boxes)
    )
    return bool((np.abs(a - b) <= NEAR * SIDE).all())


def _majority(who: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    counts = np.zeros((int(who.max(initial=-1)) + 1, classes), np.int64)
    np.add.at(counts, (who, labels), 1)
    return np.asarray(counts.argmax(axis=1), dtype=np.int64)


def upper_tail(hits: int, population: int, marked: int, drawn: int) -> float:
    """Chance of at least `hits` marked ones among `drawn` of a population: hypergeometric."""

    def choose(n: int, k: int) -> float:
        return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)

    whole = choose(population, drawn)
    first = max(hits, drawn - (population - marked))
    return min(
        1.0,
        sum(
            exp(choose(marked, k) + choose(population - marked, drawn - k) - whole)
            for k in range(first, min(drawn, marked) + 1)
        ),
    )
