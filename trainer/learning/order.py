"""Order: which training films an epoch sees, and when; it follows from (seed, epoch) alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: How classes of unequal size are made to count the same. WEIGHTS: each film's loss is weighted by
#: how rare its class is. SAMPLING: each batch has as many films of each class, those of a small
#: class coming several times in an epoch and some of a large one not at all. NONE: as they are.
WEIGHTS, SAMPLING, NONE = "weights", "sampling", "none"
BALANCES = (WEIGHTS, SAMPLING, NONE)


def order(
    labels: NDArray[np.int64], *, batch: int, balance: str, seed: int, epoch: int
) -> NDArray[np.int64]:
    """Indices into `labels`, whole batches only: what fills no batch waits for another epoch."""
    if balance not in BALANCES:
        raise ValueError(f"balance is {balance!r}; give {', '.join(BALANCES)}")
    rng = np.random.default_rng((seed, epoch))
    places = len(labels) // batch * batch
    if balance != SAMPLING:
        return rng.permutation(len(labels))[:places]
    picked = np.empty(places, dtype=np.int64)
    classes = np.unique(labels)
    for number, label in enumerate(classes):
        mine = np.arange(number, places, len(classes))  # every C-th place: equal in each batch
        films = np.flatnonzero(labels == label)
        rounds = -(-len(mine) // len(films))
        picked[mine] = np.concatenate([rng.permutation(films) for _ in range(rounds)])[: len(mine)]
    return picked
