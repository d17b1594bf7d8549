"""One folder of labelled films and one run on them, which several tests look at."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import pytest

from tests.support import once
from tests.trainer import samples
from trainer.card import Card
from trainer.data import dataset
from trainer.learning import loop
from trainer.modelfile import export


@pytest.fixture(scope="session")
def data() -> dataset.Dataset:
    """96 films of 48 patients, a quarter of them held out."""
    root = once.made("labelled-of-trainer", lambda root: samples.fill(root, patients=24))
    return dataset.read(root, val_fraction=0.25)


@pytest.fixture(scope="session")
def trained(data: dataset.Dataset, tmp_path_factory: pytest.TempPathFactory) -> loop.Trained:
    """A run of some epochs; nobody may change it."""
    options = dataclasses.replace(samples.OPTIONS, epochs=6)
    finished = once.made("run-of-trainer", lambda folder: loop.train(options, data, folder))
    # What is finished is read, not trained again.
    folder = tmp_path_factory.mktemp("runs") / "run"
    shutil.copytree(finished, folder, copy_function=os.link)
    return loop.train(options, data, folder)


@pytest.fixture(scope="session")
def exported(trained: loop.Trained) -> tuple[Path, Card]:
    """Its model file, and the card as `export` returned it; nobody may change them."""

    def make(folder: Path) -> None:
        folder.mkdir()
        (folder / "card.json").write_text(export.export(trained, folder / "model.onnx").to_json())

    folder = once.made("exported-of-trainer", make)
    return folder / "model.onnx", Card.from_json((folder / "card.json").read_text())
