"""The fingerprint that a model gets: which of its training films look alike and are of one class,
and by which signs any film that looks so is known again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from trainer.acquisition import fingerprint
from trainer.acquisition.fingerprint import Fingerprint, Part
from trainer.acquisition.looks import Looks
from trainer.card import Group
from trainer.checking import acquired, preview
from trainer.checking.acquired import Alike
from trainer.data.cache import Pixels
from trainer.data.dataset import Dataset
from trainer.data.decoding import Decoder
from trainer.data.labelled import TRAIN

#: Groups are looked for in so many training films, the first by their hash, which take some ten
#: seconds of a processor: as many as `groups` learns from.
FILMS = 6000


def learn(
    data: Dataset,
    pixels: Pixels,
    *,
    decoder: Decoder | None = None,
    stop: Callable[[], bool] = lambda: False,
    seed: int = 0,
) -> tuple[Fingerprint, tuple[Group, ...]]:
    """Signs of the groups of training films that are of one class, and what the card says of them.

    Films are decoded once more, at the size at which groups are looked for; signs are learned from
    `pixels`, as the network gets them. A group without a good sign is left out. Raises Stopped.
    """
    unique = {film.sha256: film for film in reversed(data.of(TRAIN))}
    films = [unique[content] for content in sorted(unique)[:FILMS]]
    looks: list[Looks] = []
    seen, _ = preview.at(data.root, films, decoder=decoder, stop=stop, looks=looks)
    data = dataclasses.replace(data, films=tuple(films))
    named = acquired.find(data, list(seen), looks)
    place = {film.path: row for row, film in enumerate(films)}
    parts = fingerprint.fit(
        pixels.planes,
        pixels.rows(films),
        [_rows(one, place) for one in named],
        [film.patient for film in films],
        seed,
    )
    kept = [(part, one) for part, one in zip(parts, named, strict=True) if part is not None]
    return Fingerprint(tuple(part for part, _ in kept)), tuple(_group(*both) for both in kept)


def _rows(one: Alike, place: dict[str, int]) -> fingerprint.Alike:
    paths = sorted((path for of in one.films.values() for path in of), key=place.__getitem__)
    return fingerprint.Alike(
        look=one.look,
        rows=np.array([place[path] for path in paths], dtype=np.int64),
        boxes=np.array([one.boxes[path] for path in paths]) if one.boxes else None,
    )


def _group(part: Part, one: Alike) -> Group:
    return Group(
        what=one.what,
        label=one.label,
        films={label: len(paths) for label, paths in one.films.items()},
        patients=one.patients,
        found=round(part.found, 3),
        false=round(part.false, 4),
    )
