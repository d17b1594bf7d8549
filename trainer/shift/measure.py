"""Measure: held-out films are scored as they are and dressed otherwise."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.errors import Stopped
from trainer.judging import metrics
from trainer.shift import counter, dressing
from trainer.shift.units import Films, Rows, Unit

Floats = NDArray[np.float64]

#: P(positive) float64 [n] of films uint8 [n, S, S].
Score = Callable[[NDArray[np.uint8]], Floats]

#: Films that are dressed and scored at once.
AT_ONCE = 128

#: Scored films at most, dressed or not, where nobody says how many: minutes on a processor.
MOST = 5000

#: Where their number is bounded, of each class so many films are taken at least.
LEAST = 50

UNIT, MARKS, TONE, SPECTRUM, COUNTER = "unit", "marks", "tone", "spectrum", "counter-shift"

#: What a unit's look is taken apart into, where the model does worst as that unit.
PARTS = (MARKS, TONE)


@dataclass(frozen=True, kw_only=True)
class Dressed:
    """Some of the scored films, dressed."""

    #: Unique among those of one measurement, and the same in each.
    name: str
    #: UNIT, MARKS, TONE, SPECTRUM or COUNTER.
    kind: str
    #: The unit's number, from 1; None for none.
    unit: int | None
    #: int64 [n]: which of the scored films, ascending.
    films: Rows
    #: float64 [n]: P(positive) of them, dressed.
    score: Floats


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What a model says of n films, as they are and dressed."""

    #: Which of all films.
    films: Rows
    #: bool [n].
    truth: NDArray[np.bool_]
    patients: tuple[str, ...]
    #: float64 [n]: P(positive) of them as they are.
    score: Floats
    dressed: tuple[Dressed, ...]
    #: Of how many held-out films these are a part.
    held_out: int
    #: Sentences about what could not be done.
    notes: tuple[str, ...]

    def after(self, one: Dressed) -> Floats:
        """P(positive) of all films, of which some are dressed so; float64 [n]."""
        score: Floats = self.score.copy()
        score[one.films] = one.score
        return score


def measure(
    films: Films,
    units: Sequence[Unit],
    score: Score,
    *,
    seed: int = 0,
    most: int = MOST,
    stop: Callable[[], bool] = lambda: False,
) -> Scored | None:
    """Score the held-out films, and score them dressed; None where they are not of both classes.

    Films and donors are drawn by `seed`, the same ones whatever scores them, and no more than
    about `most` films are scored in all. Raises Stopped.
    """
    held_out = np.flatnonzero(films.held_out)
    truth = films.truth
    if len(np.unique(truth[held_out])) < 2:
        return None
    chosen = _chosen(films, held_out, _cost(films, units, held_out), seed, most)
    plain = np.concatenate([_finite(score(part)) for part in _parts(films, chosen, stop)])
    to_do = [*looks(films, units, chosen, seed)]
    done = [*(_scored(look, films, chosen, score, stop) for look in to_do)]
    found = Scored(
        films=chosen,
        truth=truth[chosen],
        patients=tuple(films.patients[film] for film in chosen),
        score=plain,
        dressed=tuple(done),
        held_out=max(films.drawn_of, len(held_out)),
        notes=tuple(_notes(films, units, chosen)),
    )
    as_units = [one for one in found.dressed if one.kind == UNIT]
    if not as_units:
        return found
    worst = min(as_units, key=lambda one: metrics.auroc(found.after(one), found.truth))
    assert worst.unit is not None
    parts = [
        _scored(Look.of(films, units, worst.unit, kind, chosen, seed), films, chosen, score, stop)
        for kind in PARTS
    ]
    place = found.dressed.index(worst) + 1
    dressed = (*found.dressed[:place], *parts, *found.dressed[place:])
    return dataclasses.replace(found, dressed=dressed)


@dataclass(frozen=True, kw_only=True)
class Look:
    """A dressing that is to be done."""

    name: str
    kind: str
    unit: int | None
    #: Which of the chosen films are dressed.
    films: Rows
    #: Makes of these places in `films` uint8 [n, S, S].
    dress: Callable[[Rows], NDArray[np.uint8]]

    @classmethod
    def of(
        cls, films: Films, units: Sequence[Unit], number: int, kind: str, chosen: Rows, seed: int
    ) -> Look:
        """Films of the other class as a unit, or as a part of it. The donors are the same ones."""
        unit = units[number - 1]
        dressed = _others(films, unit, chosen)
        # In all dressings as one unit a film has one donor.
        drawn = np.random.default_rng((seed, number)).integers(unit.donors.size, size=len(chosen))

        def dress(places: Rows) -> NDArray[np.uint8]:
            which = drawn[dressed[places]]
            own = films.take(chosen[dressed[places]])
            donors = films.take(unit.donors[which])
            boxes, frames = [unit.boxes[n] for n in which], unit.frames[which]
            if kind == TONE:
                return dressing.toned(own, donors)
            if kind == MARKS:
                return dressing.marked(own, donors, boxes, frames)
            if kind == SPECTRUM:
                return dressing.by_spectrum(own, donors, boxes, frames)
            return dressing.as_unit(own, donors, boxes, frames)

        name = f"group {number}" if kind == UNIT else f"group {number} {kind}"
        return cls(name=name, kind=kind, unit=number, films=dressed, dress=dress)


