"""The model of the folders whose tests need a whole ResNet18, not one of an eighth of its width.

A conftest takes both: what a folder above made of its own for the whole run stays of its own.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.worker import samples
from trainer import card as cards
from trainer.card import Card


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet18's model file of two classes at 64 pixels; nobody may change it."""
    path = tmp_path_factory.mktemp("model") / "whole.onnx"
    samples.write_model(path, ("NORMAL", "PNEUMONIA"), seed=1, width=samples.WIDE)
    return path


@pytest.fixture(scope="session")
def card(model_file: Path) -> Card:
    """The card inside `model_file`."""
    return cards.read(model_file)
