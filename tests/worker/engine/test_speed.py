"""How fast two engines are beside each other: in turns, and with an interval that holds."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from worker.engine import Engine, open_engine, speed
from worker.engine.base import Pending


class Slowed:
    """A real engine that takes longer for every batch, and notes when it was asked."""

    def __init__(self, inner: Engine, delay_s: float, asked: list[str], name: str) -> None:
        self._inner, self._delay_s, self._asked, self._name = inner, delay_s, asked, name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def submit(self, pixels: NDArray[np.uint8], films: int | None = None) -> Pending:
        if self._asked[-1:] != [self._name]:
            self._asked.append(self._name)
        time.sleep(self._delay_s)
        return self._inner.submit(pixels, films)


@pytest.fixture(scope="module")
def engine(model_file: Path) -> Iterator[Engine]:
    opened = open_engine(model_file, batch=4, threads=1)
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "SLICE_S", 0.03)


def test_of_two_engines_in_turns_the_slower_one_is_found_and_who_goes_first_takes_turns(
    engine: Engine,
) -> None:
    asked: list[str] = []
    fast: Any = Slowed(engine, 0.0, asked, "fast")
    slow: Any = Slowed(engine, 0.1, asked, "slow")
    found = speed.in_turns(lambda: nullcontext(fast), lambda: nullcontext(slow), 6)
    assert found is not None
    assert [len(rates) for rates in found] == [6, 6]
    _, low, _ = speed.interval([a / b for a, b in zip(*found, strict=True)])
    assert low > 1.1
    # Each is warm and its batches are counted before. Then every round begins with the one that the
    # last one ended with: two entries of the first round, and one of each that follows.
    assert asked == ["fast", "slow"] * 4 + ["fast"]


def test_measuring_ends_where_something_else_is_to_be_done(engine: Engine) -> None:
    left = iter([False, False, False, True])
    both = (lambda: nullcontext(engine), lambda: nullcontext(engine))
    assert speed.in_turns(*both, 6, lambda: next(left)) is None


@pytest.mark.parametrize(
    ("count", "place"), [(6, 0), (8, 0), (9, 1), (10, 1), (12, 2), (15, 3), (20, 5), (25, 7)]
)
def test_the_interval_s_ends_are_the_order_statistics_that_tables_give(
    count: int, place: int
) -> None:
    """Of sample medians at 95 %: the usual tables, as in Conover's table A3."""
    values = [float(n) for n in range(count)]
    middle, low, high = speed.interval(values[::-1])
    assert (low, high) == (place, count - 1 - place)
    assert middle == (count - 1) / 2


def test_fewer_than_six_measurements_have_no_interval() -> None:
    assert speed.interval([1.0, 3.0, 2.0, 4.0, 5.0]) == (3.0, -math.inf, math.inf)


def test_the_interval_of_twelve_ratios_holds_their_median_as_often_as_it_says() -> None:
    """Whatever the noise is: here one in ten of the measurements is disturbed by much."""
    chance = np.random.default_rng(3)
    runs, held, above = 4_000, 0, 0
    for _ in range(runs):
        ratios = 1.1 * np.exp(chance.normal(0, 0.05, 12))
        disturbed = chance.random(12) < 0.1
        ratios[disturbed] *= chance.choice([0.5, 2.0], disturbed.sum())
        _, low, high = speed.interval(ratios.tolist())
        held += low <= 1.1 <= high
        above += low > 1.1
    assert held / runs == pytest.approx(0.961, abs=0.012)
    assert above / runs == pytest.approx(0.019, abs=0.008), "at the margin nothing is to change"
