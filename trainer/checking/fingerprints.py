"""The fingerprint that a model gets: which of its training films look alike and are of one class,
and by which signs any film that looks so is known again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from trainer.acquisition import fingerprint, search
from trainer.acquisition.fingerprint import Fingerprint, Part
from trainer.acquisition.marks import SIDE
from trainer.acquisition.one_sided import OneSided
from trainer.acquisition.search import Searched
from trainer.card import Group
from trainer.checking import kept
from trainer.data.cache import Pixels
from trainer.data.dataset import Dataset
from trainer.data.labelled import TRAIN, Film
from trainer.shift import units


@dataclass(frozen=True)
class Found:
    """Groups of one class among training films."""

    #: One of each content.
    films: tuple[Film, ...]
    #: Places are in `films`.
    searched: Searched


def find(data: Dataset, pixels: Pixels, stop: Callable[[], bool] = lambda: False) -> Found:
    """Groups of training films, by the pixels that the network gets: no film is read again, so that
    it need not be there any more. What is found is kept beside the pixels. Raises Stopped.
    """
    films, classes = tuple(units.contents(data.of(TRAIN))), len(data.labels)

    def look() -> Searched:
        return search.search(
            pixels.planes,
            pixels.rows(films),
            np.array([film.label for film in films], dtype=np.int64),
            [film.patient for film in films],
            classes,
            stop,
        )

    return Found(films, kept.searched(pixels, films, classes, look))


def learn(
    data: Dataset, pixels: Pixels, found: Found, seed: int = 0
) -> tuple[Fingerprint, tuple[Group, ...]]:
    """Signs of the groups, and what the card says of them. One without a good sign is left out."""
    named = found.searched.named
    parts = fingerprint.fit(
        pixels.planes,
        pixels.rows(found.films),
        [_alike(one) for one in named],
        [film.patient for film in found.films],
        seed,
    )
    kept = [(part, one) for part, one in zip(parts, named, strict=True) if part is not None]
    groups = tuple(_group(part, one, data.labels) for part, one in kept)
    return Fingerprint(tuple(part for part, _ in kept)), groups


def _alike(one: OneSided) -> fingerprint.Alike:
    boxes = one.group.boxes
    return fingerprint.Alike(
        look=one.group.look,
        rows=one.group.films,
        boxes=None if boxes is None else boxes / SIDE,
    )


def _group(part: Part, one: OneSided, labels: tuple[str, ...]) -> Group:
    return Group(
        what=one.group.what,
        label=labels[one.label],
        films=dict(zip(labels, one.counts.tolist(), strict=True)),
        patients=one.patients,
        found=round(part.found, 3),
        false=round(part.false, 4),
    )
