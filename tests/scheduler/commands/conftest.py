"""A model that can be run, for the commands that run one."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.worker import samples


@pytest.fixture(scope="session")
def real_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model file of random weights; nobody may change it."""
    path = tmp_path_factory.mktemp("model") / "real.onnx"
    samples.write_model(path, ("NORMAL", "PNEUMONIA"), seed=1, threshold=0.4)
    return path


@pytest.fixture
def model_id(engine: sa.Engine, real_model: Path) -> int:
    """That model, registered."""
    return samples.register(engine, real_model)
