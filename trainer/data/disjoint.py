"""Disjoint sets: which of many things belong together, where it is known pair by pair."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class DisjointSets(Generic[T]):
    """Sets of things that can be ordered, each thing in one; at first each is by itself."""

    def __init__(self) -> None:
        self._parent: dict[T, T] = {}

    def find(self, thing: T) -> T:
        """The smallest of the things that belong to `thing`, which stands for all of them."""
        parent = self._parent
        while (above := parent.get(thing, thing)) != thing:
            # Whoever asks next has half the way.
            parent[thing] = thing = parent.get(above, above)
        return thing

    def join(self, one: T, other: T) -> None:
        """These two, and all that belong to either, belong together."""
        here: Any = self.find(one)
        there: Any = self.find(other)
        if here != there:
            self._parent[max(here, there)] = min(here, there)
