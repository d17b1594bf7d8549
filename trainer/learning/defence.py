"""Defence: what keeps a network from learning how films were acquired in place of the disease.

Groups of training films that look acquired alike and are of one class are found by their pixels.
Their films are disguised more than others (`trainer.network.disguise`) and count less where their
group has hardly any film of another class: what a film teaches of the disease it teaches beside
films of the other class that look like it (overlap weights: Li, Morgan and Zaslavsky, JASA 2018).
The best epoch is chosen with held-out films dressed as these groups look.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.acquisition.marks import SIDE
from trainer.data.cache import Pixels
from trainer.data.dataset import TRAIN, VAL, Dataset
from trainer.network.disguise import Box
from trainer.shift import units
from trainer.shift.units import Films, Unit

#: A film counts at least so much, however one-sided its group is.
LEAST = 0.25

#: Training films in which units are looked for, and held-out films at hand: at most so many, which
#: bounds memory and takes some ten seconds of a processor.
LEARNED, HELD_OUT = 6000, 4000


@dataclass(frozen=True, kw_only=True)
class Defence:
    """Of N training films, in their order."""

    #: What each counts in the loss, float32 [N].
    counts: Tensor
    #: Which are of a group of one class, bool [N].
    known: Tensor
    #: What the marks of such films cover, in pixels.
    boxes: Sequence[tuple[Box, ...]]


def none(films: int) -> Defence:
    """Where nothing is to be defended against."""
    return Defence(
        counts=torch.ones(films), known=torch.zeros(films, dtype=torch.bool), boxes=[()] * films
    )


def of(
    data: Dataset,
    pixels: Pixels,
    films: Films,
    found: Sequence[Unit],
) -> Defence:
    """Against learning the units `found` among `films` at hand."""
    train = data.of(TRAIN)
    place = {int(row): n for n, row in enumerate(pixels.rows(train))}
    labels = np.array([film.label for film in train])
    base = np.bincount(labels, minlength=len(data.labels)) / max(1, len(labels))
    counts = np.ones(len(train), np.float32)
    known = np.zeros(len(train), np.bool_)
    boxes: list[tuple[Box, ...]] = [()] * len(train)
    for unit in found:
        learned = ~films.held_out[unit.films]
        places = np.array([place[int(films.rows[f])] for f in unit.films[learned]], dtype=np.int64)
        if not places.size:
            continue
        known[places] = True
        marks = [boxes_ for boxes_, there in zip(unit.burned, learned, strict=True) if there]
        for n, its in zip(places, marks, strict=True):
            boxes[n] = (*boxes[n], *_scaled(its, pixels.size))
        of_class = np.bincount(labels[places], minlength=len(data.labels))
        for label in np.unique(labels[places]):
            # The chance of another class in this group, beside that among all films.
            others = (of_class.sum() - of_class[label] + 1) / (of_class.sum() + 2)
            share = others / max(1e-9, 1 - base[label])
            mine = places[labels[places] == label]
            counts[mine] = np.minimum(counts[mine], np.clip(share, LEAST, 1))
    for label in np.unique(labels):
        mine = labels == label
        counts[mine] *= mine.sum() / counts[mine].sum()  # classes count as before
    return Defence(counts=torch.tensor(counts), known=torch.tensor(known), boxes=boxes)


def at_hand(data: Dataset, pixels: Pixels, seed: int) -> Films:
    """Films in which units are looked for, and those that are dressed as them."""
    trained_on, every = data.of(TRAIN), data.of(VAL)
    learned = sorted(trained_on, key=lambda film: film.sha256)[:LEARNED]
    held_out = [every[row] for row in units.drawn([f.patient for f in every], HELD_OUT, seed)]
    films = (*learned, *held_out)
    return Films(
        planes=pixels.planes,
        rows=pixels.rows(films),
        labels=np.array([film.label for film in films], dtype=np.int64),
        patients=[film.patient for film in films],
        held_out=np.arange(len(films)) >= len(learned),
        names=data.labels,
        positive=data.positive_index,
        patients_are=data.patients,
        drawn_of=len(every),
    )


def _scaled(boxes: NDArray[np.int16], side: int) -> list[Box]:
    scaled = boxes.astype(np.float64) * side / SIDE
    low, size = np.floor(scaled[:, :2]).astype(int), np.ceil(scaled[:, 2:]).astype(int)
    return [
        (int(top), int(left), int(high), int(wide))
        for (top, left), (high, wide) in zip(low, size, strict=True)
    ]
