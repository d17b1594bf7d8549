"""The command line on a GPU: engines built ahead of time, one film, and a job through the queue."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from db.base import database
from db.queue import jobs
from db.registry import engines, models
from scheduler import session
from tests.gpu import agreement
from tests.scheduler.console import run
from tests.worker import samples
from worker.engine import plans
from worker.machine.gpu import Gpu


@pytest.fixture
def engine() -> Iterator[sa.Engine]:
    """The database that the commands of a test will find."""
    engine = session.database()
    yield engine
    engine.dispose()


@pytest.fixture
def model(tensorrt: str, engine: sa.Engine, model_files: dict[str, Path]) -> int:
    """A registered model with a file in each precision."""
    fp32 = model_files["fp32"]
    model_id = samples.register(engine, fp32)
    more = {name: file for name, file in model_files.items() if name != "fp32"}
    database.write(engine, lambda c: models.add_precisions(c, model_id, more, [], "tester@here"))
    return model_id


def _json(*words: str | int | Path) -> Any:
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_engines_are_built_ahead_of_time_and_pass_their_gate(
    engine: sa.Engine, model: int, gpu: Gpu, tensorrt: str
) -> None:
    made = {one["precision"]: one for one in _json("models", "build", model)}

    assert set(made) == {"fp32", "fp16", "int8"}
    for precision, one in made.items():
        assert one["passed"], one["text"]
        assert one["device"] == gpu.device
        assert one["parity_delta"] <= agreement.DELTA.get(precision, 1.0)
        assert one["films_per_s"] > 0
    rows = models.detail(engine, model)["engines"]
    assert {row["backend"] for row in rows} <= {"tensorrt", "tensorrt_rtx"}
    assert engines.best_precision(engine, model, "tensorrt") == "int8"

    before = {entry.key: entry.built_at for entry in plans.ls(session.settings().home)}
    assert len(before) == 3
    _json("models", "build", model)
    assert {e.key: e.built_at for e in plans.ls(session.settings().home)} == before
    assert len(models.detail(engine, model)["engines"]) == 3


def test_one_film_has_the_probability_that_the_processor_gives_it(
    model: int, tmp_path: Path
) -> None:
    name, data = samples.films(1, seed=4)[0]
    film = tmp_path / Path(name).name
    film.write_bytes(data)
    found = {
        asked: _json("classify", film, "--precision", "fp32", "--engine", asked)["probability"]
        for asked in ("tensorrt", "onnx")
    }
    assert abs(found["tensorrt"] - found["onnx"]) <= agreement.DELTA["fp32"]


@pytest.mark.timeout(1800)
def test_a_job_that_asks_for_tensorrt_is_scored_by_it_and_agrees_with_the_processor(
    engine: sa.Engine, model: int, tmp_path: Path
) -> None:
    archive = tmp_path / "films.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for name, data in samples.films(40, seed=5):
            packed.writestr(name, data)
    found: dict[str, dict[str, float]] = {}
    for asked in ("tensorrt", "onnx"):
        job = _json(
            "score", archive, "--model", model, "--precision", "fp32", "--engine", asked,
            "--force", "--local",
        )["job_id"]  # fmt: skip
        assert jobs.get(engine, job)["engine"] == asked
        with database.reading(engine) as connection:
            rows = connection.execute(
                sa.text("SELECT name, probability FROM v_predictions WHERE job_id = :job"),
                {"job": job},
            ).all()
            computed = connection.execute(
                sa.text(
                    "SELECT DISTINCT w.engine FROM workers w JOIN shards s ON s.worker_id = w.id "
                    "WHERE s.job_id = :job"
                ),
                {"job": job},
            ).scalars()
            assert all(("TensorRT" in text) == (asked == "tensorrt") for text in computed)
        found[asked] = {row.name: row.probability for row in rows}
    assert found["tensorrt"].keys() == found["onnx"].keys() != set()
    for name, probability in found["tensorrt"].items():
        assert abs(probability - found["onnx"][name]) <= agreement.DELTA["fp32"], name
