"""Which harm strikes when: a function of a seed, and of which kinds there are here."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: What is over as soon as it is done.
INSTANT = (
    "worker killed", "decoder killed", "beat killed", "stack killed", "broker killed",
    "broker flushed",
)  # fmt: skip

#: What lasts, and for how long, in seconds, at least and at most. Work goes on, or tries to,
#: while other harms strike; of these there is one at a time.
LASTING: Mapping[str, tuple[float, float]] = {
    "worker stopped": (6.0, 9.0),
    "database away": (2.0, 7.0),
    "database locked": (2.0, 7.0),
    "source unmounted": (2.0, 8.0),
    "source hung": (2.0, 12.0),
    "disk full": (2.0, 6.0),
    "clock stepped": (2.0, 7.0),
}

KINDS = (*INSTANT, *LASTING)

#: Seconds from one harm to the next, at least and at most.
PAUSE_S = 0.5, 3.5


@dataclass(frozen=True, kw_only=True)
class Strike:
    """One harm."""

    kind: str
    #: Seconds after the one before.
    after_s: float
    #: For how long, in seconds; 0 where it is over at once.
    lasts_s: float
    #: 0 to 1: they choose the victim, and how it is harmed.
    luck: float
    manner: float


def sequence(seed: int, kinds: Sequence[str], rounds: int) -> list[Strike]:
    """The harms of a run: in each round each of these kinds once, in an order of its own."""
    rng = random.Random(seed)
    strikes = []
    for _ in range(rounds):
        order = sorted(kinds)
        rng.shuffle(order)
        strikes += [
            Strike(
                kind=kind,
                after_s=rng.uniform(*PAUSE_S),
                lasts_s=rng.uniform(*LASTING.get(kind, (0.0, 0.0))),
                luck=rng.random(),
                manner=rng.random(),
            )
            for kind in order
        ]
    return strikes
