"""Fingerprint: how much a film looks acquired like groups of the training films, by its pixels as a
network gets them, `uint8 [S, S]`, and nothing else.

Groups are found by `groups`; here each is told by one of `signs`. How good a sign is, and from
where on a film has it, is learned on films whose patients it was not learned from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from trainer.acquisition import measures
from trainer.acquisition.signs import (
    GRID,
    MIDDLE,
    NOISE,
    Films,
    Floats,
    Frame,
    Mark,
    Sharpness,
    Sign,
    Tone,
)

#: Films that a sign is learned from, and other films that it is compared on, at most.
FILMS, OTHERS = 400, 1500

#: Films that are held at once.
AT_ONCE = 64

#: A gray level's share below which it says little.
RARE = 1e-4

#: Pixels of SIDE around a mark that belong to its picture, and the side that these are counted in.
MARGIN, OF_SIDE = 4, 224

#: Rounds in which a mark's pictures are laid over each other, and by how many pixels of SIDE each
#: may be shifted in one.
ROUNDS, SHIFT = 4, 3

#: Share of a group's places that is left out at either end of where its mark is searched: the first
#: that leaves few enough.
STRAY = (0.03, 0.06, 0.1, 0.15, 0.2)

#: Places of OF_SIDE where a mark is searched, at most: of one that is anywhere, the middle ones.
PLACES = 2000

#: Share of other films that may be marked, by all signs together.
FALSE = 0.02

#: Share of a group's films that are marked at least; what has no sign that good is left out. No
#: limit is lower than what KEPT of them reach.
LEAST, KEPT = 0.5, 0.95

#: What `Fingerprint` says of a film at the limit: from there on it looks like the group.
LIMIT = 0.5

Pair = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Alike:
    """Training films that look acquired alike and are (nearly) of one class."""

    #: `mark`, `frame`, `tone`, `sharpness` or `size`.
    look: str
    #: Which of the films.
    rows: NDArray[np.int64]
    #: Of marks: top, left, height and width as shares of the side, float [n, 4].
    boxes: NDArray[np.float64] | None = None

    def of(self, which: NDArray[np.int64]) -> Alike:
        """Some of them."""
        boxes = None if self.boxes is None else self.boxes[which]
        return Alike(look=self.look, rows=self.rows[which], boxes=boxes)


@dataclass(frozen=True, kw_only=True)
class Part:
    """A group's sign."""

    sign: Sign
    #: From here on a film looks like the group.
    limit: float
    #: By what differences from the limit are multiplied.
    gain: float
    #: Share of the group's films, and of other films, of patients that it was not learned from.
    found: float
    false: float


@dataclass(frozen=True)
class Fingerprint:
    """1 / (1 + exp(-gain · (sign - limit))) for each of G groups."""

    parts: tuple[Part, ...]

    def __call__(self, films: Films) -> Floats:
        """float32 [N, G] of films uint8 [N, S, S]; from LIMIT on a film looks like the group."""
        logits = [p.gain * (p.sign(films) - p.limit) for p in self.parts]
        beyond = np.clip(np.stack(logits, axis=1), -80, 80)
        return np.asarray(1 / (1 + np.exp(-beyond)), np.float32)


def fit(
    planes: NDArray[np.uint8],
    rows: NDArray[np.int64],
    groups: Sequence[Alike],
    patients: Sequence[str],
    seed: int = 0,
) -> list[Part | None]:
    """A sign for each group of the films at `rows` of uint8 [planes, S, S]; None where none is good
    enough.

    `patients` are of these films. A film may be in several groups.
    """
    rng = np.random.default_rng(seed)
    _, who = np.unique(np.asarray(patients), return_inverse=True)
    half = rng.permutation(int(who.max(initial=-1)) + 1)[who] % 2 == 0
    grouped = np.zeros(len(rows), np.bool_)
    for group in groups:
        grouped[group.rows] = True
    others = np.sort(rng.permutation(np.flatnonzero(~grouped))[:OTHERS])
    if not len(others):
        return [None] * len(groups)
    films = _Rows(planes, rows)
    tried = [_tried(films, group, others, half, rng) for group in groups]
    parts: list[Part | None] = []
    left = sum(one is not None for one in tried)
    # What is left out leaves its share of false marks to the others.
    while left:
        parts = [None if one is None else one.part(FALSE / left) for one in tried]
        tried = [one if part else None for one, part in zip(tried, parts, strict=True)]
        if sum(part is not None for part in parts) == left:
            return parts
        left = sum(part is not None for part in parts)
    return [None] * len(groups)


