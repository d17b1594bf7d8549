"""What is measured of films quickly is what it is said to be."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from tests.support.acquired import Films, scaled
from tests.trainer.acquisition import plants
from trainer.acquisition import looks, marks, measures, runs


def opened(film: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """A film's opening by a square: the brightest of the darkest pixels of all squares, or of what
    a square covers of the film, that a pixel lies in."""
    around = np.pad(film, side - 1, constant_values=255)
    darkest = sliding_window_view(around, (side, side)).min(axis=(2, 3))
    return np.asarray(sliding_window_view(darkest, (side, side)).max(axis=(2, 3)))


@pytest.mark.parametrize(("side", "doublings"), [(224, 3), (112, 4)])
def test_the_top_hat_is_what_an_opening_takes_away(side: int, doublings: int) -> None:
    some = plants.lettered(plants.films(11, side))  # no multiple of what is computed at once
    hats, bits = marks._hats(some, doublings)
    film, all_rows = np.arange(len(some)), np.tile(np.arange(-2, side + 2), (len(some), 1))
    found = hats.at(film, all_rows, all_rows).reshape(len(some), side + 4, side + 4)
    expected = np.stack([film - opened(film, 2**doublings) for film in some])
    assert np.array_equal(found, np.pad(expected, ((0, 0), (2, 2), (2, 2))))
    near = marks._near_edges(expected > marks.CONTRAST, side)
    number, row, column = np.nonzero(near)
    assert np.array_equal(runs.places(bits), (number * hats.wide + row) * hats.wide + column)
    assert number.size


def test_films_at_half_their_side_are_means_of_four_pixels() -> None:
    some = plants.films(9, 224)
    four = some.reshape(9, 112, 2, 112, 2).astype(np.int64).sum(axis=(2, 4))
    assert np.array_equal(marks.halved(some), (four + 2) // 4)


@pytest.mark.parametrize(("own", "side"), [(112, 64), (224, 64), (100, 224), (64, 64)])
def test_films_are_brought_to_another_side_as_each_by_itself(own: int, side: int) -> None:
    some = plants.films(5, own)
    assert np.array_equal(looks._scaled(some, side), scaled(some, side))


@pytest.mark.parametrize("side", [64, 224])
def test_sharpness_is_of_mean_haar_coefficients_of_two_levels(side: int) -> None:
    def logs(film: NDArray[np.int64]) -> tuple[float, float]:
        diagonal, other = [], []
        for _ in range(2):
            a, b, c, d = film[::2, ::2], film[::2, 1::2], film[1::2, ::2], film[1::2, 1::2]
            diagonal.append(np.abs(a + d - b - c).mean())
            other.append(np.abs(a + b - c - d).mean() + np.abs(a + c - b - d).mean())
            film = a + b + c + d
        return (
            np.log((diagonal[0] + 0.25) / (diagonal[1] / 4 + 0.25)),
            np.log((other[0] + 0.5) / (other[1] / 4 + 0.5)),
        )

    some = plants.films(40, side)
    middle, start = measures.looked_at(side)
    part = some[:, start : start + middle, start : start + middle].astype(np.int64)
    expected = np.array([logs(film) for film in part], dtype=np.float32)
    assert np.array_equal(measures.sharpness(some), expected)


def test_gray_levels_are_counted_of_each_film() -> None:
    some: Films = plants.films(7, 64)
    one_by_one = np.concatenate([measures.tone(film[None]) for film in some])
    assert np.array_equal(measures.tone(some), one_by_one)
    counts = np.bincount(some[0].reshape(-1), minlength=256).astype(np.float32)
    near = (counts[:-4] + counts[1:-3] + counts[3:-1] + counts[4:]) / 4
    teeth = (counts[2:-2] - near) / (counts[2:-2] + near + 64 * 64 / 1250)
    teeth[:2] = teeth[-2:] = 0
    assert np.allclose(one_by_one[0], teeth / np.linalg.norm(teeth), atol=1e-6)
