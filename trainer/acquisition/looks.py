"""Looks: what is kept of each film to tell how it was acquired; about 2 KiB."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer.acquisition import marks, measures
from trainer.acquisition.marks import Marks, Places

#: Side at which sharpness is measured besides SIDE: films may be smaller than that.
SMALL = 64

#: Films with sides of less than this are small, in pixels.
SMALL_FILMS = 112


@dataclass(frozen=True)
class Looks:
    """What is kept of N films."""

    marks: Marks
    #: Whether the films are small: their letters are not white, and `ends` are at SMALL.
    small: bool
    #: `marks.white_ends` at SIDE, or `marks.steps` at SMALL.
    ends: Places
    #: int16 [N, 8], `measures.frames`.
    frames: NDArray[np.int16]
    #: float32 [N, 2, 2], `measures.sharpness` at SIDE and at SMALL.
    sharpness: NDArray[np.float32]
    #: float16 [N, 252], `measures.tone`.
    tone: NDArray[np.float16]
    #: int32 [N, 2], width and height as stored.
    sizes: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.frames)


@dataclass(frozen=True)
class Sides:
    """N films at the sides at which they are looked at, uint8 each."""

    #: [N, SIDE, SIDE], their `marks.halved`, and [N, SMALL, SMALL].
    large: NDArray[np.uint8]
    halves: NDArray[np.uint8]
    small: NDArray[np.uint8]


def sides(films: NDArray[np.uint8]) -> Sides:
    """Films uint8 [N, S, S] at all sides; best of all SIDE or SMALL."""
    large = _scaled(films, marks.SIDE)
    halves = marks.halved(large)
    return Sides(
        large, halves, _scaled(films if films.shape[1] < len(halves[0]) else halves, SMALL)
    )


def _scaled(films: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Films brought to another side as Pillow brings each of them to it, bilinear."""
    if films.shape[1] == side:
        return films
    n, own, _ = films.shape
    # First all rows, one below the other, then all columns, side by side: two calls for all films.
    narrow = _resized(films.reshape(n * own, own), (side, n * own)).reshape(n, own, side)
    beside = np.ascontiguousarray(narrow.transpose(1, 0, 2)).reshape(own, n * side)
    low = _resized(beside, (n * side, side)).reshape(side, n, side)
    return np.ascontiguousarray(low.transpose(1, 0, 2))


def _resized(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))


def of(at: Sides, tone: NDArray[np.float16], sizes: NDArray[np.int32], *, small: bool) -> Looks:
    """Looks of films.

    `small` is whether most films of the folder are smaller than SMALL_FILMS. `tone` are
    `measures.tone` of their gray before it was brought to a size. Some 64 films at once spread the
    cost of each step.
    """
    sharpness = [measures.sharpness(films) for films in (at.large, at.small)]
    return Looks(
        marks=marks.find(at.large, at.halves),
        small=small,
        ends=marks.steps(at.small) if small else marks.white_ends(at.large),
        frames=measures.frames(at.large),
        sharpness=np.stack(sharpness, axis=1),
        tone=tone,
        sizes=sizes,
    )


def joined(some: Sequence[Looks]) -> Looks:
    """Looks of some films after those of others."""
    return Looks(
        marks=marks.joined([one.marks for one in some], list(map(len, some))),
        small=some[0].small,
        ends=_numbered(some),
        frames=np.concatenate([one.frames for one in some]),
        sharpness=np.concatenate([one.sharpness for one in some]),
        tone=np.concatenate([one.tone for one in some]),
        sizes=np.concatenate([one.sizes for one in some]),
    )


def _numbered(some: Sequence[Looks]) -> Places:
    before = np.cumsum([0, *map(len, some)])
    film = [one.ends[0] + np.int32(n) for one, n in zip(some, before, strict=False)]
    return np.concatenate(film), np.concatenate([one.ends[1] for one in some])