@dataclass(frozen=True)
class _Rows:
    """Films that are read some at a time: all of them might not fit into a small machine."""

    planes: NDArray[np.uint8]
    rows: NDArray[np.int64]

    def __getitem__(self, which: NDArray[np.int64]) -> Films:
        return np.asarray(self.planes[self.rows[which]])

    def said(self, of: Callable[[Films], NDArray[Any]], which: NDArray[np.int64]) -> NDArray[Any]:
        """What `of` says of films, [n, …]."""
        starts = range(0, len(which), AT_ONCE)
        return np.concatenate([of(self[which[start : start + AT_ONCE]]) for start in starts])


@dataclass(frozen=True)
class _Tried:
    """A sign, and what signs of other patients say of the group's films and of others."""

    sign: Sign
    good: NDArray[np.float64]
    bad: NDArray[np.float64]

    def part(self, false: float) -> Part | None:
        """With a limit that such a share of other films reaches; None where it is not enough."""
        limit = float(np.quantile(self.bad, 1 - false, method="higher")) + 1e-6
        low, middle = np.quantile(self.good, [1 - KEPT, 0.5])
        # Between the two where they are apart.
        limit = max(limit, (limit + float(low)) / 2)
        found = float((self.good >= limit).mean())
        if found < LEAST:
            return None
        return Part(
            sign=self.sign,
            limit=limit,
            gain=4 / max(float(middle) - limit, 1e-3),
            found=found,
            false=float((self.bad >= limit).mean()),
        )


def _tried(
    films: _Rows,
    group: Alike,
    others: NDArray[np.int64],
    half: NDArray[np.bool_],
    rng: np.random.Generator,
) -> _Tried | None:
    learn = _LEARN.get(group.look)
    if learn is None:
        return None
    chosen = np.sort(rng.permutation(len(group.rows))[:FILMS])
    group = group.of(chosen)
    theirs, strange = [], []
    for side in (half, ~half):
        learned_from = side[group.rows]
        part, rest = group.of(np.flatnonzero(learned_from)), group.rows[~learned_from]
        near, far = others[side[others]], others[~side[others]]
        if not min(part.rows.size, rest.size, near.size, far.size):
            return None
        sign = learn(films, part, near)
        if sign is None:
            return None
        theirs.append(films.said(sign, rest))
        strange.append(films.said(sign, far))
    sign = learn(films, group, others)
    if sign is None:
        return None
    return _Tried(sign, np.concatenate(theirs), np.concatenate(strange))


def _best(film: NDArray[np.uint8], picture: Floats, low: Pair, high: Pair) -> Pair:
    """Where a picture correlates best with a film, from `low` to `high`: row and column, [2]."""
    (top, left), (bottom, right) = low, high + picture.shape
    part = film[top:bottom, left:right].astype(np.float32) - MIDDLE
    views = sliding_window_view(part, picture.shape)
    likeness = np.einsum("yxhw,hw->yx", views, picture, optimize=True)
    likeness = likeness / np.sqrt(views.var(axis=(2, 3)) + NOISE**2)
    return np.asarray(low + np.unravel_index(int(likeness.argmax()), likeness.shape))


