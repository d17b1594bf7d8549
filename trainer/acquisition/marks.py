"""Marks: what was burned into a film beside the anatomy: a side letter, a stamp, a covered name.

A mark is small, brighter or darker than what it lies on, and ends sharply on all sides. The top-hat
(a film less its morphological opening; Serra, Image Analysis and Mathematical Morphology, 1982)
keeps it and takes anatomy away; what the anatomy leaves, mostly ribs at the chest wall, fades out
where a mark ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.acquisition import runs

#: Side of the films that marks are looked for in, in pixels.
SIDE = 224

#: From the top, the bottom, and the left and right, shares of the side where marks are looked for.
TOP, BOTTOM, SIDES = 0.36, 0.2, 0.25

#: Gray levels by which a mark differs from its surroundings.
CONTRAST = 60

#: Least and greatest height and width of a mark, as shares of the side.
LEAST, HIGHEST, WIDEST = 0.02, 0.15, 0.3

#: In the next RING pixels around a mark the top-hat is at most this on average, and at most this
#: share of what it is within.
RING, RING_LEVEL, RING_SHARE = 2, 12.0, 0.2

#: Films of SIDE whose top-hats are taken at once, of half of it twice as many: they stay in a
#: processor's cache.
AT_ONCE = 4

#: Points of each side of a ring, and of each row and column of a mark, that are looked at.
RING_POINTS, INSIDE_POINTS = 10, 6

#: White is at least this, and what white ends at is at most that.
WHITE, NOT_WHITE = 250, 232

#: What is bright, and a step from it, in gray levels.
BRIGHT, STEP = 150, 40

#: Marks of one film and kind, the highest first.
MOST = 12

#: An area that letters cover to this share is no mark of its own.
COVERED = 0.5

#: Rows and columns that a mark's picture is brought to, with a pixel of its surroundings.
ROWS, COLUMNS = 12, 8


@dataclass(frozen=True)
class Kind:
    """What is looked for: strokes of letters, or larger areas, bright or dark."""

    name: str
    #: By how much the film is made smaller first: 1 or 2.
    smaller: int
    #: Doublings of the neighbourhood of the opening: strokes are narrower than 2 ** this pixels.
    doublings: int
    dark: bool


#: Those that want films as small have as many doublings: they are looked for at once.
KINDS = (
    Kind("letters", smaller=1, doublings=3, dark=False),
    Kind("bright area", smaller=2, doublings=4, dark=False),
    Kind("dark area", smaller=2, doublings=4, dark=True),
)


@dataclass(frozen=True)
class Marks:
    """Marks of films, one per row."""

    #: int32 [M]: which film.
    film: NDArray[np.int32]
    #: uint8 [M]: which of KINDS.
    kind: NDArray[np.uint8]
    #: int16 [M, 4]: top, left, height, width in pixels of SIDE.
    box: NDArray[np.int16]
    #: uint8 [M, ROWS * COLUMNS].
    picture: NDArray[np.uint8]


def find(films: NDArray[np.uint8], halves: NDArray[np.uint8] | None = None) -> Marks:
    """Marks of `films`, uint8 [N, SIDE, SIDE]; `halves` are `halved(films)`, where made already."""
    halves = halved(films) if halves is None else halves
    letters = _of_kinds(films, 0)
    return joined([letters, _without(letters, _of_kinds(halves, 1, 2))])


def _without(letters: Marks, areas: Marks) -> Marks:
    """Areas that are not mostly covered by letters of the same film, which they are made of."""
    first = np.searchsorted(letters.film, areas.film)
    many = np.searchsorted(letters.film, areas.film, side="right") - first
    area = np.repeat(np.arange(areas.film.size), many)
    letter = np.arange(area.size) - np.repeat(np.cumsum(many) - many - first, many)
    one, other = areas.box[area].astype(np.int64), letters.box[letter].astype(np.int64)
    low = np.maximum(one[:, :2], other[:, :2])
    high = np.minimum(one[:, :2] + one[:, 2:], other[:, :2] + other[:, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=1)
    covered = np.zeros(areas.film.size, np.int64)
    np.add.at(covered, area, shared)
    kept = covered < COVERED * np.prod(areas.box[:, 2:].astype(np.int64), axis=1)
    return Marks(areas.film[kept], areas.kind[kept], areas.box[kept], areas.picture[kept])


def joined(some: list[Marks], counts: list[int] | None = None) -> Marks:
    """Marks as one; with `counts`, how many films each of them is of, films are numbered on."""
    before = np.cumsum([0, *(counts or [0] * len(some))])
    return Marks(
        film=np.concatenate([m.film + np.int32(n) for m, n in zip(some, before, strict=False)]),
        kind=np.concatenate([m.kind for m in some]),
        box=np.concatenate([m.box for m in some]),
        picture=np.concatenate([m.picture for m in some]),
    )


Places = tuple[NDArray[np.int32], NDArray[np.int32]]


def white_ends(films: NDArray[np.uint8]) -> Places:
    """Where white ends sharply in films uint8 [N, S, S]: which film, ascending, and the place.

    What is burned in at one place ends at the same pixels in each film, whatever it lies on. A
    place is a pixel and one of four directions: direction * S² + row * S + column.
    """
    return _ends(films, WHITE, lambda _, beside: beside <= NOT_WHITE)


def steps(films: NDArray[np.uint8]) -> Places:
    """Where what is bright ends in a step, as `white_ends`: small letters are not white."""
    return _ends(films, BRIGHT, lambda pixel, beside: beside <= pixel - np.uint8(STEP))


_Test = Callable[[NDArray[np.uint8], NDArray[np.uint8]], NDArray[np.bool_]]


def _ends(films: NDArray[np.uint8], bright: int, ends: _Test) -> Places:
    """Places of pixels that are bright, and whose neighbour passes the test, near the edges."""
    side = films.shape[1]
    bits = runs.empty(films.size)
    at_once = AT_ONCE * SIDE // side
    for start in range(0, len(films), at_once):
        mask = films[start : start + at_once] >= bright
        runs.pack(bits, start * side * side, _near_edges(mask, side))
    at = runs.places(bits)
    row, column = np.divmod(at % (side * side), side)
    values = films.reshape(-1)
    films_of, places = [], []
    beside = ((side, row < side - 1), (-side, row > 0), (1, column < side - 1), (-1, column > 0))
    for direction, (step, inside) in enumerate(beside):
        its = at[inside]
        its = its[ends(values[its], values[its + step])]
        films_of.append(its // (side * side))
        places.append(its % (side * side) + direction * side * side)
    film, place = np.concatenate(films_of), np.concatenate(places)
    order = np.lexsort((place, film))
    return film[order].astype(np.int32), place[order].astype(np.int32)


def _near_edges(mask: NDArray[np.bool_], side: int) -> NDArray[np.bool_]:
    """`mask` bool [N, ≥ S, ≥ S], unset where no marks are looked for in films of that side."""
    top, bottom, sides = round(TOP * side), round((1 - BOTTOM) * side), round(SIDES * side)
    mask[:, top:bottom, sides : side - sides] = False
    return mask


def _of_kinds(films: NDArray[np.uint8], *numbers: int) -> Marks:
    """Marks of kinds, of films uint8 [N, S, S] that are as small as these want them."""
    count, kinds = len(films), [KINDS[number] for number in numbers]
    if kinds[0].dark or len(kinds) > 1:
        films = np.concatenate([~films if kind.dark else films for kind in kinds])
    side = films.shape[1]
    hats, bits = _hats(films, kinds[0].doublings)
    film, box = runs.parts(*runs.ends(bits), hats.wide)
    height, width = box[:, 2] / side, box[:, 3] / side
    fits = (height >= LEAST) & (height <= HIGHEST) & (width >= LEAST * 0.75) & (width <= WIDEST)
    film, box = film[fits], box[fits]
    alone = _alone(hats, film, box)
    film, box = film[alone], box[alone]
    order = np.lexsort((box[:, 1], box[:, 0], film))
    rank = np.arange(film.size) - np.searchsorted(film[order], film[order])
    order = order[rank < MOST]
    film, box = film[order], box[order]
    return Marks(
        film=(film % count).astype(np.int32),
        kind=np.array(numbers, np.uint8)[film // count],
        box=(box * kinds[0].smaller).astype(np.int16),
        picture=_pictures(films, film, box, 1),
    )


def halved(films: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Films uint8 [N, S, S] at half of their side, by the mean of four pixels."""
    half = films.shape[1] // 2
    found = np.empty((len(films), half, half), np.uint8)
    for start in range(0, len(films), AT_ONCE):
        # Two pixels of a row are read as one number: neighbours lie together.
        pairs = films[start : start + AT_ONCE].view(np.uint16)
        sums = (pairs & 255) + (pairs >> 8)
        found[start : start + AT_ONCE] = (sums[:, ::2] + sums[:, 1::2] + 2) >> 2
    return found


