"""A training that begins from a model, and what that has learned."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from db.base.database import write
from db.nightly import nights
from db.registry import models
from tests.db import given
from tests.db.nightly.test_nights import Site
from tests.worker.training.test_attempt import Trainer
from tests.worker.training.test_attempt import database_url as database_url
from tests.worker.training.test_attempt import settings as settings
from tests.worker.training.test_attempt import trainer as trainer
from trainer.data.learned import Learned
from worker.training import start


@pytest.fixture
def site(database: sa.Engine, tmp_path: Path) -> Site:
    """A database without models, and a schedule."""
    return Site(database, tmp_path)


@pytest.fixture
def attempt(tmp_path: Path) -> Path:
    """The folder of an attempt."""
    folder = tmp_path / "attempt-2"
    folder.mkdir()
    return folder


def told(site: Site, number: int | None, attempt: Path, earlier: Path | None = None) -> Learned:
    """What a training process is told that its start has learned."""
    path = start.write(site.database, number, attempt, earlier)
    return Learned() if path is None else Learned.read(path)


def test_what_the_start_and_those_before_it_learned_is_told_also_of_a_schedules_own_models(
    site: Site, attempt: Path
) -> None:
    first = site.model("a", schedule_id=site.schedule_id)
    second = site.model("b", parent=first, schedule_id=site.schedule_id)
    site.freeze()
    found = told(site, second, attempt)
    assert found == Learned(films=frozenset({"atrain", "btrain"}), patients=frozenset("ab"))
    assert told(site, None, attempt) == Learned()


def test_of_a_start_from_an_imported_model_it_is_told_that_not_all_is_known(
    site: Site, attempt: Path, tmp_path: Path
) -> None:
    imported = write(
        site.database, lambda c: models.register(c, given.model(tmp_path, "imported"), "w")
    )
    assert told(site, imported, attempt) == Learned(complete=False)
    trained = site.model("a", parent=imported)
    found = told(site, trained, attempt)
    assert (found.films, found.complete) == ({"atrain"}, False)


def test_an_attempt_that_goes_on_is_told_what_the_earlier_one_was(
    site: Site, attempt: Path, tmp_path: Path
) -> None:
    number = site.model("a")
    earlier = tmp_path / "attempt-1"
    earlier.mkdir()
    assert told(site, number, attempt, earlier) == Learned(), "that was of an older release"
    was = told(site, number, earlier)
    assert was.films
    assert told(site, None, attempt, earlier) == was
    assert told(site, None, tmp_path, attempt) == was, "and so is the next"


def test_a_warm_start_by_another_seed_is_judged_by_patients_whom_no_model_learned(
    trainer: Trainer, labelled: Path
) -> None:
    trainer.submit(labelled, name="first")
    trainer.submit(labelled, name="second", seed=1, warm_start=1)
    trainer.submit(labelled, name="third", seed=1, warm_start=1, val_fraction=0.5)
    trainer.work()
    first, second, third = (models.get(trainer.engine, number) for number in (1, 2, 3))

    def patients(row: sa.RowMapping, split: str) -> set[str]:
        films = nights.films(trainer.engine, row["dataset_id"])
        return {film.patient for film in films if film.split == split}

    learned = patients(first, "train")
    assert first["card"]["basis"].startswith("cross-fitted over patients")
    assert not patients(second, "val") & learned
    assert second["card"]["basis"].startswith("cross-fitted over patients")

    assert patients(third, "val") & learned
    held_out = [
        film for film in nights.films(trainer.engine, third["dataset_id"]) if film.split == "val"
    ]
    n = sum(film.patient in learned for film in held_out)
    said = f"{n} of {len(held_out)} held-out films were learned by the model that this one began"
    assert third["card"]["basis"].startswith(said)
    assert third["card"]["provenance"]["notes"][-1].startswith(said)
    assert any(note.startswith(said) for note in trainer.notes(3))
    (evaluation,) = models.detail(trainer.engine, 3)["evaluations"]
    assert evaluation["metrics"]["basis"].startswith(said)
