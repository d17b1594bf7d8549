"""Engines run a whole ResNet18 here: what they make of its numbers is what is tested."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.worker import samples
from trainer.card import Card


@pytest.fixture(scope="session")
def written_model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Card]:
    """A ResNet18's model file of two classes at 64 pixels, and its card."""
    path = tmp_path_factory.mktemp("model") / "small.onnx"
    labels = ("NORMAL", "PNEUMONIA")
    return path, samples.write_model(path, labels, seed=1, width=samples.WIDE)
