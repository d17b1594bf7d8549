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
    letters, *areas = (
        _of_kind(films if kind.smaller == 1 else halves, number)
        for number, kind in enumerate(KINDS)
    )
    return joined([letters, *(_without(letters, area) for area in areas)])


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
    at = _near_edges(films >= bright)
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


def _near_edges(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Places that are true in bool [N, S, S] where marks are looked for, ascending. Changes it."""
    side = mask.shape[1]
    top, bottom, sides = round(TOP * side), round((1 - BOTTOM) * side), round(SIDES * side)
    mask[:, top:bottom, sides : side - sides] = False
    # Few are: eight are looked at as one number.
    words = np.flatnonzero(mask.reshape(-1).view(np.uint64))
    which, bit = np.nonzero(mask.reshape(-1, 8)[words])
    return words[which] * 8 + bit


def _of_kind(films: NDArray[np.uint8], number: int) -> Marks:
    """Marks of one kind, of films uint8 [N, S, S] that are as small as it wants them."""
    kind = KINDS[number]
    if kind.dark:
        films = ~films
    side = films.shape[1]
    hats, at = _hats(films, kind.doublings)
    film, box = components(at, side, side)
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
        film=film.astype(np.int32),
        kind=np.full(film.size, number, np.uint8),
        box=(box * kind.smaller).astype(np.int16),
        picture=_pictures(films, film, box, 1),
    )


def halved(films: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Films uint8 [N, S, S] at half of their side, by the mean of four pixels."""
    # Two pixels of a row are read as one number: neighbours lie together.
    pairs = films.view(np.uint16)
    sums = (pairs & 255) + (pairs >> 8)
    return ((sums[:, ::2] + sums[:, 1::2] + 2) >> 2).astype(np.uint8)


def _hats(films: NDArray[np.uint8], doublings: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """What is brighter than its surroundings and narrower than 2 ** doublings pixels, uint8
    [N, S, S], and the places near the edges where it is so by more than CONTRAST.

    Rows lie one behind the other, so that each step is one over all pixels of some films: what it
    takes of the next row is in the margin, of which nothing is kept.
    """
    steps = [1 << k for k in range(doublings)]
    n = sum(steps)
    side = films.shape[1]
    wide = side + 2 * n
    ways = [*(step * wide for step in steps), *steps]
    hats = np.empty_like(films)
    at_once = AT_ONCE * SIDE // side
    room = [np.empty(at_once * wide * wide, np.uint8) for _ in range(3)]
    mask = np.empty((at_once, side, side), np.bool_)
    found = []
    for first in range(0, len(films), at_once):
        some = films[first : first + at_once]
        opened = room[2][: len(some) * wide * wide]
        padded = opened.reshape(len(some), wide, wide)
        padded[:, n:-n, n:-n] = some
        padded[:, :n], padded[:, -n:] = padded[:, n : n + 1], padded[:, -n - 1 : -n]
        padded[:, :, :n], padded[:, :, -n:] = padded[:, :, n : n + 1], padded[:, :, -n - 1 : -n]
        for of in (np.minimum, np.maximum):
            for step in ways:
                room[0], room[1] = room[1], room[0]
                opened = of(opened[step:], opened[:-step], out=room[0][: opened.size - step])
        inner = room[0][: len(some) * wide * wide].reshape(len(some), wide, wide)[:, :side, :side]
        hat = np.subtract(some, inner, out=hats[first : first + len(some)])
        near = _near_edges(np.greater(hat, CONTRAST, out=mask[: len(some)]))
        found.append(near + first * side * side)
    return hats, np.concatenate(found)


def components(
    at: NDArray[np.int64], rows: int, columns: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Connected parts of masks: which film int64 [K]; top, left, height, width int64 [K, 4].

    `at` are places in [N, rows, columns], ascending. Pixels that touch, also at a corner, are of
    one part, and so are pixels of a row with up to two others between them: letters of a word.
    """
    at = at.astype(np.int32)
    row = at // columns
    x = at - row * columns
    if not row.size:
        return np.zeros(0, np.int64), np.zeros((0, 4), np.int64)
    first = np.flatnonzero((np.diff(row, prepend=-1) > 0) | (np.diff(at, prepend=-9) > 3))
    row, left, right = row[first], x[first], x[np.append(first[1:], x.size) - 1]
    # By pairs of runs that touch, one in the row below the other.
    wide = columns + 4
    start, end = row * wide + left, row * wide + right
    low = np.searchsorted(end, start + wide - 2)
    high = np.searchsorted(start, end + wide + 2, side="right")
    many = np.maximum(high - low, 0)
    many[row % rows == rows - 1] = 0
    above = np.repeat(np.arange(row.size), many)
    below = np.arange(above.size) + np.repeat(low - np.cumsum(many) + many, many)
    part = _joined(row.size, above, below)
    order = np.argsort(part, kind="stable")
    starts = np.flatnonzero(np.diff(part[order], prepend=-1))
    # Runs are in order, and so are those of a part: its first is at its top.
    top, bottom = row[order[starts]], row[order[np.append(starts[1:], order.size) - 1]] + 1
    film = top // rows
    left = np.minimum.reduceat(left[order], starts)
    width = np.maximum.reduceat(right[order], starts) + 1 - left
    box = np.stack([top - film * rows, left, bottom - top, width], axis=1)
    return film.astype(np.int64), box.astype(np.int64)


def _joined(n: int, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    """The least of 0 … n-1 that each is joined with by the pairs `a`, `b`."""
    part = np.arange(n)
    while (differ := (one := part[a]) != (other := part[b])).any():
        a, b, one, other = a[differ], b[differ], one[differ], other[differ]
        np.minimum.at(part, np.maximum(one, other), np.minimum(one, other))
        while (part != (up := part[part])).any():
            part = up
    return part


def _alone(
    hats: NDArray[np.uint8], film: NDArray[np.int64], box: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Whether little is left of the top-hat around boxes; bool [K]."""
    top, left, height, width = box.T[:, :, None, None]
    within = (np.arange(INSIDE_POINTS) + 0.5) / INSIDE_POINTS
    rows = (top + within[:, None] * height).astype(np.int64)
    inside = hats[film[:, None, None], rows, (left + within * width).astype(np.int64)]
    inside = inside.mean(axis=(1, 2))
    #: What is found in rings is added up: where the first ones have too much all have.
    alone = np.ones(len(box), np.bool_)
    total = np.zeros(len(box))
    for by in range(1, RING + 1):
        left_over = np.flatnonzero(alone)
        total[left_over] += _ring(hats, film[left_over], box[left_over], by)
        mean = total / (RING * 4 * RING_POINTS)
        alone &= (mean <= RING_LEVEL) & (mean <= RING_SHARE * inside)
    return alone


def _ring(
    hats: NDArray[np.uint8], film: NDArray[np.int64], box: NDArray[np.int64], by: int
) -> NDArray[np.int64]:
    """The sum of the top-hat at points so many pixels around boxes; int64 [K]."""
    side = hats.shape[1]
    top, left, height, width = box.T[:, :, None]
    along = np.linspace(-1, 1, RING_POINTS)
    y, x = (height - 1) / 2 + by, (width - 1) / 2 + by
    down, across = top + (height - 1) / 2, left + (width - 1) / 2
    rows, columns = np.rint(down + along * y), np.rint(across + along * x)
    both = np.rint(down + [[-1, 1]] * y), np.rint(across + [[-1, 1]] * x)
    shape = len(box), 2, RING_POINTS
    at_y = np.concatenate(
        [np.broadcast_to(both[0][:, :, None], shape), np.broadcast_to(rows[:, None], shape)], 1
    ).astype(np.int64)
    at_x = np.concatenate(
        [np.broadcast_to(columns[:, None], shape), np.broadcast_to(both[1][:, :, None], shape)], 1
    ).astype(np.int64)
    # A film's edge ends a mark, too.
    inside = (at_y >= 0) & (at_y < side) & (at_x >= 0) & (at_x < side)
    found = hats[film[:, None, None], at_y.clip(0, side - 1), at_x.clip(0, side - 1)]
    return np.asarray(np.where(inside, found, 0).sum(axis=(1, 2), dtype=np.int64))


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
    which, y0, x0 = film[:, None, None], y0[:, :, None], x0[:, None, :]
    above = films[which, y0, x0] * (1 - right) + films[which, y0, x0 + 1] * right
    below = films[which, y0 + 1, x0] * (1 - right) + films[which, y0 + 1, x0 + 1] * right
    found = above * (1 - down) + below * down
    return np.asarray(np.rint(found), dtype=np.uint8).reshape(len(film), ROWS * COLUMNS)
