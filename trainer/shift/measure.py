"""Measure: held-out films are scored as they are and dressed otherwise."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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

#: Films that a thread dresses at a time where they are all wanted, and how many threads do.
PART, THREADS = 16, 2

#: Scored films at most, dressed or not, where nobody says how many: minutes on a processor.
MOST = 10_000

#: Each film is dressed as so many donors, one after the other, and figures are means of all: those
#: of single draws of donors differ by as much as two models do.
DRAWS = 5

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
    #: float64 [draws, n]: P(positive) of them, dressed; of changes without a donor one draw.
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
        """P(positive) of all films, of which some are dressed so; float64 [draws, n]."""
        score: Floats = np.tile(self.score, (len(one.score), 1))
        score[:, one.films] = one.score
        return score

    def auroc(self, one: Dressed) -> float:
        """AUROC of all films, of which some are dressed so: the mean of all draws."""
        return float(np.mean([metrics.auroc(score, self.truth) for score in self.after(one)]))


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

    Films and donors are drawn by `seed`, the same ones whatever scores them, donors DRAWS times,
    and no more than about `most` films are scored in all. Raises Stopped.
    """
    held_out = np.flatnonzero(films.held_out)
    truth = films.truth
    if len(np.unique(truth[held_out])) < 2:
        return None
    chosen = _chosen(films, held_out, _cost(films, units, held_out), seed, most)
    plain = np.concatenate([_finite(score(part)) for part in _parts(films, chosen, stop)])
    to_do = looks(films, units, chosen, seed)
    done = [one for look in to_do for one in _scored(look, score, stop)]
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
    worst = min(as_units, key=found.auroc)
    assert worst.unit is not None
    parts = _scored(_as_unit(films, units, worst.unit, PARTS, chosen, seed), score, stop)
    place = found.dressed.index(worst) + 1
    dressed = (*found.dressed[:place], *parts, *found.dressed[place:])
    return dataclasses.replace(found, dressed=dressed)


def once(
    films: Films,
    units: Sequence[Unit],
    *,
    seed: int,
    most: int,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[Rows, NDArray[np.uint8]]]:
    """What a network is judged by while it learns: places among all films, and these dressed.

    As each unit, and as the other class was mostly acquired; of each film once, with one donor, and
    about `most` in all. What training never does is not among them. Raises Stopped.
    """
    held_out = np.flatnonzero(films.held_out)
    cost = held_out.size + sum(_others(films, unit, held_out).size for unit in units)
    chosen = _chosen(films, held_out, cost, seed, most)
    for number in range(1, len(units) + 1):
        look = _as_unit(films, units, number, (UNIT,), chosen, seed)
        if look.films.size:
            (_, _, dress) = look.ways[0]
            yield chosen[look.films], _all(dress, films, look.films.size, stop)
    *_, changes = counter.SHIFTS.values()
    strongest = functools.partial(_countered, films, chosen, changes)
    yield chosen, _all(strongest, films, chosen.size, stop)


#: What becomes of some of the films that are dressed, in one draw of donors: uint8 [n, S, S].
Dress = Callable[[Rows, int], NDArray[np.uint8]]


def _all(dress: Dress, films: Films, n: int, stop: Callable[[], bool]) -> NDArray[np.uint8]:
    """All `n` films that are dressed so, in the first draw: uint8 [n, S, S]. Raises Stopped."""
    made = np.empty((n, *films.planes.shape[1:]), np.uint8)

    def part(start: int) -> None:
        if stop():
            raise Stopped("stopped while films were dressed")
        places = np.arange(start, min(start + PART, n))
        made[places] = dress(places, 0)

    with ThreadPoolExecutor(THREADS, thread_name_prefix="dress") as pool:
        for _ in pool.map(part, range(0, n, PART)):
            pass
    return made


@dataclass(frozen=True, kw_only=True)
class Look:
    """Dressings of the same films that are to be done."""

    unit: int | None
    #: Which of the chosen films are dressed.
    films: Rows
    draws: int
    #: Of each dressing its name, its kind and what it makes.
    ways: Sequence[tuple[str, str, Dress]]


