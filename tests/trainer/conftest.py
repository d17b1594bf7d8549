"""One folder of labelled films and one run on them, which several tests look at."""

from __future__ import annotations

import dataclasses

import pytest

from tests.trainer import samples
from trainer.data import dataset
from trainer.learning import loop


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> dataset.Dataset:
    """96 films of 48 patients, a quarter of them held out."""
    root = tmp_path_factory.mktemp("labelled")
    samples.fill(root, patients=24)
    return dataset.read(root, val_fraction=0.25)


@pytest.fixture(scope="session")
def trained(data: dataset.Dataset, tmp_path_factory: pytest.TempPathFactory) -> loop.Trained:
    """A run of some epochs; nobody may change it."""
    options = dataclasses.replace(samples.OPTIONS, epochs=6)
    return loop.train(options, data, tmp_path_factory.mktemp("run"))
