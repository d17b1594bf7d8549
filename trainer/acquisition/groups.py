"""Groups: films that look as if they were made alike, by their pixels alone.

Each kind of look has its own measure, and in each a group is a lump: many films close together and
few around them. A film may be in groups of several looks. No class is looked at here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.acquisition.looks import SMALL, Looks
from trainer.acquisition.marks import KINDS, SIDE, Marks, Places

#: A group has at least so many films, and at least this share of all.
FEWEST, SHARE = 20, 0.015

#: Marks are alike where their pictures correlate so, and sides differ by no more than this factor.
SAME_MARK, SAME_SIDES = 0.75, 1.5

#: Prints of gray levels are alike where they correlate so; a group's middle is less noisy.
SAME_TONE, SAME_AS_MIDDLE = 0.45, 0.55

#: Frames are alike within so many pixels and gray levels.
FRAME_PIXELS, FRAME_GRAYS = 2, 12

#: A lump of n films stands alone where SLACK times as many are reached only at GAP times its
#: radius, or at 1 + GAP_FEW / √n times it, as few films have gaps by chance.
SLACK, GAP, GAP_FEW = 1.25, 1.5, 5.0

#: A spot of marks is within so many pixels, and is a group of its own below this share of its kind.
SPOT_PIXELS, SPOT_SHARE = 4, 0.5

#: Marks have a place where half of them are within so many pixels of it. Those at one place are one
#: mark that the film's edge or the threshold cut in several ways: boxes that share this part of
#: both and pictures that correlate at all, or boxes side by side and pictures that correlate well.
PLACE_PIXELS, PLACE_SHARED, PLACE_LIKENESS = 8, 0.5, (0.3, 0.6)

#: A set of marks that may be a part of a group has this part of its least number.
PARTS = 4

#: Places where white ends that are looked at, the commonest first; two are of one mark where this
#: share of the films of either has both, and a mark has at least so many of them. A film has the
#: mark with this share of its places.
ANCHORS, TOGETHER, ANCHORS_LEAST, PATTERN = 2000, 0.6, 6, 0.65

#: Marks that are compared with all others at a time.
BLOCK = 1536

#: Of more marks or films groups are learned from so many, drawn at random.
LEARNED_FROM = 6000

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Group:
    """Films that look acquired alike."""

    #: `mark`, `frame`, `tone`, `sharpness` or `size`.
    look: str
    #: How they are alike, as in "films with …".
    what: str
    #: Rows of the films, ascending.
    films: Rows
    #: Of marks, where each film has it: top, left, height, width in pixels of SIDE, int16 [n, 4].
    boxes: NDArray[np.int16] | None = None
    #: Whether its films are told by the same pixels, and not by likeness.
    exact: bool = False


def fewest(films: int) -> int:
    """How many of so many films are a group at least."""
    return max(FEWEST, round(SHARE * films))


def find(looks: Looks) -> list[Group]:
    """Groups of films, each look's largest first. The same films give the same groups."""
    least = fewest(len(looks))
    found = [*_marks(looks.marks, least)]
    found += _ends(looks.ends, SMALL if looks.small else SIDE, least)
    found += _frames(looks.frames, least)
    found += _tones(looks.tone.astype(np.float32), least)
    for view in range(looks.sharpness.shape[1]):
        found += _sharpness(looks.sharpness[:, view], least)
    found += _sizes(looks.sizes, least)
    return found


def _drawn(n: int, share: float = 1.0) -> Rows:
    """Rows that groups are learned from, ascending: no more than `share` of LEARNED_FROM."""
    most = round(share * LEARNED_FROM)
    return np.arange(n) if n <= most else np.sort(np.random.default_rng(0).permutation(n)[:most])


def _lumps(
    near: NDArray[np.bool_], settle: Callable[[Rows, NDArray[np.bool_]], Rows], fewest: int
) -> Iterator[Rows]:
    """Disjoint sets of rows, by most neighbours first; `near` bool [M, M].

    `settle` gets rows that are near one and the rows that are left, and says which are of its set.
    """
    left = np.ones(len(near), np.bool_)
    neighbours = near.sum(axis=0, dtype=np.int32)
    while neighbours.size and neighbours[most := int(neighbours.argmax())] >= fewest:
        rows = settle(np.flatnonzero(near[most] & left), left)
        rows = np.union1d(rows, [most])
        yield rows
        left[rows] = False
        neighbours -= near[rows].sum(axis=0, dtype=np.int32)
        neighbours[~left] = 0


