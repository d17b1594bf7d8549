"""Units: groups of one class whose looks the films of the others are dressed in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from trainer.acquisition import groups, one_sided, search
from trainer.acquisition.groups import Group
from trainer.acquisition.looks import Looks
from trainer.acquisition.one_sided import OneSided

Rows = NDArray[np.int64]

#: Training films in which units are looked for, and held-out films at hand: at most so many, which
#: bounds memory and takes some ten seconds of a processor.
LEARNED, HELD_OUT = 6000, 4000

#: Films of a unit that others are dressed as, at most; drawn at random.
DONORS = 200

#: A mark of a donor is the unit's where this share of its donors has one of the same kind whose
#: middle is within so many pixels of SIDE.
COMMON, NEAR = 0.15, 8


#: Marks that are compared with those of donors at a time.
BLOCK = 256


@dataclass(frozen=True, kw_only=True)
class Films:
    """N films at hand, those that are scored and those that others are dressed as."""

    #: uint8 [M, S, S], may be memory-mapped.
    planes: NDArray[np.uint8]
    #: int64 [N]: each film's plane.
    rows: Rows
    #: int64 [N], indices into `names`.
    labels: Rows
    #: Whose each is.
    patients: Sequence[str]
    #: bool [N]: whether the model did not learn it, so that it may be scored.
    held_out: NDArray[np.bool_]
    #: Names of the classes, and which is the disease.
    names: Sequence[str]
    positive: int
    #: Whether it is known whose the films are, as of `trainer.data.whose`.
    patients_are: str = ""
    #: Of how many held-out films those here were drawn; 0 where they are all.
    drawn_of: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def truth(self) -> NDArray[np.bool_]:
        """bool [N]: whether each is positive."""
        return np.asarray(self.labels == self.positive)

    @property
    def others(self) -> str:
        """What films are called that are not positive."""
        names = [name for label, name in enumerate(self.names) if label != self.positive]
        return names[0] if len(names) == 1 else f"not {self.names[self.positive]}"

    def take(self, films: Rows) -> NDArray[np.uint8]:
        """Pixels of some, uint8 [n, S, S]."""
        return np.asarray(self.planes[self.rows[films]])


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Films that look acquired alike and are nearly all of one class."""

    #: `mark`, `frame`, `tone`, `sharpness` or `size`, and how they are alike, as in "films with …".
    look: str
    what: str
    #: The class that they are nearly all of.
    label: int
    #: Which films, ascending, and of how many patients.
    films: Rows
    patients: int
    #: Films that others are dressed as.
    donors: Rows
    #: Of each of `films` the marks that it is known by, int16 [m, 4] in pixels of SIDE.
    burned: Sequence[NDArray[np.int16]]
    #: Of each donor the marks that are copied, int16 [m, 4], and int16 [donors, 8] the frames.
    boxes: Sequence[NDArray[np.int16]]
    frames: NDArray[np.int16]


class Known(Protocol):
    """A film of a manifest."""

    @property
    def sha256(self) -> str: ...
    @property
    def patient(self) -> str: ...


F = TypeVar("F", bound=Known)


def contents(learned: Sequence[F]) -> list[F]:
    """The learned films in which units are looked for: one of each content, LEARNED at most."""
    unique = {film.sha256: film for film in reversed(learned)}
    return [unique[content] for content in sorted(unique)[:LEARNED]]


def held_out(patients: Sequence[str], seed: int) -> Rows:
    """The held-out films that are dressed, ascending: HELD_OUT at most, by `seed`."""
    return drawn(patients, HELD_OUT, seed)


def drawn(patients: Sequence[str], most: int, seed: int) -> Rows:
    """About `most` of films, ascending: all films of patients that are drawn by `seed`."""
    if len(patients) <= most:
        return np.arange(len(patients))
    _, who = np.unique(np.asarray(patients), return_inverse=True)
    place = np.random.default_rng(seed).permutation(int(who.max()) + 1)[who.reshape(-1)]
    return np.sort(np.argsort(place, kind="stable")[:most])


def look(films: Films, stop: Callable[[], bool] = lambda: False) -> Looks:
    """Looks of all films, by the pixels at hand. Raises Stopped."""

    return search.look(films.planes, films.rows, stop)


def find(
    films: Films, some: Looks, *, named: Sequence[OneSided] | None = None, seed: int = 0
) -> list[Unit]:
    """Units of one class, the clearest first, as `dataset check` names them.

    `some` are looks of `films`, or of the first ones, and `named` is what was found in those, where
    somebody looked already.
    Donors are films that the model learned where the unit has any, so that no film is scored whose
    look others were given. Units by size are left out: pixels at one size do not show it.
    """
    if named is None:
        looked_at = len(some)
        named = one_sided.find(
            groups.find(some),
            films.labels[:looked_at],
            films.patients[:looked_at],
            len(films.names),
        )
    found = []
    for number, one in enumerate(n for n in named if n.group.look != "size"):
        of_class = one.group.films[films.labels[one.group.films] == one.label]
        learned = of_class[~films.held_out[of_class]]
        donors = learned if learned.size else of_class
        rng = np.random.default_rng((seed, number))
        if donors.size > DONORS:
            donors = np.sort(rng.permutation(donors)[:DONORS])
        found.append(
            Unit(
                look=one.group.look,
                what=one.group.what,
                label=one.label,
                films=one.group.films,
                patients=one.patients,
                burned=_boxes(one.group, some, one.group.films, donors),
                donors=donors,
                boxes=_boxes(one.group, some, donors, donors),
                frames=some.frames[donors],
            )
        )
    return found


def _boxes(group: Group, some: Looks, films: Rows, donors: Rows) -> list[NDArray[np.int16]]:
    """Marks of films that the unit makes: what the group is known by, and what many donors have."""
    marks = some.marks
    its = np.flatnonzero(np.isin(marks.film, films))
    its = its[_of_many(some, its, donors)]
    its = its[np.argsort(marks.film[its], kind="stable")]
    film = marks.film[its]
    first, last = (np.searchsorted(film, films, side=side) for side in ("left", "right"))
    found = []
    for one, low, high in zip(films, first, last, strict=True):
        boxes = marks.box[its[low:high]]
        if group.boxes is not None:
            own = np.searchsorted(group.films, one)
            boxes = np.concatenate([group.boxes[own : own + 1], boxes])
        found.append(np.unique(boxes, axis=0) if len(boxes) > 1 else boxes)
    return found


def _of_many(some: Looks, its: Rows, donors: Rows) -> NDArray[np.bool_]:
    """bool [M]: of which of the marks `its` many donors have one of the same kind close by."""
    marks = some.marks
    theirs = np.flatnonzero(np.isin(marks.film, donors))
    theirs = theirs[np.argsort(marks.film[theirs], kind="stable")]
    if not theirs.size:
        return np.zeros(len(its), np.bool_)
    middle = marks.box[:, :2] + marks.box[:, 2:] / 2
    # Where the marks of each donor begin.
    begins = np.unique(marks.film[theirs], return_index=True)[1]
    common = np.empty(len(its), np.bool_)
    for start in range(0, len(its), BLOCK):
        part = its[start : start + BLOCK]
        near = marks.kind[part, None] == marks.kind[theirs]
        for axis in (0, 1):
            near &= np.abs(middle[part, None, axis] - middle[theirs, axis]) <= NEAR
        have = np.logical_or.reduceat(near, begins, axis=1).sum(axis=1)
        common[start : start + BLOCK] = have >= COMMON * donors.size
    return common
