"""Labelled films, a whole ResNet18 to begin with, and what takes the training process's place."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import drawn
from tests.support.paths import ROOT
from tests.worker import samples
from tests.worker.training import narrow_child, stand_in_child
from tests.worker.whole import card as card
from tests.worker.whole import model_file as model_file
from worker.training import process


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled folder of a dozen patients."""
    root = tmp_path_factory.mktemp("labelled")
    drawn.write_folder(root, 12)
    return root


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, model_file: Path) -> str:
    """Training processes that are started from now on train nothing; the module that they run."""
    monkeypatch.setattr(process, "CHILD", stand_in_child.__name__)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv(stand_in_child.MODEL, str(model_file))
    return process.CHILD


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training processes that are started from now on are real, and train narrow networks."""
    monkeypatch.setattr(process, "CHILD", narrow_child.__name__)
    for name, value in narrow_child.environment(samples.NARROW).items():
        monkeypatch.setenv(name, value)
