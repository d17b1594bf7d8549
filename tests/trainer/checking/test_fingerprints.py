"""What a model learns of its training films' looks, from the pixels that its network gets."""

from __future__ import annotations

import numpy as np
import pytest

from tests.trainer.acquisition import plants
from trainer.acquisition.fingerprint import LIMIT
from trainer.checking import fingerprints
from trainer.data.cache import Pixels
from trainer.data.dataset import Dataset
from trainer.data.labelled import TRAIN, VAL, Film
from trainer.errors import Stopped
from trainer.shift import units

ALL, SIDE, STAMPED = 300, 64, 40

Made = tuple[Dataset, Pixels]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Films of which the first sick ones are lettered; none of them is where it was."""
    planes = plants.films(ALL, SIDE)
    labels = np.arange(ALL) // (ALL // 2)
    stamped = np.flatnonzero(labels)[:STAMPED]
    planes[stamped] = plants.lettered(planes[stamped])
    films = tuple(
        Film(
            path=f"{number:03}.png", label=int(label), patient=f"p{number}",
            sha256=f"{number:064x}", split=VAL if number % 10 == 9 else TRAIN,
        )
        for number, label in enumerate(labels)
    )  # fmt: skip
    data = Dataset(
        root=tmp_path_factory.mktemp("gone") / "films",
        labels=("NORMAL", "PNEUMONIA"),
        positive="PNEUMONIA",
        films=films,
    )
    row = {film.sha256: number for number, film in enumerate(films)}
    return data, Pixels(planes=planes, row=row, size=SIDE, rule="")


def test_films_that_are_gone_by_the_end_of_a_training_are_not_missed(made: Made) -> None:
    data, pixels = made
    assert not data.root.exists()
    learned, (group,) = fingerprints.learn(data, pixels, fingerprints.find(data, pixels))
    assert group.label == "PNEUMONIA"
    assert group.films["PNEUMONIA"] >= 0.8 * 0.9 * STAMPED
    strangers = plants.films(60, SIDE, seed=1)
    assert (learned(plants.lettered(strangers)) >= LIMIT).mean() >= 0.7
    assert (learned(strangers) >= LIMIT).mean() <= 0.03


def test_the_shift_report_dresses_films_as_the_groups_that_the_fingerprint_was_learned_from(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, pixels = made
    found = fingerprints.find(data, pixels)
    # What is found there is not looked for again.
    monkeypatch.setattr(units.groups, "find", None)
    at_hand = (*found.films, *data.of(VAL))
    films = units.Films(
        planes=pixels.planes,
        rows=pixels.rows(at_hand),
        labels=np.array([film.label for film in at_hand]),
        patients=[film.patient for film in at_hand],
        held_out=np.arange(len(at_hand)) >= len(found.films),
        names=data.labels,
        positive=1,
    )
    (unit,) = units.find(films, found.searched.looks, named=found.searched.named)
    (named,) = found.searched.named
    assert np.array_equal(unit.films, named.group.films)
    assert not films.held_out[unit.donors].any()
    assert all(len(boxes) for boxes in unit.boxes)


def test_a_stop_is_heard_while_films_are_looked_at(made: Made) -> None:
    with pytest.raises(Stopped):
        fingerprints.find(*made, stop=lambda: True)