def _close(
    lengths: NDArray[np.int16],
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Of each length which of the different ones it is, and of these bool [D, N]: which lengths
    are within SAME_SIDES of them."""
    different, which = np.unique(lengths, return_inverse=True)
    logs = np.log(different.astype(np.float32))
    return which, (np.abs(logs[:, None] - logs) <= np.log(SAME_SIDES))[:, which]


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-6))


def _marks(marks: Marks, fewest: int) -> Iterator[Group]:
    for number in range(len(KINDS)):
        rows = np.flatnonzero(marks.kind == number)
        if rows.size >= fewest:
            yield from _marks_of_kind(marks, rows, fewest)


def _marks_of_kind(marks: Marks, of_kind: Rows, fewest: int) -> Iterator[Group]:
    drawn = of_kind[_drawn(len(of_kind))]
    share = len(drawn) / len(of_kind)
    pictures = marks.picture[drawn].astype(np.float32)
    pictures = _unit(pictures - pictures.mean(axis=1, keepdims=True))
    sides = np.log(marks.box[drawn, 2:].astype(np.float32))
    near = np.empty((len(drawn), len(drawn)), np.bool_)
    # A side is a whole number of pixels: which ones are within the factor is the same for all
    # marks that are so long.
    close = [_close(side) for side in marks.box[drawn, 2:].T]
    for start in range(0, len(drawn), BLOCK):
        # What is near is so both ways: the earlier ones have been compared with these.
        part, rest = slice(start, start + BLOCK), slice(start, None)
        some = pictures[part] @ pictures[rest].T > SAME_MARK
        for which, row in close:
            some &= row[which[part], rest]
        near[part, rest], near[rest, part] = some, some.T
    middles: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []

    def settle(rows: Rows, left: NDArray[np.bool_]) -> Rows:
        for _ in range(2):
            middle = _unit(pictures[rows].mean(axis=0))
            size = np.median(sides[rows], axis=0)
            alike = left & (pictures @ middle > SAME_MARK)
            alike &= (np.abs(sides - size) <= np.log(SAME_SIDES)).all(axis=1)
            rows = np.flatnonzero(alike)
            if not rows.size:
                break
        middles.append((middle, size))
        return rows

    sets = []
    for rows in _lumps(near, settle, max(2, round(fewest * share / PARTS))):
        if len(drawn) < len(of_kind):
            sets.append(_like(marks, of_kind, *middles[-1]))
        else:
            sets.append(drawn[rows])
    spots = [spot for rows in sets for spot in _spots(marks, rows, fewest)]
    for rows in _at_one_place(marks, sets + spots):
        if np.unique(marks.film[rows]).size >= fewest:
            yield _of_marks(marks, rows)


def _at_one_place(marks: Marks, sets: list[Rows]) -> Iterator[Rows]:
    """Sets of rows; those that are one mark at one place, cut or scaled otherwise, as one set."""
    left = [(rows, _place(marks, rows)) for rows in sets]
    while left:
        rows, place = left.pop(0)
        rest = []
        for other in left:
            if place is None or other[1] is None or not _is_one(place, other[1]):
                rest.append(other)
            else:
                rows = np.union1d(rows, other[0])
        left = rest
        yield rows


_Place = tuple[NDArray[np.float64], NDArray[np.float32]]


def _place(marks: Marks, rows: Rows) -> _Place | None:
    """The box and picture that marks mostly have; None where they are here and there."""
    box = marks.box[rows].astype(np.float64)
    middle = np.median(box, axis=0)
    if np.median(np.abs(box[:, :2] - middle[:2]).max(axis=1)) > PLACE_PIXELS:
        return None
    picture = marks.picture[rows].astype(np.float32)
    return middle, _unit((picture - picture.mean(axis=1, keepdims=True)).mean(axis=0))


def _is_one(a: _Place, b: _Place) -> bool:
    likeness = float(a[1] @ b[1])
    low = np.maximum(a[0][:2], b[0][:2])
    high = np.minimum(a[0][:2] + a[0][2:], b[0][:2] + b[0][2:])
    shared = np.prod(np.maximum(high - low, 0)) / max(np.prod(a[0][2:]), np.prod(b[0][2:]))
    if shared >= PLACE_SHARED:
        return likeness >= PLACE_LIKENESS[0]
    apart = np.abs(a[0][:2] + a[0][2:] / 2 - b[0][:2] - b[0][2:] / 2).max()
    sides = np.abs(np.log(a[0][2:] / b[0][2:])).max()
    close = apart <= PLACE_PIXELS and sides <= np.log(SAME_SIDES)
    return bool(close and likeness >= PLACE_LIKENESS[1])


def _like(marks: Marks, rows: Rows, middle: NDArray[np.float32], size: NDArray[np.float32]) -> Rows:
    """Those of `rows` that are like the middle of a group."""
    sides = np.log(marks.box[rows, 2:].astype(np.float32))
    rows = rows[(np.abs(sides - size) <= np.log(SAME_SIDES)).all(axis=1)]
    pictures = marks.picture[rows].astype(np.float32)
    pictures = _unit(pictures - pictures.mean(axis=1, keepdims=True))
    return rows[pictures @ middle > SAME_MARK]


def _spots(marks: Marks, rows: Rows, fewest: int) -> Iterator[Rows]:
    """Marks of a set that lie at one spot, where those are few of it."""
    some = rows[_drawn(len(rows))]
    at = marks.box[some]
    near = np.ones((len(some), len(some)), np.bool_)
    for corner in at.T:
        near &= np.abs(corner[:, None] - corner) <= SPOT_PIXELS // 2
    least = max(2, round(fewest * len(some) / max(1, len(rows))))
    for spot in _lumps(near, lambda chosen, _: chosen, least):
        if spot.size <= SPOT_SHARE * len(some):
            middle = np.median(at[spot], axis=0)
            yield rows[(np.abs(marks.box[rows] - middle) <= SPOT_PIXELS).all(axis=1)]


def _of_marks(marks: Marks, rows: Rows) -> Group:
    films, first = np.unique(marks.film[rows], return_index=True)
    boxes = marks.box[rows]
    return Group(
        look="mark",
        what=f"the same {_MARK[KINDS[int(marks.kind[rows[0]])].name]} {_place_of(boxes)}",
        films=films.astype(np.int64),
        boxes=boxes[first],
    )


def _ends(ends: Places, side: int, fewest: int) -> Iterator[Group]:
    """Films in which something bright ends at the same places."""
    film, place = ends
    counts = np.bincount(place, minlength=4 * side * side)
    anchors = np.flatnonzero(counts >= fewest)
    anchors = anchors[np.argsort(-counts[anchors], kind="stable")[:ANCHORS]]
    number = np.full(len(counts), -1, np.int64)
    number[anchors] = np.arange(len(anchors))
    kept = number[place] >= 0
    rows, which = film[kept], number[place[kept]]
    has = np.zeros((int(film.max(initial=-1)) + 1, len(anchors)), np.float32)
    has[rows, which] = 1
    together = has.T @ has
    left = np.ones(len(anchors), np.bool_)
    while left.any():
        first = int(left.argmax())
        own = np.diag(together)
        share = together[first] / np.maximum(own[first], own)
        pattern = left & (share >= TOGETHER)
        pattern[first] = True
        left &= ~pattern
        if pattern.sum() < ANCHORS_LEAST:
            continue
        films = np.flatnonzero(has[:, pattern].mean(axis=1) >= PATTERN)
        if films.size >= fewest:
            y, x = np.divmod(anchors[pattern] % (side * side), side)
            box = np.array([[y.min(), x.min(), np.ptp(y) + 1, np.ptp(x) + 1]]) * SIDE // side
            yield Group(
                look="mark",
                what=f"the same bright mark {_place_of(box)}",
                films=films,
                exact=True,
                boxes=np.repeat(box.astype(np.int16), films.size, axis=0),
            )


def _place_of(boxes: NDArray[np.int16]) -> str:
    """Where most of them are, and how large, in words."""
    top, left, height, width = (float(v) / SIDE for v in np.median(boxes, axis=0))
    down, across = top + height / 2, left + width / 2
    where = "upper" if down < 1 / 3 else "lower" if down > 2 / 3 else "middle"
    side = "left" if across < 1 / 3 else "right" if across > 2 / 3 else "middle"
    place = where if side == "middle" else f"{where} {side}"
    return f"at the {place}, {height:.0%} high and {width:.0%} wide"


_MARK = {"letters": "mark", "bright area": "bright mark", "dark area": "dark mark"}


def _frames(frames: NDArray[np.int16], fewest: int) -> Iterator[Group]:
    framed = np.flatnonzero(frames[:, ::2].any(axis=1))
    drawn = framed[_drawn(len(framed))]
    at = frames[drawn]
    within = np.array([FRAME_PIXELS, FRAME_GRAYS] * 4, np.int16)
    near = np.ones((len(drawn), len(drawn)), np.bool_)
    for value, most in zip(at.T, within, strict=True):
        near &= np.abs(value[:, None] - value) <= most
    least = max(2, round(fewest * len(drawn) / max(1, len(framed))))
    for rows in _lumps(near, lambda chosen, _: chosen, least):
        middle = np.median(at[rows], axis=0)
        alike = framed[(np.abs(frames[framed] - middle) <= within).all(axis=1)]
        if alike.size >= fewest:
            sides = ("top", "left", "bottom", "right")
            widths = [
                f"{100 * w / SIDE:.0f} % at the {side}"
                for side, w in zip(sides, middle[::2], strict=True)
                if w
            ]
            yield Group(look="frame", what=f"a frame of {', '.join(widths)}", films=alike)


def _tones(prints: NDArray[np.float32], fewest: int) -> Iterator[Group]:
    drawn = _drawn(len(prints), 0.5)
    some = _unit(prints[drawn] - prints[drawn].mean(axis=0))
    near = some @ some.T > SAME_TONE
    every = _unit(prints - prints[drawn].mean(axis=0))
    middle = np.zeros(prints.shape[1], np.float32)

    def settle(rows: Rows, left: NDArray[np.bool_]) -> Rows:
        nonlocal middle
        for _ in range(2):
            middle = _unit(some[rows].mean(axis=0))
            rows = np.flatnonzero(left & (some @ middle > SAME_AS_MIDDLE))
        return rows

    # Prints of two films are noisier than their middle: half as many neighbours are enough.
    for _ in _lumps(near, settle, max(5, round(fewest * len(drawn) / len(prints) / 2))):
        alike = np.flatnonzero(every @ middle > SAME_AS_MIDDLE)
        if alike.size >= fewest:
            yield Group(look="tone", what="the same curve laid on their gray levels", films=alike)


def _sharpness(values: NDArray[np.float32], fewest: int) -> Iterator[Group]:
    middle = np.median(values, axis=0)
    spread = np.percentile(np.abs(values - middle), 75, axis=0) * 1.4826 + 1e-3
    points = np.ascontiguousarray(((values - middle) / spread).astype(np.float32).T)
    drawn = _drawn(len(values))
    some = points[:, drawn]
    least = max(5, round(fewest * len(drawn) / len(values)))
    found: list[tuple[float, int, float]] = []
    count = np.arange(least, len(drawn) // 2)
    beyond = np.minimum(np.ceil(count * SLACK).astype(np.int64), len(drawn) - 1)
    enough = np.maximum(GAP, 1 + GAP_FEW / np.sqrt(count))
    for centre in range(0, len(drawn), max(1, len(drawn) // 500)):
        far = np.sort(_distances(some, some[:, centre]))
        gap = far[beyond] / np.maximum(far[count - 1], 0.05)
        gap /= enough
        if gap.size and gap[best := int(gap.argmax())] >= 1:
            radius = float(np.sqrt(max(far[count[best] - 1], 0.05) * far[beyond[best]]))
            found.append((float(gap[best]), centre, radius))
    taken = np.zeros(len(values), np.bool_)
    for _, centre, radius in sorted(found, reverse=True):
        alike = np.flatnonzero(_distances(points, some[:, centre]) <= radius)
        if alike.size >= fewest and taken[alike].mean() < 0.5:
            taken[alike] = True
            softer = float(np.median(values[alike, 0])) < middle[0]
            what = f"{'less' if softer else 'more'} fine detail than the others"
            yield Group(look="sharpness", what=what, films=alike)


def _distances(points: NDArray[np.float32], centre: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of points [2, N] from one, float32 [N]: what `hypot` says, in a third of its time."""
    x, y = np.square(points - centre[:, None], dtype=np.float64)
    return np.asarray(np.sqrt(x + y), np.float32)


def _sizes(sizes: NDArray[np.int32], fewest: int) -> Iterator[Group]:
    kinds, which, counts = np.unique(sizes, axis=0, return_inverse=True, return_counts=True)
    for number in np.argsort(-counts, kind="stable"):
        if counts[number] < fewest:
            break
        if counts[number] < len(sizes):
            width, height = kinds[number]
            films = np.flatnonzero(which.reshape(-1) == number)
            yield Group(look="size", what=f"a size of {width} × {height} pixels", films=films)
