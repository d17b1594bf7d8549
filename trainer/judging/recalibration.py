"""Recalibration: what a site's films must be to choose a model's operating point anew.

The network stays as it is. `trainer.judging.crossfit` makes the choice, by logits that are read off
a model's scores. NumPy only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Numbers = NDArray[np.int64]

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