def _as_unit(
    films: Films,
    units: Sequence[Unit],
    number: int,
    kinds: Sequence[str],
    chosen: Rows,
    seed: int,
) -> Look:
    """Films of the other class as a unit, or as parts of it. The donors are the same ones."""
    unit = units[number - 1]
    dressed = _others(films, unit, chosen)
    drawn = np.random.default_rng((seed, number)).integers(
        unit.donors.size, size=(DRAWS, len(chosen))
    )

    def those(places: Rows, draw: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], Rows]:
        which = drawn[draw, dressed[places]]
        return films.take(chosen[dressed[places]]), films.take(unit.donors[which]), which

    def dress(kind: str, places: Rows, draw: int) -> NDArray[np.uint8]:
        own, donors, which = those(places, draw)
        boxes, frames = [unit.boxes[n] for n in which], unit.frames[which]
        if kind == TONE:
            return dressing.toned(own, donors)
        if kind == MARKS:
            return dressing.marked(own, donors, boxes, frames)
        if kind == SPECTRUM:
            return dressing.by_spectrum(own, donors, boxes, frames)
        return dressing.as_unit(own, donors, boxes, frames)

    return Look(
        unit=number,
        films=dressed,
        draws=DRAWS,
        ways=[
            (
                f"group {number}" if kind == UNIT else f"group {number} {kind}",
                kind,
                functools.partial(dress, kind),
            )
            for kind in kinds
        ],
    )


def looks(films: Films, units: Sequence[Unit], chosen: Rows, seed: int) -> Iterator[Look]:
    """The dressings of the films `chosen`, but for the parts of the worst unit."""
    for number, unit in enumerate(units, 1):
        if _others(films, unit, chosen).size:
            yield _as_unit(films, units, number, (UNIT, SPECTRUM), chosen, seed)
    if not units:
        for positive in (True, False):
            yield _between_classes(films, chosen, seed, positive)
    yield Look(
        unit=None,
        films=np.arange(len(chosen)),
        draws=1,
        ways=[
            (
                f"{COUNTER} {strength}",
                COUNTER,
                functools.partial(_countered, films, chosen, changes),
            )
            for strength, changes in counter.SHIFTS.items()
        ],
    )


def _countered(
    films: Films,
    chosen: Rows,
    changes: tuple[counter.Change, counter.Change],
    places: Rows,
    draw: int,
) -> NDArray[np.uint8]:
    del draw  # it has no donor
    which = chosen[places]
    some = zip(films.take(which), films.truth[which], strict=True)
    return np.stack([changes[int(sick)](plane) for plane, sick in some])


def _between_classes(films: Films, chosen: Rows, seed: int, positive: bool) -> Look:
    """Films that are not positive with the spectra of those that are, or the other way round."""
    of_class = np.flatnonzero(films.truth == positive)
    learned = of_class[~films.held_out[of_class]]
    donors = learned if learned.size else of_class
    dressed = np.flatnonzero(films.truth[chosen] != positive)
    drawn = np.random.default_rng((seed, 0, positive)).integers(
        donors.size, size=(DRAWS, len(chosen))
    )

    def dress(places: Rows, draw: int) -> NDArray[np.uint8]:
        own = films.take(chosen[dressed[places]])
        return dressing.spectrum(own, films.take(donors[drawn[draw, dressed[places]]]))

    disease = films.names[films.positive]
    name = f"{SPECTRUM} of {disease if positive else films.others}"
    return Look(unit=None, films=dressed, draws=DRAWS, ways=[(name, SPECTRUM, dress)])


def _scored(look: Look, score: Score, stop: Callable[[], bool]) -> list[Dressed]:
    found: dict[str, list[list[Floats]]] = {name: [] for name, _, _ in look.ways}
    for draw in range(look.draws):
        for name, _, dress in look.ways:
            its = []
            for start in range(0, look.films.size, AT_ONCE):
                if stop():
                    raise Stopped("stopped while films were dressed")
                places = np.arange(start, min(start + AT_ONCE, look.films.size))
                its.append(_finite(score(dress(places, draw))))
            found[name].append(its)
    return [
        Dressed(
            name=name,
            kind=kind,
            unit=look.unit,
            films=look.films,
            score=np.stack([np.concatenate(its) for its in found[name]]),
        )
        for name, kind, _ in look.ways
    ]


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
        return whole + DRAWS * held_out.size
    return whole + DRAWS * (2 * sum(of_units) + len(PARTS) * max(of_units))


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
