"""Samples: a few held-out films as they are and dressed, for a person to see what was measured.

Nothing is judged by them: they are drawn from a few films, and what is shown is said with each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.errors import Stopped
from trainer.shift import measure
from trainer.shift.measure import COUNTER, SPECTRUM, UNIT, Score
from trainer.shift.units import Films, Rows, Unit

#: Held-out films of each class of which those that are shown are chosen: enough that one of them
#: changes much where the model minds, and few enough to be scored in seconds.
TRIED = 48

#: Units whose dressing is shown, the clearest first.
UNITS = 4


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One film as it is and dressed."""

    #: Which of all films.
    film: int
    #: uint8 [S, S].
    plane: NDArray[np.uint8]
    dressed: NDArray[np.uint8]
    #: P(positive), 0 to 1.
    before: float
    after: float


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What a dressing makes of a few films."""

    #: The dressing's name in a report on the same films.
    name: str
    kind: str
    #: The unit's number, from 1; None for none.
    unit: int | None
    #: Films that were dressed, of which these are.
    tried: int
    #: The one whose P changes most, then the one in the middle by its change.
    pairs: tuple[Pair, ...]


def draw(
    films: Films,
    found: Sequence[Unit],
    score: Score,
    *,
    seed: int = 0,
    most: int = 2,
    stop: Callable[[], bool] = lambda: False,
) -> list[Sample]:
    """Up to `most` (1 or 2) held-out films under each dressing that a person can see.

    These are the first `UNITS` units of `found`, or the other class's spectra where there is none,
    and the full counter-shift. Films are drawn by `seed`. Raises Stopped.
    """
    chosen = _chosen(films, seed)
    if not chosen.size:
        return []
    samples = []
    for look in measure.looks(films, found, chosen, seed):
        for name, kind, dress in look.ways:
            if not _is_shown(name, kind, look.unit, found) or not look.films.size:
                continue
            if stop():
                raise Stopped("stopped while films were dressed")
            planes = films.take(chosen[look.films])
            dressed = dress(np.arange(look.films.size), 0)
            pairs = _pairs(chosen[look.films], planes, dressed, score, most)
            samples.append(
                Sample(name=name, kind=kind, unit=look.unit, tried=look.films.size, pairs=pairs)
            )
    return samples


def _chosen(films: Films, seed: int) -> Rows:
    """Some held-out films of each class, ascending."""
    rng = np.random.default_rng(seed)
    some = []
    for positive in (True, False):
        of_class = np.flatnonzero(films.held_out & (films.truth == positive))
        some.append(rng.permutation(of_class)[:TRIED])
    return np.sort(np.concatenate(some)).astype(np.int64)


def _is_shown(name: str, kind: str, unit: int | None, found: Sequence[Unit]) -> bool:
    if kind == UNIT:
        return unit is not None and unit <= UNITS
    if kind == SPECTRUM:
        return not found
    return kind == COUNTER and name.endswith("full")


def _pairs(
    films: Rows,
    planes: NDArray[np.uint8],
    dressed: NDArray[np.uint8],
    score: Score,
    most: int,
) -> tuple[Pair, ...]:
    before, after = score(planes), score(dressed)
    order = np.argsort(-np.abs(after - before), kind="stable")
    shown = dict.fromkeys([int(order[0]), int(order[len(order) // 2])])
    return tuple(
        Pair(
            film=int(films[n]),
            plane=planes[n],
            dressed=dressed[n],
            before=float(before[n]),
            after=float(after[n]),
        )
        for n in list(shown)[:most]
    )