def looks(films: Films, units: Sequence[Unit], chosen: Rows, seed: int) -> Iterator[Look]:
    """The dressings of the films `chosen`, but for the parts of the worst unit."""
    for number, unit in enumerate(units, 1):
        if _others(films, unit, chosen).size:
            for kind in (UNIT, SPECTRUM):
                yield Look.of(films, units, number, kind, chosen, seed)
    if not units:
        for positive in (True, False):
            yield _between_classes(films, chosen, seed, positive)
    truth = films.truth[chosen]
    for strength, changes in counter.SHIFTS.items():

        def dress(
            places: Rows, changes: tuple[counter.Change, counter.Change] = changes
        ) -> NDArray[np.uint8]:
            some = zip(films.take(chosen[places]), truth[places], strict=True)
            return np.stack([changes[int(sick)](plane) for plane, sick in some])

        yield Look(
            name=f"{COUNTER} {strength}",
            kind=COUNTER,
            unit=None,
            films=np.arange(len(chosen)),
            dress=dress,
        )


def _between_classes(films: Films, chosen: Rows, seed: int, positive: bool) -> Look:
    """Films that are not positive with the spectra of those that are, or the other way round."""
    of_class = np.flatnonzero(films.truth == positive)
    learned = of_class[~films.held_out[of_class]]
    donors = learned if learned.size else of_class
    dressed = np.flatnonzero(films.truth[chosen] != positive)
    drawn = np.random.default_rng((seed, 0, positive)).integers(donors.size, size=len(chosen))

    def dress(places: Rows) -> NDArray[np.uint8]:
        own = films.take(chosen[dressed[places]])
        return dressing.spectrum(own, films.take(donors[drawn[dressed[places]]]))

    disease = films.names[films.positive]
    name = f"{SPECTRUM} of {disease if positive else films.others}"
    return Look(name=name, kind=SPECTRUM, unit=None, films=dressed, dress=dress)


def _scored(
    look: Look, films: Films, chosen: Rows, score: Score, stop: Callable[[], bool]
) -> Dressed:
    found = []
    for start in range(0, look.films.size, AT_ONCE):
        if stop():
            raise Stopped("stopped while films were dressed")
        places = np.arange(start, min(start + AT_ONCE, look.films.size))
        found.append(_finite(score(look.dress(places))))
    return Dressed(
        name=look.name,
        kind=look.kind,
        unit=look.unit,
        films=look.films,
        score=np.concatenate(found),
    )


def _finite(score: Floats) -> Floats:
    # Of a film that a network gives no number for it says nothing: in the middle, as a guess.
    return np.where(np.isfinite(score), score, 0.5).astype(np.float64)


def _parts(films: Films, chosen: Rows, stop: Callable[[], bool]) -> Iterator[NDArray[np.uint8]]:
    for start in range(0, chosen.size, AT_ONCE):
        if stop():
            raise Stopped("stopped while films were dressed")
        yield films.take(chosen[start : start + AT_ONCE])


def _others(films: Films, unit: Unit, chosen: Rows) -> Rows:
    """Which of the chosen films are dressed as a unit: of the other class, and not of it."""
    of_positive = unit.label == films.positive
    others = (films.truth[chosen] != of_positive) & ~np.isin(chosen, unit.films)
    return np.flatnonzero(others)


def _cost(films: Films, units: Sequence[Unit], held_out: Rows) -> int:
    """Films that are scored where all held-out ones are looked at."""
    of_units = [_others(films, unit, held_out).size for unit in units]
    whole = (1 + len(counter.SHIFTS)) * held_out.size
    if not of_units:
        return whole + held_out.size
    return whole + 2 * sum(of_units) + len(PARTS) * max(of_units)


def _chosen(films: Films, held_out: Rows, cost: int, seed: int, most: int) -> Rows:
    """Held-out films that are scored, ascending: of both classes the same share, by patient."""
    share = most / max(1, cost)
    if share >= 1:
        return held_out
    patients = np.asarray([films.patients[film] for film in held_out])
    _, who = np.unique(patients, return_inverse=True)
    place = np.random.default_rng(seed).permutation(int(who.max()) + 1)[who.reshape(-1)]
    truth = films.truth[held_out]
    found = []
    for positive in (True, False):
        of_class = np.flatnonzero(truth == positive)
        wanted = max(LEAST, round(share * of_class.size))
        found.append(of_class[np.argsort(place[of_class], kind="stable")][:wanted])
    return held_out[np.sort(np.concatenate(found))]


def _notes(films: Films, units: Sequence[Unit], chosen: Rows) -> Iterator[str]:
    if not units:
        yield (
            "no group of films that look acquired alike is of one class: in the place of a unit's "
            "look, films get the spectra of the other class"
        )
    for number, unit in enumerate(units, 1):
        if not _others(films, unit, chosen).size:
            yield f"no held-out film of another class can be dressed as group {number}"
