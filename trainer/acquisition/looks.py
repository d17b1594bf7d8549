"""Looks: what is kept of each film to tell how it was acquired; about 2 KiB."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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


def of(
    films: NDArray[np.uint8],
    films_64: NDArray[np.uint8],
    tone: NDArray[np.float16],
    sizes: NDArray[np.int32],
    *,
    small: bool,
) -> Looks:
    """Looks of films, uint8 [N, SIDE, SIDE], and the same ones uint8 [N, SMALL, SMALL].

    `small` is whether most films of the folder are smaller than SMALL_FILMS.

    `tone` are `measures.tone` of their gray before it was brought to a size. Quickest for some 16
    films, which stay in a processor's cache.
    """
    return Looks(
        marks=marks.find(films),
        small=small,
        ends=marks.steps(films_64) if small else marks.white_ends(films),
        frames=measures.frames(films),
        sharpness=np.stack([measures.sharpness(films), measures.sharpness(films_64)], axis=1),
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
