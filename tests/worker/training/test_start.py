"""A training that begins from a model, and what that has learned."""

from __future__ import annotations

import dataclasses
import hashlib
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
from worker.training.start import Start


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
    path = start.write(site.database, Start(model=number), attempt, earlier)
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


def of(site: Site, **spec: object) -> Start:
    """What a job of this spec begins from."""
    return start.of(site.database, spec, 10.0)


def test_a_file_of_a_model_here_is_that_model_in_any_precision(site: Site, tmp_path: Path) -> None:
    files = {name: tmp_path / f"any {name}.onnx" for name in ("fp32", "int8")}
    for name, file in files.items():
        file.write_text(name * (1 << 20))
    new = given.model(tmp_path, "first")
    number = write(
        site.database,
        lambda c: models.register(c, dataclasses.replace(new, files=files, engines=()), "w"),
    )
    copy = tmp_path / "copy.pth"
    copy.write_bytes(files["fp32"].read_bytes())
    for file in (*files.values(), copy):
        assert of(site, init=str(file)) == Start(model=number)
    # Beside a model that is named the other means nothing.
    assert of(site, init=str(copy), warm_start=7) == Start(model=7)


def test_of_a_file_of_no_model_here_it_is_told_that_nothing_is_known(
    site: Site, tmp_path: Path, attempt: Path
) -> None:
    file = tmp_path / "weights.pth"
    file.write_bytes(b"w")
    for path in (file, tmp_path / "gone.onnx", tmp_path):
        assert of(site, init=str(path)) == Start(from_elsewhere=True)
    for words in ("imagenet", "scratch"):
        assert of(site, init=words) == of(site) == of(site, warm_start=True) == Start()
    path = start.write(site.database, of(site, init=str(file)), attempt, None)
    assert path is not None
    assert Learned.read(path) == Learned(complete=False)


def test_torchvision_s_file_of_imagenet_weights_has_learned_no_film(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.models import ResNet18_Weights

    assert ResNet18_Weights.IMAGENET1K_V1.url.endswith(f"-{start.IMAGENET}.pth")
    file = tmp_path / "brought here by hand.pth"
    file.write_bytes(b"w")
    monkeypatch.setattr(start, "IMAGENET", hashlib.sha256(b"w").hexdigest()[:8])
    assert of(site, init=str(file)) == Start()


def test_a_training_from_a_model_s_file_has_that_model_for_its_parent(
    trainer: Trainer, labelled: Path, model_id: int, model_file: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "exported.onnx"
    copy.write_bytes(model_file.read_bytes())
    job_id = trainer.submit(labelled, init=str(copy))
    trainer.work()
    job = trainer.job(job_id)
    assert job["state"] == "completed", job["reason"]
    made = models.get(trainer.engine, job["model_id"])
    assert made["parent_id"] == model_id
    # It was imported.
    assert made["card"]["basis"].startswith("it is not known here what the weights ")


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
