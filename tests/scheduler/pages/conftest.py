"""A browser for the pages, started once, and a model that can be run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.support.browser import Browser, browser
from tests.worker import samples


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """A headless Chromium."""
    with browser() as started:
        yield started


@pytest.fixture
def model_id(engine: sa.Engine, tmp_path: Path) -> int:
    """A registered model of random weights."""
    path = tmp_path / "real.onnx"
    samples.write_model(path, ("NORMAL", "PNEUMONIA"), seed=1, threshold=0.4)
    return samples.register(engine, path)
