"""A night whose training begins from the champion, with real training."""

from __future__ import annotations

import pytest

from db.nightly import nights as kept
from db.registry import models
from tests.worker.training.test_night import Nights
from tests.worker.training.test_night import first as first
from tests.worker.training.test_night import first_site as first_site
from tests.worker.training.test_nights_running import asked_for, by_hand

#: In one process, as the others that train.
pytestmark = pytest.mark.xdist_group("nights")


def test_a_night_that_begins_from_the_champion_says_how_many_held_out_films_it_knows(
    first: Nights,
) -> None:
    nights = first
    asked_for(nights, warm_start=True, val_fraction=0.6, epochs=1)
    run = by_hand(nights)

    def patients(number: int, split: str) -> list[str]:
        data = kept.dataset_of_model(nights.engine, number)
        assert data is not None
        return [film.patient for film in kept.films(nights.engine, data) if film.split == split]

    learned, held_out = set(patients(1, "train")), patients(2, "val")
    # All that the champion did not learn, and then some.
    assert set(patients(1, "val")) < set(held_out)
    n = sum(patient in learned for patient in held_out)
    said = (
        f"{n} of {len(held_out)} held-out films were learned by the model that this one began from"
    )
    assert f"of the new model's validation: {said}" in run["reason"]
    assert models.get(nights.engine, 2)["card"]["basis"].startswith(said)
    (told,) = nights.told(run)
    assert said in told["text"]
