"""Labelled films, and the stand-in for the training process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import drawn
from tests.support.paths import ROOT
from tests.worker import samples
from tests.worker.training import stand_in_child
from trainer.card import Card
from worker.training import process


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled folder of a dozen patients."""
    root = tmp_path_factory.mktemp("labelled")
    drawn.write_folder(root, 12)
    return root


@pytest.fixture(scope="session")
def written_model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Card]:
    """A whole ResNet18 of two classes at 64 pixels, which training begins with, and its card."""
    path = tmp_path_factory.mktemp("model") / "small.onnx"
    labels = ("NORMAL", "PNEUMONIA")
    return path, samples.write_model(path, labels, seed=1, width=samples.WIDE)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, model_file: Path) -> str:
    """Training processes that are started from now on train nothing; the module that they run."""
    monkeypatch.setattr(process, "CHILD", stand_in_child.__name__)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv(stand_in_child.MODEL, str(model_file))
    return process.CHILD
