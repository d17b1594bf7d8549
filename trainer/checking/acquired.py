"""Groups of labelled films that look acquired alike and are (nearly) of one class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainer.acquisition import groups, looks, one_sided
from trainer.acquisition.groups import Group
from trainer.acquisition.looks import Looks
from trainer.acquisition.marks import SIDE
from trainer.data.dataset import Dataset
from trainer.data.gathering import Gathered
from trainer.data.labelled import Film


@dataclass(frozen=True, kw_only=True)
class Alike:
    """A group that is nearly of one class."""

    #: `mark`, `frame`, `tone`, `sharpness` or `size`.
    look: str
    #: What its films have, in words.
    what: str
    #: The class that it is nearly all of.
    label: str
    #: Its films by class, sorted; below the root.
    films: dict[str, tuple[str, ...]]
    patients: int
    #: Chance that any such group arises where looks and classes have nothing to do with each other.
    chance: float
    #: Where films have a mark, by path: top, left, height and width as shares of the side.
    boxes: dict[str, tuple[float, float, float, float]]


def find(
    gathered: Gathered | Dataset, contents: Sequence[str], some: Sequence[Looks]
) -> tuple[Alike, ...]:
    """Groups that are named, the clearest first.

    `some` are looks of the films with these contents, in this order. A content counts once.
    """
    if not contents:
        return ()
    first = {film.sha256: film for film in reversed(gathered.films)}
    films = [first[content] for content in contents]
    found = one_sided.find(
        groups.find(looks.joined(some)),
        np.array([film.label for film in films], dtype=np.int64),
        [film.patient for film in films],
        len(gathered.labels),
    )
    return tuple(
        Alike(
            look=one.group.look,
            what=one.group.what,
            label=gathered.labels[one.label],
            films={
                name: tuple(
                    sorted(films[row].path for row in one.group.films if films[row].label == label)
                )
                for label, name in enumerate(gathered.labels)
            },
            patients=one.patients,
            chance=one.chance,
            boxes=_boxes(one.group, films),
        )
        for one in found
    )


def _boxes(group: Group, films: Sequence[Film]) -> dict[str, tuple[float, float, float, float]]:
    if group.boxes is None:
        return {}
    shares = group.boxes / SIDE
    return {
        films[row].path: (float(top), float(left), float(height), float(width))
        for row, (top, left, height, width) in zip(group.films, shares, strict=True)
    }