@dataclass(frozen=True)
class _Hats:
    """Top-hats of N films of side S."""

    #: uint8 [≥ N · wide²]: the films one behind the other, after each row and each film what is
    #: beyond it, all 0; and as much as a ring takes of that before the first.
    levels: NDArray[np.uint8]
    wide: int

    @property
    def first(self) -> int:
        """Where the first pixel of the first film is."""
        return RING * (self.wide + 1)

    def at(
        self, film: NDArray[np.int64], rows: NDArray[np.int64], columns: NDArray[np.int64]
    ) -> NDArray[np.uint8]:
        """Of films [K] where rows [K, R] and columns [K, C] cross, up to RING beyond the film;
        uint8 [K, R · C]."""
        rows = (film[:, None] * self.wide + rows) * self.wide + self.first
        places = rows[:, :, None] + columns[:, None]
        found = self.levels.take(places)
        return found.reshape(len(film), rows.shape[1] * columns.shape[1])


def _hats(films: NDArray[np.uint8], doublings: int) -> tuple[_Hats, runs.Bits]:
    """What is brighter than its surroundings and narrower than 2 ** doublings pixels in films uint8
    [N, S, S], and which pixels [N, wide, wide] near the edges are so by more than CONTRAST.

    Rows lie one behind the other, with white ones between them and between films, so that each step
    is one over all pixels of some films: of a window of the opening that reaches beyond a film
    counts what is within. What lies before a film lies behind the one before.
    """
    steps = [1 << k for k in range(doublings)]
    reach = sum(steps)
    side = films.shape[1]
    wide = -(-(side + reach) // 8) * 8
    ways = [*(step * wide for step in steps), *steps]
    at_once = AT_ONCE * SIDE // side
    before, reach = (wide - side) * (wide + 1), reach * (wide + 1)
    spread = np.full(at_once * wide * wide + before + reach, 255, np.uint8)
    room = [np.empty_like(spread) for _ in range(2)]
    mask = np.empty((at_once, wide, wide), np.bool_)
    pixels = len(films) * wide * wide
    hats = _Hats(np.empty(RING * (wide + 1) + pixels, np.uint8), wide)
    hats.levels[: hats.first] = 0
    bits = runs.empty(pixels)
    for start in range(0, len(films), at_once):
        some = films[start : start + at_once]
        count = len(some) * wide * wide
        spread[:count].reshape(len(some), wide, wide)[:, -side:, -side:] = some
        spread[count:] = 255
        opened = spread[: count + before + reach]
        for of in (np.minimum, np.maximum):
            for step in ways:
                room.reverse()
                opened = of(opened[step:], opened[:-step], out=room[0][: opened.size - step])
        hat = hats.levels[hats.first + start * wide * wide :][:count]
        np.subtract(spread[before:][:count], opened[before - reach :], out=hat)
        hat = hat.reshape(len(some), wide, wide)
        hat[:, side:] = 0
        hat[:, :side, side:] = 0
        bright = np.greater(hat, CONTRAST, out=mask[: len(some)])
        runs.pack(bits, start * wide * wide, _near_edges(bright, side))
    return hats, bits


def _alone(hats: _Hats, film: NDArray[np.int64], box: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether little is left of the top-hat around boxes; bool [K]."""
    within = (np.arange(INSIDE_POINTS) + 0.5) / INSIDE_POINTS
    alone = np.arange(len(box))
    total = np.zeros(len(box), np.int64)
    inside = np.zeros(len(box))
    # What is found in rings is added up: where the first ones have too much all have.
    for by in range(1, RING + 1):
        total[alone] += _ring(hats, film[alone], box[alone], by)
        mean = total[alone] / (RING * 4 * RING_POINTS)
        alone, mean = alone[few := mean <= RING_LEVEL], mean[few]
        if by == 1:
            top, left, height, width = box[alone].T[:, :, None]
            rows = (top + within * height).astype(np.int64)
            columns = (left + within * width).astype(np.int64)
            inside[alone] = hats.at(film[alone], rows, columns).mean(axis=1)
        alone = alone[mean <= RING_SHARE * inside[alone]]
    found = np.zeros(len(box), np.bool_)
    found[alone] = True
    return found


def _ring(
    hats: _Hats, film: NDArray[np.int64], box: NDArray[np.int64], by: int
) -> NDArray[np.int64]:
    """The sum of the top-hat at points so many pixels around boxes; int64 [K]."""
    top, left, height, width = box.T[:, :, None]
    along = np.linspace(-1, 1, RING_POINTS)
    y, x = (height - 1) / 2 + by, (width - 1) / 2 + by
    down, across = top + (height - 1) / 2, left + (width - 1) / 2
    rows, columns = np.rint(down + along * y), np.rint(across + along * x)
    ends_y, ends_x = np.rint(down + [[-1, 1]] * y), np.rint(across + [[-1, 1]] * x)
    # A film's edge ends a mark, too: nothing is beyond it.
    total = np.zeros(len(film), np.int64)
    for at_y, at_x in ((ends_y, columns), (rows, ends_x)):
        found = hats.at(film, at_y.astype(np.int64), at_x.astype(np.int64))
        total += found.sum(axis=1, dtype=np.int64)
    return total


def _pictures(
    films: NDArray[np.uint8], film: NDArray[np.int64], box: NDArray[np.int64], margin: int
) -> NDArray[np.uint8]:
    """Boxes of films with a margin, brought to ROWS × COLUMNS by interpolation; uint8 [K, 96]."""
    top, left, height, width = box.T[:, :, None]
    most = films.shape[1] - 1.001
    rows = (np.arange(ROWS) + 0.5) / ROWS * (height + 2 * margin)
    columns = (np.arange(COLUMNS) + 0.5) / COLUMNS * (width + 2 * margin)
    y = np.clip(top - margin + rows - 0.5, 0, most)
    x = np.clip(left - margin + columns - 0.5, 0, most)
    y0, x0 = y.astype(np.int64), x.astype(np.int64)
    down = (y - y0)[:, :, None].astype(np.float32)
    right = (x - x0)[:, None, :].astype(np.float32)
    side, levels = films.shape[1], films.reshape(-1)
    at = ((film[:, None] * side + y0) * side)[:, :, None] + x0[:, None, :]
    above = levels.take(at) * (1 - right) + levels.take(at + 1) * right
    below = levels.take(at + side) * (1 - right) + levels.take(at + side + 1) * right
    found = above * (1 - down) + below * down
    return np.asarray(np.rint(found), dtype=np.uint8).reshape(len(film), ROWS * COLUMNS)
