"""Patients: which of them are held out of training, so that none is on two sides.

Films of equal content are one patient's whatever they are called (whose a film is otherwise,
trainer.data.whose says). Patients are divided by a hash of their name, so that a folder that grows
keeps nearly all of them where they were.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
from collections.abc import Collection, Iterable, Sequence

from trainer.data.disjoint import DisjointSets
from trainer.data.labelled import Film
from trainer.errors import DatasetError


def joined(films: Sequence[Film]) -> list[Film]:
    """Films whose patients are one wherever two of them share a file's content."""
    return together(films, ((film.sha256, film.patient) for film in films))


def together(films: Sequence[Film], shared: Iterable[tuple[str, str]]) -> list[Film]:
    """Films whose patients are one wherever two of `shared` have the same key.

    `shared` is of (key, patient).
    """
    # The smallest name stays, so that the result does not depend on the order.
    sets: DisjointSets[str] = DisjointSets()
    first: dict[str, str] = {}
    for key, patient in shared:
        sets.join(patient, first.setdefault(key, patient))
    return [dataclasses.replace(film, patient=sets.find(film.patient)) for film in films]


def held_out(
    pool: Sequence[Film],
    labels: tuple[str, ...],
    fraction: float,
    seed: int,
    last: Collection[str] = (),
) -> set[str]:
    """Patients to be held out: of each class about `fraction` of the films in `pool`.

    Patients of `last` only where the others are too few.
    """
    films_of = collections.defaultdict(list)
    for film in pool:
        films_of[film.patient].append(film.label)
    #: Patients that training keeps, per class.
    staying = collections.Counter(label for found in films_of.values() for label in set(found))
    held_out: set[str] = set()
    for label in range(len(labels)):
        mine = [p for p, found in films_of.items() if label in found]
        mine.sort(key=lambda p: (p in last, _place(seed, p)))
        wanted = fraction * sum(films_of[p].count(label) for p in mine)
        have = sum(films_of[p].count(label) for p in mine if p in held_out)
        for patient in mine:
            if have > 0 and have >= wanted:
                break
            classes = set(films_of[patient])
            if patient not in held_out and all(staying[c] > 1 for c in classes):
                held_out.add(patient)
                staying.subtract(classes)
                have += films_of[patient].count(label)
        if have == 0:
            raise DatasetError(
                f"the patients of class {labels[label]} cannot be split, because training needs "
                "each of those that are left; add patients"
            )
    return held_out


def first(pool: Sequence[Film], labels: tuple[str, ...], fraction: float, seed: int) -> set[str]:
    """Patients who have of each class about `fraction` of the films in `pool`; 1 takes all."""
    taken: set[str] = set()
    counts = collections.Counter(film.label for film in pool)
    films_of = collections.defaultdict(list)
    for film in pool:
        films_of[film.patient].append(film.label)
    have: collections.Counter[int] = collections.Counter()
    for patient in sorted(films_of, key=lambda name: _place(seed, name)):
        if any(have[label] < fraction * counts[label] for label in films_of[patient]):
            taken.add(patient)
            have.update(films_of[patient])
    return taken


def _place(seed: int, patient: str) -> bytes:
    """Where a patient comes in the order of this seed; it does not depend on who else is there."""
    return hashlib.sha256(f"{seed}\0{patient}".encode("utf-8", "replace")).digest()
