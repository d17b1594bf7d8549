"""Search: groups of one class among films as a network gets them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.acquisition import groups, looks, measures, one_sided
from trainer.acquisition.looks import Looks
from trainer.acquisition.one_sided import OneSided
from trainer.errors import Stopped

#: Films whose looks are taken together, and threads that take them.
PART, THREADS = 16, 2


@dataclass(frozen=True)
class Searched:
    """What was found in N films."""

    looks: Looks
    #: The clearest first; their films are places in these N.
    named: Sequence[OneSided]


def search(
    planes: NDArray[np.uint8],
    rows: NDArray[np.int64],
    labels: NDArray[np.int64],
    patients: Sequence[str],
    classes: int,
    stop: Callable[[], bool] = lambda: False,
) -> Searched:
    """Groups of one class among the films at `rows` int64 [N] of uint8 [planes, S, S].

    `labels` int64 [N] and `patients` are of these films. Raises Stopped.
    """
    found = look(planes, rows, stop)
    return Searched(found, one_sided.find(groups.find(found), labels, patients, classes))


def look(
    planes: NDArray[np.uint8],
    rows: NDArray[np.int64],
    stop: Callable[[], bool] = lambda: False,
) -> Looks:
    """Looks of the films at `rows` of uint8 [planes, S, S], which may be memory-mapped. Raises
    Stopped."""

    def part(start: int) -> Looks:
        if stop():
            raise Stopped("stopped while films were looked at")
        return _looks(np.asarray(planes[rows[start : start + PART]]))

    with ThreadPoolExecutor(THREADS, thread_name_prefix="look") as pool:
        return looks.joined([*pool.map(part, range(0, len(rows), PART))])


def _looks(films: NDArray[np.uint8]) -> Looks:
    side = films.shape[1]
    return looks.of(
        looks.sides(films),
        measures.tone(films).astype(np.float16),
        np.full((len(films), 2), side, np.int32),
        small=side < looks.SMALL_FILMS,
    )
