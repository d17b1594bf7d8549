"""Marks: what was burned into a film beside the anatomy, such as a side letter or a stamp.

A mark is small, brighter than what it lies on, and ends sharply on all sides. The white top-hat (a
film less its morphological opening; Serra, Image Analysis and Mathematical Morphology, 1982) keeps
it and takes anatomy away; what the anatomy leaves, mostly ribs at the chest wall, fades out where a
mark ends.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Side of the films that marks are looked for in, in pixels.
SIDE = 224

#: Rows from the top and the bottom, and columns from either side, where marks are looked for.
TOP, BOTTOM, SIDES = 80, 44, 56

#: A stroke is narrower than so many pixels.
STROKE = 8

#: Gray levels by which a mark is brighter than its surroundings.
CONTRAST = 60

#: Least and greatest height and width of a mark, in pixels.
HEIGHTS, WIDTHS = (5, 32), (4, 68)

#: Around a mark, to the next RING pixels, the top-hat is at most this on average, and this share of
#: what it is within.
RING, RING_LEVEL, RING_SHARE = 2, 12.0, 0.2

#: Points of each side of the ring that are looked at.
RING_POINTS = 12

#: Marks of one film, the highest first.
MOST = 12

#: Rows and columns that a mark's picture is brought to.
ROWS, COLUMNS = 12, 8

Picture = NDArray[np.float32]


@dataclass(frozen=True)
class Marks:
    """Marks of films, one per row, by film."""

    #: int32 [M]: which film.
    film: NDArray[np.int32]
    #: int16 [M, 4]: top, left, height, width in pixels of SIDE.
    box: NDArray[np.int16]
    #: uint8 [M, ROWS * COLUMNS].
    picture: NDArray[np.uint8]


def find(films: NDArray[np.uint8]) -> Marks:
    """Marks of `films`, uint8 [N, SIDE, SIDE]."""
    hats = _tophat(films)
    mask = hats > CONTRAST
    mask[:, TOP : SIDE - BOTTOM, SIDES : SIDE - SIDES] = False
    film, box = components(mask)
    height, width = box[:, 2], box[:, 3]
    fits = (HEIGHTS[0] <= height) & (height <= HEIGHTS[1])
    fits &= (WIDTHS[0] <= width) & (width <= WIDTHS[1])
    film, box = film[fits], box[fits]
    alone = _alone(hats, film, box)
    film, box = film[alone], box[alone]
    order = np.lexsort((box[:, 0], film))
    rank = np.arange(film.size) - np.searchsorted(film[order], film[order])
    order = order[rank < MOST]
    film, box = film[order], box[order]
    return Marks(film.astype(np.int32), box.astype(np.int16), _pictures(films, film, box))


def _tophat(films: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What is brighter than its surroundings and narrower than STROKE; uint8 [N, SIDE, SIDE]."""
    n = STROKE - 1
    pad = np.empty((len(films), SIDE + 2 * n, SIDE + 2 * n), np.uint8)
    inner = pad[:, n:-n, n:-n]
    inner[:] = films
    pad[:, :n], pad[:, -n:] = pad[:, n : n + 1], pad[:, -n - 1 : -n]
    pad[:, :, :n], pad[:, :, -n:] = pad[:, :, n : n + 1], pad[:, :, -n - 1 : -n]
    opened = pad
    for of in (np.minimum, np.maximum):
        for step in (1, 2, 4):  # of STROKE neighbours, by doubling
            opened = of(opened[:, step:], opened[:, :-step])
        for step in (1, 2, 4):
            opened = of(opened[:, :, step:], opened[:, :, :-step])
    return np.subtract(films, opened, out=opened)


