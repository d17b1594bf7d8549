"""How fast engines compute, each alone or two in turns. In the thread that they belong to."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import numpy as np

from worker.engine.base import Engine, Pending

#: Seconds that each of two is measured for in each round.
SLICE_S = 0.25

#: Share of the probability that an interval leaves out at each end: 95 % are within.
TAIL = 0.025


def compute(
    engine: Engine,
    batches: int,
    *,
    before: Callable[[], None] = lambda: None,
    after: Callable[[], None] = lambda: None,
) -> float:
    """Compute so many batches, in the thread that the engine belongs to; the seconds it took.

    What the pixels are makes no difference. `before` is called ahead of each batch, `after` when
    its answer is there.
    """
    card, chance = engine.card, np.random.default_rng(0)
    shape = (engine.batch, 1, card.size, card.size)
    # One block for each batch that may be pending, and one that is being handed over.
    blocks = [chance.integers(0, 256, shape, np.uint8) for _ in range(engine.depth + 1)]
    pending: deque[Pending] = deque()
    started = time.perf_counter()
    for number in range(batches):
        if len(pending) == engine.depth:
            pending.popleft().result()
            after()
        before()
        pending.append(engine.submit(blocks[number % len(blocks)]))
    while pending:
        pending.popleft().result()
        after()
    return time.perf_counter() - started


def rate(engine: Engine, seconds: float) -> float:
    """Films per second that the engine computes, measured for about so many seconds."""
    compute(engine, engine.depth)
    batches = _batches(engine, seconds)
    return batches * engine.batch / compute(engine, batches)


#: An engine that is there as long as one is within it.
Lent = Callable[[], AbstractContextManager[Engine]]


def in_turns(
    first: Lent, second: Lent, rounds: int, pause: Callable[[], bool] = lambda: False
) -> tuple[list[float], list[float]] | None:
    """Films per second of two engines in each round; None where `pause` asked for an end.

    Who goes first takes turns, so that a machine that gets slower or faster favours neither.
    """
    pair = (first, second)
    batches: list[int] = []
    for lent in pair:
        if pause():
            return None
        with lent() as engine:
            compute(engine, engine.depth)
            batches.append(_batches(engine, SLICE_S))
    found: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for place in (0, 1) if number % 2 == 0 else (1, 0):
            if pause():
                return None
            with pair[place]() as engine:
                compute(engine, engine.depth)
                films = batches[place] * engine.batch
                found[place].append(films / compute(engine, batches[place]))
    return found


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The median of independent measurements and its 95 % confidence interval.

    The ends are order statistics, so that nothing is assumed of how they are spread (W. J. Conover,
    Practical Nonparametric Statistics, 3rd ed., section 3.2): of twelve the third
    from either end, which hold the median with a probability of 96.1 %. Fewer than six are too few
    for an interval, which is infinite then.
    """
    ordered, count = sorted(values), len(values)
    below, outside = 0.0, 0
    for number in range(count):
        below += math.comb(count, number) / 2**count
        if below > TAIL:
            break
        outside = number + 1
    middle = statistics.median(ordered)
    if not outside:
        return middle, -math.inf, math.inf
    return middle, ordered[outside - 1], ordered[-outside]


def _batches(engine: Engine, seconds: float) -> int:
    """How many batches take about so many seconds."""
    return max(engine.depth, round(engine.depth * seconds / compute(engine, engine.depth)))
