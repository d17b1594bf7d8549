"""Parity: whether a network in another precision may decide in place of the fp32 one. NumPy only.

The gate is on what people act upon: the decision at the operating threshold, and the probability
beside it. Agreement of the likeliest class would prove nothing: the threshold may be anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.card import Card
from trainer.judging import paired

Scores = NDArray[np.floating[Any]]

#: Share of films on which the decision must be the same. One in 200 may fall on the other side, and
#: only those so near the operating point that DELTA moves them across ever do.
AGREEMENT = 0.995

#: |Δ probability| that 99 films in 100 must stay within: what shows as two hundredths on a screen.
DELTA = 0.02

#: Share of films that DELTA is for.
WITHIN = 0.99

#: Films at least. With none of 60 decided otherwise, 95 times of 100 fewer than 1 in 20 are on all
#: films: 0.95 to the power of 59 is 0.05. With fewer a precision would pass that nobody has looked
#: at.
LEAST = 60

#: Films that are enough: at 2,000 the agreement is known to about two films in a thousand.
FILMS = 2000


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How near a precision came to fp32, on films that the network was not trained on."""

    films: int
    #: Films with another decision.
    turned: int
    #: |Δ probability| that 99 in 100 films stay within.
    delta: float
    #: Largest |Δ probability|.
    largest: float

    @property
    def agreement(self) -> float:
        """Share of films with the same decision."""
        return 1 - self.turned / self.films if self.films else 0.0

    @property
    def agrees(self) -> bool:
        """Whether it is near enough on these films, however many they are."""
        return self.agreement >= AGREEMENT and self.delta <= DELTA

    @property
    def passed(self) -> bool:
        """Whether this may be used in place of fp32."""
        return self.films >= LEAST and self.agrees

    @property
    def unseen(self) -> float:
        """The share of all decisions that may differ without being seen on these films: its
        one-sided 95 % upper bound, 0 to 1, each film being of another patient."""
        if not self.films:
            return 1.0
        same = np.arange(self.films) >= self.turned
        sums = paired.of_share(same.astype(np.float64), np.ones(self.films))
        return 1 - float(paired.bounds(sums)[0])

    def __str__(self) -> str:
        few = "" if self.films >= LEAST else f"{self.films} films are too few ({LEAST} needed): "
        return (
            f"{few}{self.turned} of {self.films} decisions differ from fp32 ({self.agreement:.2%} "
            f"agree, {AGREEMENT:.1%} must; on all films up to {self.unseen:.1%} may differ, 95 %), "
            f"99 % of probabilities within {self.delta:.4f} ({DELTA} may)"
        )


def compare(reference: Scores, found: Scores, card: Card) -> Parity:
    """Compare scores `[N, C]` of the same films with the fp32 network's."""
    # In double, as the database and a person compare.
    before, after = (s[:, card.positive_index].astype(np.float64) for s in (reference, found))
    # Not a number is as far away as can be.
    delta = np.nan_to_num(np.abs(after - before), nan=1.0)
    turned = (before >= card.threshold) != (after >= card.threshold)
    return Parity(
        films=len(delta),
        turned=int(np.sum(turned | np.isnan(after))),
        # A film that was looked at, not a value between two.
        delta=float(np.quantile(delta, WITHIN, method="higher")) if len(delta) else 1.0,
        largest=float(delta.max(initial=0.0)),
    )
