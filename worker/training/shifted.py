"""Shifted: the shift report of a model file on labelled films, as an evaluation reads them.

No more films are kept than `KEPT_BYTES` hold. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.card import Card
from trainer.data import whose
from trainer.data.labelled import Entry
from trainer.shift import measure, report, units
from worker.engine import Engine
from worker.training import precisions

#: Pixels that are kept of films: 5,000 films at 224 px.
KEPT_BYTES = 256 << 20


class Kept:
    """Films of an evaluation that are kept for the report."""

    def __init__(self, entries: Sequence[Entry], size: int, seed: int = 0) -> None:
        """For films of `size` pixels; of more than can be kept, patients are drawn by `seed`."""
        owned = whose.of(entries)
        most = max(1, KEPT_BYTES // size**2)
        kept = units.drawn([one.patient for one in owned], most, seed)
        self._seed, self._drawn_of = seed, len(entries)
        self._entries = [entries[number] for number in kept]
        self._owned = [owned[number] for number in kept]
        self._row = {int(number): row for row, number in enumerate(kept)}
        self._planes = np.zeros((len(kept), size, size), np.uint8)
        self._there = np.zeros(len(kept), np.bool_)

    def add(self, number: int, plane: NDArray[np.uint8]) -> None:
        """Keep the pixels uint8 [S, S] of the film of this number, if it is one to be kept."""
        if (row := self._row.get(number)) is not None:
            self._planes[row] = plane
            self._there[row] = True

    def films(self, card: Card) -> units.Films:
        """The films that are kept, of which a model of this card learned none."""
        rows = np.flatnonzero(self._there)
        label = {name: number for number, name in enumerate(card.labels)}
        return units.Films(
            planes=self._planes,
            rows=rows,
            labels=np.array([label[self._entries[row].name] for row in rows], dtype=np.int64),
            patients=[self._owned[row].patient for row in rows],
            held_out=np.ones(rows.size, np.bool_),
            names=card.labels,
            positive=card.positive_index,
            patients_are=whose.state([self._owned[row] for row in rows]),
            drawn_of=self._drawn_of if self._drawn_of > len(self._entries) else 0,
        )

    def report(self, engine: Engine) -> dict[str, Any] | None:
        """What is left of the engine's model where these films are dressed; None where they are not
        of both classes."""
        card = engine.card
        films = self.films(card)
        if len(np.unique(films.truth)) < 2:
            return None
        found = units.find(films, units.look(films), seed=self._seed)
        scored = measure.measure(films, found, scorer(engine), seed=self._seed)
        if scored is None:
            return None
        return report.of(films, found, scored, threshold=card.threshold, seed=self._seed)


def scorer(engine: Engine) -> measure.Score:
    """P(positive) by an engine."""
    positive = engine.card.positive_index

    def score(planes: NDArray[np.uint8]) -> NDArray[np.float64]:
        scores, _ = precisions.scores(engine, planes[:, None])
        return scores[:, positive].astype(np.float64)

    return score