def components(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Connected parts of bool [N, H, W]: which film int64 [K]; top, left, height, width [K, 4].

    Pixels that touch, also at a corner, are of one part, and so are pixels of a row with up to two
    others between them: letters of a word.
    """
    _, rows, columns = mask.shape
    row, x = np.divmod(np.flatnonzero(mask), columns)
    if not row.size:
        return np.zeros(0, np.int64), np.zeros((0, 4), np.int64)
    new = np.ones(row.size, np.bool_)
    new[1:] = (row[1:] != row[:-1]) | (x[1:] - x[:-1] > 3)
    first = np.flatnonzero(new)
    row, left, right = row[first], x[first], x[np.append(first[1:], x.size) - 1]
    # By pairs of runs that touch, one in the row below the other.
    wide = columns + 4
    start, end = row * wide + left, row * wide + right
    low = np.searchsorted(end, start + wide - 2)
    high = np.searchsorted(start, end + wide + 2, side="right")
    many = np.where(row % rows == rows - 1, 0, np.maximum(high - low, 0))
    above = np.repeat(np.arange(row.size), many)
    below = np.arange(above.size) + np.repeat(low - np.cumsum(many) + many, many)
    part = _joined(row.size, above, below)
    order = np.argsort(part, kind="stable")
    starts = np.flatnonzero(np.diff(part[order], prepend=-1))
    row, left, right = row[order], left[order], right[order]
    top = np.minimum.reduceat(row, starts)
    bottom = np.maximum.reduceat(row, starts) + 1
    left = np.minimum.reduceat(left, starts)
    width = np.maximum.reduceat(right, starts) + 1 - left
    return top // rows, np.stack([top % rows, left, bottom - top, width], axis=1)


def _joined(n: int, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    """The least of 0 … n-1 that each is joined with by the pairs `a`, `b`."""
    part = np.arange(n)
    while (differ := part[a] != part[b]).any():
        one, other = part[a[differ]], part[b[differ]]
        np.minimum.at(part, np.maximum(one, other), np.minimum(one, other))
        while (part != (up := part[part])).any():
            part = up
    return part


def _alone(
    hats: NDArray[np.uint8], film: NDArray[np.int64], box: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Whether little is left of the top-hat around boxes; bool [K]."""
    inside = _pictures(hats, film, box).mean(axis=1)
    top, left, height, width = box.T[:, :, None]
    along = np.linspace(-1, 1, RING_POINTS)
    rings = []
    for by in range(1, RING + 1):
        y, x = (height - 1) / 2 + by, (width - 1) / 2 + by
        for at_y, at_x in ((-1, along), (1, along), (along, -1), (along, 1)):
            rows = np.rint(top + (height - 1) / 2 + at_y * y).astype(np.int64)
            columns = np.rint(left + (width - 1) / 2 + at_x * x).astype(np.int64)
            rows, columns = np.broadcast_arrays(rows, columns)
            # What lies outside of the film is not looked at again: its edge stands for it.
            rows, columns = rows.clip(0, SIDE - 1), columns.clip(0, SIDE - 1)
            within = (
                (rows >= top) & (rows < top + height) & (columns >= left) & (columns < left + width)
            )
            found = hats[film[:, None], rows, columns].astype(np.float32)
            rings.append(np.where(within, 0, found))
    ring = np.concatenate(rings, axis=1).mean(axis=1)
    return (ring <= RING_LEVEL) & (ring <= RING_SHARE * inside)


def _pictures(
    films: NDArray[np.uint8], film: NDArray[np.int64], box: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """Boxes of films, brought to ROWS × COLUMNS by linear interpolation; uint8 [K, 96]."""
    top, left, height, width = box.T[:, :, None]
    y = np.clip(top + (np.arange(ROWS) + 0.5) / ROWS * height - 0.5, 0, SIDE - 1.001)
    x = np.clip(left + (np.arange(COLUMNS) + 0.5) / COLUMNS * width - 0.5, 0, SIDE - 1.001)
    y0, x0 = y.astype(np.int64), x.astype(np.int64)
    down, right = (y - y0)[:, :, None], (x - x0)[:, None, :]
    which, y0, x0 = film[:, None, None], y0[:, :, None], x0[:, None, :]
    above = films[which, y0, x0] * (1 - right) + films[which, y0, x0 + 1] * right
    below = films[which, y0 + 1, x0] * (1 - right) + films[which, y0 + 1, x0 + 1] * right
    found = above * (1 - down) + below * down
    return np.rint(found).astype(np.uint8).reshape(len(film), ROWS * COLUMNS)