def _mark(films: _Rows, group: Alike, others: NDArray[np.int64]) -> Mark | None:
    """The mean of a mark's pictures, laid over each other better and better."""
    del others
    if group.boxes is None or not len(group.rows):
        return None
    side = films.planes.shape[1]
    margin, shift = MARGIN * side / OF_SIDE, max(1, round(SHIFT * side / OF_SIDE))
    boxes = group.boxes * side
    height, width = (
        int(min(side, max(3, np.ceil(np.median(boxes[:, 2 + axis]) + 2 * margin))))
        for axis in (0, 1)
    )
    most = np.array([side - height, side - width])
    middle = boxes[:, :2] + boxes[:, 2:] / 2
    at = np.clip(np.rint(middle - np.array([height, width]) / 2).astype(np.int64), 0, most)
    some = films[group.rows]
    picture = _mean(some, at, height, width)
    for _ in range(ROUNDS):
        at = np.stack(
            [
                _best(film, picture, np.maximum(place - shift, 0), np.minimum(place + shift, most))
                for film, place in zip(some, at, strict=True)
            ]
        )
        picture = _mean(some, at, height, width)
    for stray in STRAY:
        low, high = np.quantile(at, [stray, 1 - stray], axis=0, method="nearest")
        # Windows begin where a square does.
        low = np.maximum(low - shift, 0) // GRID * GRID
        high = np.minimum(high + shift, most)
        down, across = (int(-(-(n + 1) // GRID) * GRID) for n in high - low)
        if down * across <= PLACES * (side / OF_SIDE) ** 2 or min(down, across) == GRID:
            return Mark(picture=picture, window=(int(low[0]), int(low[1]), down, across))
    return None


def _mean(films: Films, at: NDArray[np.int64], height: int, width: int) -> Floats:
    """Mean of the pictures that begin at places, each of mean 0 and, but for noise, length 1."""
    pictures = np.stack(
        [
            film[y : y + height, x : x + width].astype(np.float64)
            for film, (y, x) in zip(films, at, strict=True)
        ]
    ).reshape(len(films), -1)
    pictures -= pictures.mean(axis=1, keepdims=True)
    lengths = np.sqrt(np.square(pictures).sum(axis=1) + pictures.shape[1] * NOISE**2)
    mean = (pictures / lengths[:, None]).mean(axis=0)
    mean = mean / max(float(np.linalg.norm(mean)), 1e-6)
    return np.asarray(mean.reshape(height, width), np.float32)


def _frame(films: _Rows, group: Alike, others: NDArray[np.int64]) -> Frame | None:
    del others
    side = films.planes.shape[1]
    top, top_gray, left, left_gray, bottom, bottom_gray, right, right_gray = (
        float(v) for v in np.median(films.said(measures.frames, group.rows), axis=0)
    )
    if not any((top, left, bottom, right)):
        return None
    y, x = np.mgrid[:side, :side]
    gray = np.zeros((side, side), np.float32)
    outside = np.zeros((side, side), np.bool_)
    inside = np.zeros((side, side), np.bool_)
    for width, level, depth in (
        (top, top_gray, y),
        (left, left_gray, x),
        (bottom, bottom_gray, side - 1 - y),
        (right, right_gray, side - 1 - x),
    ):
        if not width:
            continue
        outside |= depth < width
        inside |= (depth >= width) & (depth < width + 2)
        gray[depth < width + 2] = level
    inside &= ~outside
    if not inside.any():
        return None
    return Frame(gray=gray, outside=_share(outside), inside=_share(inside))


def _share(mask: NDArray[np.bool_]) -> Floats:
    return np.asarray(mask / mask.sum(), np.float32)


def _tone(films: _Rows, group: Alike, others: NDArray[np.int64]) -> Tone | None:
    theirs, rest = (films.said(_levels, rows).mean(axis=0) for rows in (group.rows, others))
    return Tone(table=np.asarray(_teeth(theirs) - _teeth(rest), np.float32))


def _teeth(levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """By how much levels have more than their neighbours, -1 to 1, [256]: what is bright or dark in
    films is no sign of how they were made."""
    near = (levels[:-4] + levels[1:-3] + levels[3:-1] + levels[4:]) / 4
    middle = levels[2:-2]
    found = np.zeros_like(levels)
    found[2:-2] = (middle - near) / (middle + near + RARE)
    found[:4] = found[-4:] = 0  # black and white are often clipped
    return found


def _levels(films: Films) -> NDArray[np.float64]:
    """Share of pixels of each gray level, [N, 256]."""
    counts = np.stack([np.bincount(film.reshape(-1), minlength=256) for film in films])
    return np.asarray(counts / films[0].size)


def _sharpness(films: _Rows, group: Alike, others: NDArray[np.int64]) -> Sharpness | None:
    theirs, rest = (films.said(measures.sharpness, rows) for rows in (group.rows, others))
    spread = np.percentile(np.abs(rest - np.median(rest, axis=0)), 75, axis=0) * 1.4826 + 1e-3
    return Sharpness(
        centre=np.median(theirs, axis=0).astype(np.float32),
        gain=np.asarray(1 / spread, np.float32),
    )


_LEARN: dict[str, Callable[[_Rows, Alike, NDArray[np.int64]], Sign | None]] = {
    "mark": _mark,
    "frame": _frame,
    "tone": _tone,
    "sharpness": _sharpness,
}
