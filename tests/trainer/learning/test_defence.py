"""What training films count and lose where a group of them is of one class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.trainer.acquisition import plants
from trainer.data import cache, dataset, decoding
from trainer.film import rules
from trainer.learning import defence
from trainer.learning.defence import Defence

#: Films of each class, and those of the sick that are stamped.
FILMS, STAMPED, SIDE = 150, 30, 224


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dataset.Dataset:
    folder = tmp_path_factory.mktemp("films")
    for seed, label in enumerate(("NORMAL", "PNEUMONIA")):
        films = plants.films(FILMS, SIDE, seed)
        if label == "PNEUMONIA":
            films[:STAMPED] = plants.lettered(films[:STAMPED])
        (folder / label).mkdir()
        for number, film in enumerate(films):
            Image.fromarray(film).save(folder / label / f"{label}{number:04}_1.png")
    return dataset.read(folder, seed=0)


@pytest.fixture(scope="module")
def pixels(data: dataset.Dataset, tmp_path_factory: pytest.TempPathFactory) -> cache.Pixels:
    found = cache.decode(
        data,
        tmp_path_factory.mktemp("cache"),
        size=SIDE,
        rule=rules.DEFAULT_RULE,
        decoder=decoding.threads(2),
    )
    return found[1]


@pytest.fixture(scope="module")
def defended(data: dataset.Dataset, pixels: cache.Pixels) -> Defence:
    return defence.prepare(data, pixels, 0)


def is_stamped(film: dataset.Film) -> bool:
    return "PNEUMONIA" in film.path and int(Path(film.path).stem[-6:-2]) < STAMPED


def test_films_of_a_group_of_one_class_are_known_and_count_less(
    data: dataset.Dataset, defended: Defence
) -> None:
    train = data.of(dataset.TRAIN)
    stamped = np.array([is_stamped(film) for film in train])
    assert np.array_equal(defended.known.numpy(), stamped)
    counts, labels = defended.counts.numpy(), np.array([film.label for film in train])
    sick = labels == data.positive_index
    assert np.allclose(counts[~sick], 1)
    assert np.ptp(counts[sick & ~stamped]) < 1e-6
    ratio = counts[stamped].mean() / counts[sick & ~stamped].mean()
    assert ratio == pytest.approx(defence.LEAST, abs=0.01)


def test_a_class_counts_as_much_as_before(data: dataset.Dataset, defended: Defence) -> None:
    labels = np.array([film.label for film in data.of(dataset.TRAIN)])
    for label in (0, 1):
        assert defended.counts.numpy()[labels == label].mean() == pytest.approx(1, abs=1e-5)


def test_what_their_marks_cover_is_where_the_stamp_is(
    data: dataset.Dataset, pixels: cache.Pixels, defended: Defence
) -> None:
    train = data.of(dataset.TRAIN)
    planes = pixels.planes[pixels.rows(train)]
    for film, plane, boxes in zip(train, planes, defended.boxes, strict=True):
        if not is_stamped(film):
            assert not boxes
            continue
        white = plane > 250
        for top, left, high, wide in boxes:
            white[max(0, top - 1) : top + high + 1, max(0, left - 1) : left + wide + 1] = False
        assert boxes
        assert white.sum() <= 3


def test_without_a_group_of_one_class_nothing_is_known() -> None:
    found = defence.none(5)
    assert not found.known.any()
    assert found.counts.tolist() == [1] * 5
    assert not any(found.boxes)
    assert not found.dressed()


def test_held_out_films_of_the_other_class_are_dressed_once_as_the_group_and_all_in_a_counter_shift(
    data: dataset.Dataset, pixels: cache.Pixels, defended: Defence
) -> None:
    val = data.of(dataset.VAL)
    healthy = [n for n, film in enumerate(val) if film.label != data.positive_index]
    (places, planes), (every, _) = defended.dressed()
    assert places.tolist() == healthy
    assert every.tolist() == list(range(len(val)))
    plain = pixels.planes[pixels.rows([val[n] for n in healthy])]
    # Each of them got the stamp, which is white where the films are not.
    assert ((planes > 250).sum((1, 2)) > (plain > 250).sum((1, 2)) + 30).all()
