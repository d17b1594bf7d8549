"""Loading: what the worker's row says while an engine is being built, and what ends that."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.worker.made_up import ON_GPU
from trainer.errors import Stopped
from worker import config
from worker.engine import Engine, EngineChoice
from worker.scoring import serving
from worker.scoring.engine_thread import Model
from worker.scoring.loading import Loader


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """SQLite only: the file of a model is read from it, no more."""
    return sqlite_url


def test_a_build_ends_with_its_worker_and_is_its_status_meanwhile(
    database: sa.Engine,
    model_id: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = config.load({"PNEUMOQ_HOME": str(tmp_path)})
    stop, statuses = threading.Event(), list[str]()

    def build(choice: EngineChoice, path: Path, *, report: Any, **_: Any) -> Engine:
        report("Tactics 3/9", 300, 1000)
        stop.set()
        report("Tactics 4/9", 400, 1000)
        raise AssertionError("it went on")

    monkeypatch.setattr(serving, "open_on", build)
    loader = Loader(settings, database, "w", ON_GPU, stop, statuses.append)
    model = Model(model_id, "fp32")
    with pytest.raises(Stopped):
        loader.load(loader.locate(model), model)
    assert statuses == [f"model {model_id} in fp32: Tactics 3/9, 30 % done"]
