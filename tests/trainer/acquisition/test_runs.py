"""Runs and parts of masks, as looking at each pixel finds them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from trainer.acquisition import runs

Mask = NDArray[np.bool_]


def packed(mask: Mask) -> runs.Bits:
    bits = runs.empty(mask.size)
    half = len(mask) // 2
    runs.pack(bits, 0, mask[:half])
    runs.pack(bits, half * mask[0].size, mask[half:])
    return bits


def parts(mask: Mask) -> list[tuple[int, ...]]:
    """Film, top, left, height and width of each part."""
    film, box = runs.parts(*runs.ends(packed(mask)), mask.shape[1])
    return [(int(f), *map(int, b)) for f, b in zip(film, box, strict=True)]


def random(share: float, seed: int) -> Mask:
    """Masks bool [4, 40, 40] with empty rows and columns at their ends."""
    mask = np.random.default_rng(seed).random((4, 40, 40)) < share
    mask[:, -3:] = False
    mask[:, :, -3:] = False
    return mask


def flooded(mask: Mask) -> list[tuple[int, ...]]:
    """Parts by going from pixel to pixel: to the next three of a row, and to those of the rows
    above and below that are at most two columns away."""
    steps = [(0, x) for x in (-3, -2, -1, 1, 2, 3)]
    steps += [(y, x) for y in (-1, 1) for x in range(-2, 3)]
    left, found = {tuple(map(int, at)) for at in np.argwhere(mask)}, []
    for start in sorted(left):
        if start not in left:
            continue
        part, wait = [], [start]
        left.discard(start)
        while wait:
            film, y, x = wait.pop()
            part.append((y, x))
            beside = [(film, y + down, x + across) for down, across in steps]
            wait += [at for at in beside if at in left]
            left.difference_update(beside)
        (top, first), (bottom, last) = np.min(part, axis=0), np.max(part, axis=0)
        found.append((start[0], *map(int, (top, first, bottom + 1 - top, last + 1 - first))))
    return found


def test_parts_of_a_mask_are_found_with_their_boxes() -> None:
    mask = np.zeros((2, 16, 16), np.bool_)
    mask[0, 1:3, 1:4] = True
    mask[0, 3, 4] = True  # touches at a corner
    mask[0, 8, 2] = mask[0, 8, 5] = True  # two others between them
    mask[1, 11, 0] = True
    mask[1, 0, 11] = True
    assert parts(mask) == [(0, 1, 1, 3, 4), (0, 8, 2, 1, 4), (1, 0, 11, 1, 1), (1, 11, 0, 1, 1)]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.05, 0.2, 0.6, 1.0])
def test_parts_are_those_that_going_from_pixel_to_pixel_finds(share: float) -> None:
    for seed in range(8):
        mask = random(share, seed)
        assert parts(mask) == flooded(mask)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 1.0])
def test_places_are_those_of_all_pixels_that_are_set(share: float) -> None:
    mask = random(share, seed=1)
    assert np.array_equal(runs.places(packed(mask)), np.flatnonzero(mask))
