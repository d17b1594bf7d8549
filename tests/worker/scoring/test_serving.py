"""Serving: what passes the gate once serves from then on, and what does not is replaced or refused.

ONNX Runtime on the processor stands where an engine on a GPU would: it is as foreign to the
reference, and needs no GPU.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import sqlalchemy as sa
from onnx import numpy_helper

from db.base import database as connecting
from db.base.schema import engines
from db.registry import models
from tests.worker.made_up import GPU, ON_GPU
from trainer import card as cards
from worker import config
from worker.config import Settings
from worker.engine import Engine, EngineChoice, choose, open_engine, store
from worker.engine.onnx import OnnxEngine
from worker.errors import EngineError, GpuLost
from worker.scoring import serving


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """SQLite only: the upsert is tested on both with the database."""
    return sqlite_url


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    """A home of its own."""
    return config.load(
        {
            "PNEUMOQ_HOME": str(tmp_path / "home"),
            "PNEUMOQ_DATABASE_URL": database_url,
            "PNEUMOQ_ENGINE_THREADS": "2",
        }
    )


class Opening:
    """What stands in for engines on a GPU: ONNX Runtime, with a file of the test's choice."""

    def __init__(self) -> None:
        self.file: Path | None = None
        self.tried: list[str] = []
        self.error: EngineError | None = None
        self.batch = ON_GPU.batch

    def __call__(self, choice: EngineChoice, path: Path, *, precision: str, **_: Any) -> Engine:
        self.tried.append(choice.backend)
        if choice.gpu is None:
            return open_engine(path, batch=choice.batch, threads=1, precision=precision)
        if self.error is not None:
            raise self.error
        file = self.file or path
        engine = OnnxEngine(
            file, cards.read(path), gpu=None, batch=self.batch, precision=precision, lanes=2
        )
        engine.device = GPU.device
        return engine


@pytest.fixture
def opening(monkeypatch: pytest.MonkeyPatch) -> Opening:
    """Engines on a GPU are opened by this."""
    made = Opening()
    monkeypatch.setattr(serving, "open_on", made)
    return made


@pytest.fixture
def broken(model_file: Path, tmp_path: Path) -> Path:
    """The model with other weights in its first convolution."""
    proto = onnx.load(str(model_file))
    first = next(i for i in proto.graph.initializer if len(i.dims) == 4)
    weights = numpy_helper.to_array(first)
    first.CopyFrom(numpy_helper.from_array(np.float32(1.3) * weights, first.name))
    path = tmp_path / "broken.onnx"
    onnx.save(proto, str(path))
    return path


def rows(database: sa.Engine) -> list[sa.RowMapping]:
    """The engines table, oldest first."""
    with connecting.reading(database) as connection:
        return list(connection.execute(sa.select(engines).order_by(engines.c.id)).mappings())


def test_an_engine_that_agrees_serves_and_its_row_says_so(
    settings: Settings, database: sa.Engine, model_id: int, opening: Opening
) -> None:
    engine = serving.serve(settings, database, model_id, "fp32", ON_GPU, worker_id="w")
    assert (engine.backend, engine.batch, opening.tried) == ("onnxruntime", 16, ["onnxruntime"])
    engine.close()
    (row,) = rows(database)
    assert (row["backend"], row["device"], row["precision"]) == (
        "onnxruntime", "Made up (8.7)", "fp32",
    )  # fmt: skip
    assert (row["passed"], row["worker_id"], row["options"]["films"]) == (True, "w", 96)
    assert 0 < row["parity_delta"] <= 1e-4
    assert row["options"]["batch"] == 16
    assert row["sha256"] == models.file_of(database, model_id)["sha256"]


def test_the_gate_is_passed_once_for_the_same_engine_and_again_for_other_options(
    settings: Settings, database: sa.Engine, model_id: int, opening: Opening
) -> None:
    path = store.fetch(database, settings.home, model_id)

    def text() -> str:
        served = serving.obtain(settings, database, path, "fp32", ON_GPU)
        served.engine.close()
        return served.text

    measured = text()
    with connecting.writing(database) as connection:  # a figure that no comparison comes to
        connection.execute(sa.update(engines).values(parity_delta=0.25))
    assert text().endswith("fp32, on Made up (8.7): parity 0.25 on 96 films")
    opening.batch = 8
    assert text() == measured
    with connecting.writing(database) as connection:
        connection.execute(sa.update(engines).values(parity_delta=0.25, passed=False))
    assert text() == measured
    assert [row["passed"] for row in rows(database)] == [True]


def test_an_engine_that_disagrees_gives_way_to_the_processor_which_says_why(
    settings: Settings, database: sa.Engine, model_id: int, opening: Opening, broken: Path
) -> None:
    opening.file = broken
    path = store.fetch(database, settings.home, model_id)
    served = serving.obtain(settings, database, path, "fp32", ON_GPU)
    assert opening.tried == ["onnxruntime", "openvino"]
    # Films still come in the batches that were cut for a GPU.
    assert (served.engine.backend, served.engine.batch) == ("openvino", 16)
    pixels = np.zeros((16, 1, served.engine.card.size, served.engine.card.size), np.uint8)
    assert len(served.engine.submit(pixels, 16).result().scores) == 16
    assert ": ONNX Runtime: does not agree with the processor: probabilities differ" in served.text
    served.engine.close()
    (row,) = rows(database)
    assert (row["backend"], row["passed"]) == ("onnxruntime", False)
    assert row["parity_delta"] > 1e-4


def test_what_cannot_be_opened_gives_way_too(
    settings: Settings, database: sa.Engine, model_id: int, opening: Opening
) -> None:
    opening.error = EngineError("no such library")
    path = store.fetch(database, settings.home, model_id)
    served = serving.obtain(settings, database, path, "fp32", ON_GPU)
    assert served.text.endswith(": ONNX Runtime: no such library")
    assert rows(database) == []
    served.engine.close()


def test_tensorrt_that_was_asked_for_is_had_or_nothing(
    settings: Settings, database: sa.Engine, model_id: int, opening: Opening, broken: Path
) -> None:
    asked = replace(ON_GPU, backend="tensorrt").asking("tensorrt")
    opening.file = broken
    with pytest.raises(EngineError, match="TensorRT: does not agree with the processor"):
        serving.serve(settings, database, model_id, "fp32", asked)
    opening.error = EngineError("no plan")
    with pytest.raises(EngineError, match=r"^TensorRT: no plan$"):
        serving.serve(settings, database, model_id, "fp32", asked)
    assert opening.tried == ["tensorrt"] * 2


def test_a_lost_gpu_is_no_reason_to_go_on_with_the_processor(
    settings: Settings, database: sa.Engine, model_id: int, opening: Opening
) -> None:
    opening.error = GpuLost("it fell off the bus")
    with pytest.raises(GpuLost):
        serving.serve(settings, database, model_id, "fp32", ON_GPU)
    assert opening.tried == ["onnxruntime"]


def test_the_processors_engine_serves_without_a_gate_and_says_why_it_does(
    settings: Settings, database: sa.Engine, model_id: int
) -> None:
    choice = choose(settings)
    path = store.fetch(database, settings.home, model_id)
    served = serving.obtain(settings, database, path, "fp32", choice)
    served.engine.close()
    assert served.text.startswith(f"OpenVINO {served.engine.backend_version}, fp32, on ")
    assert served.text.endswith(f": {choice.reason}")
    assert served.engine.batch == settings.batch
    assert rows(database) == []
