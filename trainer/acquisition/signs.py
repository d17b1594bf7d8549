"""Signs: what tells a film that was acquired as a group's were, by its pixels `uint8 [S, S]` alone.

A mark is told by its picture, searched for where the group has it (normalised correlation; Lewis,
Fast Normalized Cross-Correlation, 1995), a frame by its lines, a curve by the gray levels that it
leaves out, sharpness by the same ratios as in `measures`. Each is small enough to be computed
beside a network.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from trainer.acquisition import measures

#: Gray levels of noise that are added to what a picture correlates with: nothing is no mark.
NOISE = 4.0

#: Side of the squares of pixels that films are divided into, in which marks are searched: what a
#: film spreads by is taken of whole squares, the same ones for all marks. And what there is beyond
#: the edge of the film.
GRID, MIDDLE = 4, 128

#: Contrast at a frame's inner edge that is enough, in gray levels.
EDGE = 8.0

Films = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A picture that is searched for in a part of the film."""

    #: float32 [h, w], of mean 0 and length 1.
    picture: Floats
    #: Where it may begin: top, left, and how many places there are down and across; multiples of
    #: GRID all of them.
    window: tuple[int, int, int, int]

    @property
    def cells(self) -> tuple[int, int]:
        """Squares of GRID pixels that the picture covers, down and across, wherever it begins."""
        height, width = (-(-(side + GRID - 1) // GRID) for side in self.picture.shape)
        return height, width

    @property
    def part(self) -> tuple[int, int]:
        """Height and width of what it is searched in; beyond the film that is MIDDLE."""
        (_, _, down, across), (height, width) = self.window, self.cells
        return down + GRID * (height - 1), across + GRID * (width - 1)

    def __call__(self, films: Films) -> Floats:
        """The greatest correlation, [N] of films uint8 [N, S, S].

        What the film spreads by is taken for all places in a square of GRID pixels at once, over
        all squares that the picture may touch from there.
        """
        (top, left, _, _), (height, width) = self.window, self.part
        tall, wide = (GRID * cells for cells in self.cells)
        found = np.empty(len(films), np.float32)
        for n, film in enumerate(films):
            part = np.zeros((height, width), np.float32)
            seen = film[top : top + height, left : left + width]
            part[: seen.shape[0], : seen.shape[1]] = seen.astype(np.float32) - MIDDLE
            views = sliding_window_view(part, self.picture.shape)
            down, across = self.window[2:]
            likeness = np.einsum("yxhw,hw->yx", views[:down, :across], self.picture, optimize=True)
            boxes = sliding_window_view(part, (tall, wide))[::GRID, ::GRID]
            boxes = boxes[: down // GRID, : across // GRID]
            spread = np.square(boxes).mean(axis=(2, 3)) - np.square(boxes.mean(axis=(2, 3)))
            length = np.sqrt(self.picture.size * (np.maximum(spread, 0) + NOISE**2))
            found[n] = (likeness / np.repeat(np.repeat(length, GRID, 0), GRID, 1)).max()
        return found


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Lines of one gray around a film."""

    #: float32 [S, S]: the gray that is expected.
    gray: Floats
    #: float32 [S, S] of sum 1 each: pixels of the frame, and of what lies just within it.
    outside: Floats
    inside: Floats

    def __call__(self, films: Films) -> Floats:
        """Contrast at the inner edge, EDGE at most, less twice the mean deviation of the frame."""
        off = np.abs(films.astype(np.float32) - self.gray).reshape(len(films), -1)
        edge = np.minimum(off @ self.inside.ravel(), EDGE)
        return np.asarray(edge - 2 * (off @ self.outside.ravel()))


@dataclass(frozen=True, kw_only=True)
class Tone:
    """Gray levels that films of a group have more often than their neighbours, or less."""

    #: float32 [256]: by how much more than other films have.
    table: Floats

    def __call__(self, films: Films) -> Floats:
        """Mean of the table's values over the film."""
        return np.stack([self.table[film].mean() for film in films]).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Sharpness:
    """A loss of fine detail: a place in the plane of `measures.sharpness`."""

    centre: Floats
    #: 1 / spread of all films.
    gain: Floats

    def __call__(self, films: Films) -> Floats:
        """The distance from the centre, less than 0."""
        away = (measures.sharpness(films) - self.centre) * self.gain
        return np.asarray(-np.sqrt(np.square(away).sum(axis=1)), np.float32)


Sign = Mark | Frame | Tone | Sharpness
