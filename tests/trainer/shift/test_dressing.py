"""What becomes of films that are dressed as others look."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.acquired import scaled
from tests.trainer.acquisition import plants
from trainer.acquisition import marks, measures
from trainer.shift import dressing

SIDE = 64


@pytest.fixture(scope="module")
def films() -> np.ndarray:
    return plants.films(6, SIDE, seed=1)


@pytest.fixture(scope="module")
def donors() -> np.ndarray:
    return plants.films(6, SIDE, seed=2)


def detail(some: np.ndarray) -> np.ndarray:
    """How strong the finest detail is beside the next, in logarithms; float [N]."""
    return measures.sharpness(some)[:, 0]


def test_a_toned_film_has_the_histogram_of_its_donor(films: np.ndarray, donors: np.ndarray) -> None:
    toned = dressing.toned(films, plants.toned(donors, 0.5))
    for film, donor in zip(toned, plants.toned(donors, 0.5), strict=True):
        middle = np.s_[10:54, 10:54]
        found, wanted = (np.sort(one[middle].reshape(-1)) for one in (film, donor))
        assert np.abs(found.astype(int) - wanted).mean() < 2


def test_toning_keeps_the_order_of_gray_levels(films: np.ndarray, donors: np.ndarray) -> None:
    for film, toned in zip(films, dressing.toned(films, donors), strict=True):
        order = np.argsort(film.reshape(-1), kind="stable")
        assert (np.diff(toned.reshape(-1)[order].astype(int)) >= 0).all()


@pytest.mark.parametrize("way", ["softer", "sharper"])
def test_a_film_gets_the_sharpness_of_its_donor(
    films: np.ndarray, donors: np.ndarray, way: str
) -> None:
    soft = plants.blurred(donors if way == "softer" else films, 1.5)
    own, theirs = (films, soft) if way == "softer" else (soft, donors)
    made = dressing.sharpened(own, theirs)
    before = np.abs(detail(own) - detail(theirs)).mean()
    assert np.abs(detail(made) - detail(theirs)).mean() < before / 2


def test_what_was_burned_into_the_donor_is_copied_and_nothing_else(films: np.ndarray) -> None:
    large = scaled(films, marks.SIDE)
    lettered = plants.lettered(plants.films(6, marks.SIDE, seed=2) // 2, "R")
    found = marks.find(lettered)
    boxes = [found.box[found.film == n] for n in range(6)]
    none = np.zeros((6, 8), np.int16)
    made = dressing.marked(large, lettered, boxes, none)
    for film, before, donor, places in zip(made, large, lettered, boxes, strict=True):
        inside = np.zeros(film.shape, np.bool_)
        for top, left, height, width in places:
            inside[top - 1 : top + height + 1, left - 1 : left + width + 1] = True
        assert places.size
        assert np.array_equal(film[~inside], before[~inside])
        white = donor == 255
        assert (film[white & inside] >= 250).all()
        assert (white & inside).sum() >= 0.9 * white.sum()


def test_a_mark_is_copied_to_its_place_at_any_size(films: np.ndarray) -> None:
    covered = plants.covered(plants.films(6, SIDE, seed=2) // 2)
    box = np.array([[11, 112, 11, 37]], np.int16)  # as `marks.find` gives it at SIDE
    made = dressing.marked(films, covered, [box] * 6, np.zeros((6, 8), np.int16))
    white = (covered == 255).all(axis=0)
    assert (made[:, white] == 255).mean() > 0.9
    assert np.array_equal(made[:, 20:], films[:, 20:])


def test_a_frame_is_copied(films: np.ndarray, donors: np.ndarray) -> None:
    framed = plants.framed(donors)
    frames = measures.frames(scaled(framed, marks.SIDE))
    made = dressing.marked(films, framed, [np.zeros((0, 4), np.int16)] * 6, frames)
    for edge in (made[:, :2], made[:, -2:], made[:, :, :2], made[:, :, -2:]):
        assert (edge == 128).all()
    assert np.array_equal(made[:, 4:-4, 4:-4], films[:, 4:-4, 4:-4])


def test_a_film_dressed_as_itself_stays_as_it_is(films: np.ndarray) -> None:
    frames = measures.frames(scaled(films, marks.SIDE))
    found = marks.find(scaled(films, marks.SIDE))
    boxes = [found.box[found.film == n] for n in range(6)]
    made = dressing.as_unit(films, films, boxes, frames)
    # A gray that only lies outside the middle becomes the next one that does not.
    assert np.abs(made.astype(int) - films).mean() < 0.05
    assert np.abs(dressing.spectrum(films, films).astype(int) - films).max() <= 1


def test_a_spectrum_is_the_donors_in_its_low_amplitudes_and_the_films_own_in_all_else() -> None:
    rng = np.random.default_rng(0)
    # Gray, so that nothing is cut off at black or white.
    own, theirs = (plants.films(4, SIDE, seed=n) // 4 + 96 for n in rng.integers(99, size=2))
    made = dressing.spectrum(own, theirs)
    a, b, c = (np.fft.rfft2(some.astype(np.float64)) for some in (own, theirs, made))
    reach = round(dressing.SPECTRUM * SIDE)
    low = np.s_[:, : reach + 1, : reach + 1]
    assert (np.abs(np.abs(c[low]) - np.abs(b[low])) < 0.03 * np.abs(b[low]) + 100).all()
    high = np.s_[:, reach + 2 : SIDE // 2, reach + 2 :]
    # Gray levels are whole numbers.
    assert np.abs(c[high] - a[high]).mean() < SIDE / 2
