"""Defence: what keeps a network from learning how films were acquired in place of the disease.

Groups of training films that look acquired alike and are of one class are found by their pixels.
Their films are disguised more than others (`trainer.network.disguise`) and count less where their
group has hardly any film of another class: what a film teaches of the disease it teaches beside
films of the other class that look like it (overlap weights: Li, Morgan and Zaslavsky, JASA 2018).
The best epoch, the temperature and the threshold are chosen by held-out films as they are and
dressed as these groups look.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.acquisition.marks import SIDE
from trainer.checking import fingerprints
from trainer.checking.fingerprints import Found
from trainer.data.cache import Pixels
from trainer.data.dataset import TRAIN, VAL, Dataset
from trainer.network.disguise import Box
from trainer.shift import measure, units
from trainer.shift.units import Films, Unit

#: A film counts at least so much, however one-sided its group is.
LEAST = 0.25

#: Films that are dressed to judge an epoch, at most, and their bytes.
DRESSED, DRESSED_BYTES = 2000, 256 << 20


#: Places of held-out films among all of them, and these dressed, uint8 [n, S, S].
Dressing = tuple[NDArray[np.int64], NDArray[np.uint8]]


@dataclass(frozen=True, kw_only=True)
class Defence:
    """Of N training films, in their order."""

    #: What each counts in the loss, float32 [N].
    counts: Tensor
    #: Which are of a group of one class, bool [N].
    known: Tensor
    #: What the marks of such films cover, in pixels.
    boxes: Sequence[tuple[Box, ...]]
    #: What epochs are judged by. It takes seconds where it is asked for first, and raises Stopped.
    dressed: Callable[[], Sequence[Dressing]] = tuple
    #: Groups of one class; None where they were not looked for.
    found: Found | None = None
    #: For a person: which films were not looked at.
    note: str = ""


def none(films: int) -> Defence:
    """Where nothing is to be defended against."""
    return Defence(
        counts=torch.ones(films), known=torch.zeros(films, dtype=torch.bool), boxes=[()] * films
    )


def prepare(
    data: Dataset, pixels: Pixels, seed: int, stop: Callable[[], bool] = lambda: False
) -> Defence:
    """Look for groups of one class among the training films. Raises Stopped."""
    found = fingerprints.find(data, pixels, stop)
    films, kept = at_hand(data, pixels, found, seed)
    those = units.find(films, found.searched.looks, named=found.searched.named, seed=seed)

    @functools.cache
    def dressed() -> Sequence[Dressing]:
        if len(np.unique(films.truth[films.held_out])) < 2:
            return ()
        first = len(films) - len(kept)
        most = min(DRESSED, DRESSED_BYTES // pixels.size**2)
        made = measure.once(films, those, seed=seed, most=most, stop=stop)
        return [(kept[places - first], planes) for places, planes in made]

    counts, known, boxes = _of(data, pixels, films, those)
    contents, seen = len({film.sha256 for film in data.of(TRAIN)}), len(found.films)
    note = (
        f"groups of one class are looked for in {seen:,} of {contents:,} training films; what the "
        "others carry is not taken away"
    )
    return Defence(
        counts=torch.tensor(counts),
        known=torch.tensor(known),
        boxes=boxes,
        dressed=dressed,
        found=found,
        note=note if seen < contents else "",
    )


def at_hand(
    data: Dataset, pixels: Pixels, found: Found, seed: int
) -> tuple[Films, NDArray[np.int64]]:
    """The training films in which groups were looked for, then held-out ones that are dressed as
    these; and the places of the latter among all that are held out."""
    every = data.of(VAL)
    kept = units.held_out([film.patient for film in every], seed)
    films = (*found.films, *(every[place] for place in kept))
    made = Films(
        planes=pixels.planes,
        rows=pixels.rows(films),
        labels=np.array([film.label for film in films], dtype=np.int64),
        patients=[film.patient for film in films],
        held_out=np.arange(len(films)) >= len(found.films),
        names=data.labels,
        positive=data.positive_index,
        patients_are=data.patients,
        drawn_of=len(every),
    )
    return made, kept


def _of(
    data: Dataset, pixels: Pixels, films: Films, found: Sequence[Unit]
) -> tuple[NDArray[np.float32], NDArray[np.bool_], list[tuple[Box, ...]]]:
    """What each training film counts, whether it is of a group, and what its marks cover."""
    train = data.of(TRAIN)
    places_of: dict[int, list[int]] = {}
    for place, row in enumerate(pixels.rows(train).tolist()):
        places_of.setdefault(row, []).append(place)  # the same film may lie there twice
    labels = np.array([film.label for film in train])
    base = np.bincount(labels, minlength=len(data.labels)) / max(1, len(labels))
    counts = np.ones(len(train), np.float32)
    known = np.zeros(len(train), np.bool_)
    boxes: list[tuple[Box, ...]] = [()] * len(train)
    for unit in found:
        of_class = np.bincount(films.labels[unit.films], minlength=len(data.labels))
        # The chance of another class in this group, beside that among all films.
        others = (of_class.sum() - of_class + 1) / (of_class.sum() + 2)
        share = np.clip(others / np.maximum(1e-9, 1 - base), LEAST, 1)
        for film, marks in zip(unit.films, unit.burned, strict=True):
            its = _scaled(marks, pixels.size)
            for place in places_of.get(int(films.rows[film]), ()):
                known[place] = True
                counts[place] = min(counts[place], share[labels[place]])
                boxes[place] = (*boxes[place], *its)
    for label in np.unique(labels):
        mine = labels == label
        counts[mine] *= mine.sum() / counts[mine].sum()  # a class counts as before
    return counts, known, boxes


def _scaled(boxes: NDArray[np.int16], side: int) -> list[Box]:
    scaled = boxes.astype(np.float64) * side / SIDE
    low, size = np.floor(scaled[:, :2]).astype(int), np.ceil(scaled[:, 2:]).astype(int)
    return [
        (int(top), int(left), int(high), int(wide))
        for (top, left), (high, wide) in zip(low, size, strict=True)
    ]
