"""Things that are joined pair by pair end up in the sets that a plain search finds."""

from __future__ import annotations

import random

from trainer.data.disjoint import DisjointSets


def connected(things: range, pairs: list[tuple[int, int]], start: int) -> set[int]:
    """All that can be reached from one of them."""
    found, edge = {start}, [start]
    while edge:
        at = edge.pop()
        near = {b for a, b in pairs if a == at} | {a for a, b in pairs if b == at}
        edge += near - found
        found |= near
    return found


def test_the_smallest_stands_for_all_that_belong_together_in_whatever_order_they_are_joined() -> (
    None
):
    rng = random.Random(5)
    for count in (1, 2, 10, 60):
        things = range(count)
        for _ in range(20):
            pairs = [
                (rng.randrange(count), rng.randrange(count))
                for _ in range(rng.randrange(count + 1))
            ]
            sets: DisjointSets[int] = DisjointSets()
            for one, other in pairs:
                sets.join(one, other)
            assert [sets.find(n) for n in things] == [
                min(connected(things, pairs, n)) for n in things
            ]


def test_ten_thousand_in_a_row_are_one_set() -> None:
    sets: DisjointSets[int] = DisjointSets()
    for n in reversed(range(10_000)):
        sets.join(n, n + 1)
    assert {sets.find(n) for n in range(10_001)} == {0}
