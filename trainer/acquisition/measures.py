"""Measures of how a film was made: its frame, its gray levels and its sharpness."""

from __future__ import annotations

from itertools import chain

import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: Lines at a film's edge are a frame while they differ by no more than this many gray levels.
FRAME_LEVELS = 4

#: A frame is looked for to this share of the side, and its lines are looked at without their ends.
FRAME_DEPTH, FRAME_ENDS = 0.18, 0.1

#: Of films up to this side sharpness is measured in the whole.
WHOLE = 96

#: Pixels whose sharpness is measured at once: they stay in a processor's cache.
AT_ONCE = 1 << 18

#: Gray levels that are left out at either end of `tone`: black and white are often clipped.
TONE_ENDS = 2


def frames(films: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Frames of films uint8 [N, S, S]: int16 [N, 8], width and gray at top, left, bottom, right.

    Widths are in pixels; without a frame both are 0.
    """
    side = films.shape[1]
    depth, ends = round(side * FRAME_DEPTH), round(side * FRAME_ENDS)
    found = np.zeros((len(films), 8), np.int16)
    turned = (
        films,
        films.transpose(0, 2, 1),
        films[:, ::-1],
        films[:, :, ::-1].transpose(0, 2, 1),
    )
    for number, lines in enumerate(turned):
        lines = lines[:, :depth, ends : side - ends]
        # Most films have none: their first line differs already.
        framed = np.flatnonzero(np.ptp(lines[:, 0], axis=1) <= FRAME_LEVELS)
        lines = lines[framed]
        darkest, brightest = lines.min(axis=2).astype(np.int16), lines.max(axis=2).astype(np.int16)
        gray = (darkest + brightest) // 2
        ends_here = brightest - darkest > FRAME_LEVELS
        ends_here |= np.abs(gray - gray[:, :1]) > FRAME_LEVELS
        width = np.where(ends_here.any(axis=1), ends_here.argmax(axis=1), depth)
        found[framed, 2 * number] = width
        found[framed, 2 * number + 1] = gray[:, 0]
    return found


def looked_at(side: int) -> tuple[int, int]:
    """Side of the middle in which sharpness is measured, and where it begins."""
    middle = side // 8 * (4 if side > WHOLE else 8)
    return middle, (side - middle) // 2


def sharpness(films: NDArray[np.uint8]) -> NDArray[np.float32]:
    """How much finer detail falls behind coarser one: float32 [N, 2], of films uint8 [N, S, S].

    Logarithms of the ratio of mean Haar coefficients of the first and the second level: diagonal
    ones, and the others. Of large films in the middle half, where the anatomy is.
    """
    side, start = looked_at(films.shape[1])
    middle = films[:, start : start + side, start : start + side]
    some = max(1, AT_ONCE // side**2)
    both = [_two_levels(middle[n : n + some]) for n in range(0, len(films), some)]
    (diagonal, other), (diagonal_2, other_2) = np.concatenate(both, axis=2)
    # A quarter of a gray level stands for none.
    return np.stack(
        [
            np.log((diagonal + 0.25) / (diagonal_2 / 4 + 0.25)),
            np.log((other + 0.5) / (other_2 / 4 + 0.5)),
        ],
        axis=1,
    ).astype(np.float32)


def _two_levels(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean Haar coefficients of uint8 [N, S, S]: of either level diagonal ones and the others;
    float64 [2, 2, N]."""
    # Two pixels of a row are read as one number: those on the left, and those on the right.
    pairs = pixels.view(np.uint16)
    left, right = (pairs & 255).view(np.int16), (pairs >> 8).view(np.int16)
    found = []
    for _ in range(2):
        # The greatest sum is 16 pixels: it fits.
        sums, differ = left + right, left - right
        (top, bottom), (upper, lower) = ((rows[:, ::2], rows[:, 1::2]) for rows in (sums, differ))
        other = _mean_size(top - bottom) + _mean_size(upper + lower)
        found.append((_mean_size(upper - lower), other))
        level = top + bottom
        left, right = level[:, :, ::2], level[:, :, 1::2]
    return np.array(found)


def _mean_size(values: NDArray[np.int16]) -> NDArray[np.float64]:
    """Mean absolute values of int16 [N, H, W], float64 [N]."""
    sizes = np.abs(values, out=values).reshape(len(values), -1)
    sums = sizes.sum(axis=1, dtype=np.int32)
    return np.asarray(sums / values[0].size)


#: Values of `tone` for a film.
TONES = 256 - 4


def tone(gray: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Which gray levels films have more of than their neighbours: float32 [N, 252], of length ≤ 1.

    A curve that was laid on eight-bit gray leaves out some levels and gives others twice, the same
    ones in each film. `gray` is uint8 [N, H, W].
    """
    size = gray.shape[2], gray.shape[1]
    images = (Image.frombuffer("L", size, film, "raw", "L", 0, 1) for film in gray)
    levels = chain.from_iterable(image.histogram() for image in images)
    counts = np.fromiter(levels, np.float32, 256 * len(gray)).reshape(-1, 256)
    near = (counts[:, :-4] + counts[:, 1:-3] + counts[:, 3:-1] + counts[:, 4:]) / 4
    middle = counts[:, 2:-2]
    found = (middle - near) / (middle + near + gray[0].size / 1250)
    found[:, :TONE_ENDS] = found[:, -TONE_ENDS:] = 0
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    return np.asarray(found / np.maximum(lengths, 1e-6), dtype=np.float32)
