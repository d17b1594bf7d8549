"""models build: what it needs, what it keeps of an engine, and what it says without a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from db.base import database
from db.registry import models
from scheduler import session
from scheduler.commands.models import build
from tests.scheduler.console import only_line, run
from tests.worker import samples
from worker.config import Settings
from worker.engine import EngineChoice, choose, gate
from worker.machine.gpu import find, why_none

needs_none = pytest.mark.skipif(bool(find()), reason="this machine has a GPU")


class Heard:
    """A display that remembers what it was shown."""

    def __init__(self) -> None:
        self.shown: list[tuple[str, str, int, int | None]] = []

    def show(self, title: str, text: str, done: int, total: int | None) -> None:
        self.shown.append((title, text, done, total))

    def draw(self, rows: Any, epochs: int) -> None:
        raise AssertionError("there are no epochs")

    def line(self, line: str) -> None:
        raise AssertionError(line)

    def close(self) -> None:
        pass


@pytest.fixture
def settings() -> Settings:
    return session.settings()


@pytest.fixture
def on_processor(monkeypatch: pytest.MonkeyPatch) -> EngineChoice:
    """The engine that every machine has."""
    monkeypatch.setenv("PNEUMOQ_ENGINE", "onnx")
    choice = choose(session.settings())
    if choice.gpu is not None:
        pytest.skip("ONNX Runtime has a GPU here")
    return choice


@needs_none
def test_without_a_gpu_it_says_what_is_missing_and_keeps_nothing(
    engine: sa.Engine, model_id: int
) -> None:
    for words in ((), ("--precision", "fp32"), ("--json",)):
        result = run("models", "build", model_id, *words)
        assert (result.exit_code, result.stdout) == (2, "")
        line = only_line(result.stderr)
        assert line.startswith("Error: an engine is built on the machine that will use it: ")
        assert why_none() in line
    assert models.detail(engine, model_id)["engines"] == []
    assert not (session.settings().home / "engines").exists()


def test_a_precision_without_a_file_is_refused_before_anything_is_built(
    engine: sa.Engine, model_id: int
) -> None:
    result = run("models", "build", model_id, "--precision", "int8")
    assert result.exit_code == 2
    assert f"model {model_id} has no int8 file; `pneumoq models quantise" in only_line(
        result.stderr
    )


def test_an_engine_is_compared_timed_and_recorded(
    engine: sa.Engine, model_id: int, settings: Settings, on_processor: EngineChoice
) -> None:
    display = Heard()

    told = build._build(settings, engine, model_id, "fp32", on_processor, None, display)

    assert (told["precision"], told["passed"], told["parity_delta"]) == ("fp32", True, 0.0)
    assert told["engine"] == f"OpenVINO {on_processor.version}"
    assert told["films_per_s"] > 0
    (row,) = models.detail(engine, model_id)["engines"]
    assert (row["backend"], row["precision"], row["passed"]) == ("openvino", "fp32", True)
    assert row["options"]["films_per_s"] == told["films_per_s"]
    assert row["options"]["films"] == told["films"] == gate.FILMS
    assert [text for _, text, _, _ in display.shown] == [
        "comparing with the processor",
        "measuring",
    ]
    assert json.loads(run("models", "show", model_id, "--json").stdout)["engines"][0]["passed"]


def test_the_films_to_compare_on_may_be_ones_own(
    engine: sa.Engine, model_id: int, settings: Settings, on_processor: EngineChoice, tmp_path: Path
) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    whole = dict(samples.films(6, seed=6))
    for name, data in whole.items():
        (folder / Path(name).name).write_bytes(data)
    (folder / "notes.txt").write_text("no film")

    films = build._films(folder, models.get(engine, model_id), settings)
    told = build._build(settings, engine, model_id, "fp32", on_processor, films, Heard())

    assert len(films) == len(whole)
    assert 0 < told["films"] <= len(whole)


def test_a_folder_without_films_is_refused(
    engine: sa.Engine, model_id: int, settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("no film")
    with pytest.raises(Exception, match="holds no film that can be read"):
        build._films(tmp_path, models.get(engine, model_id), settings)


def test_an_engine_that_cannot_be_opened_costs_that_precision_only(
    engine: sa.Engine, model_id: int, settings: Settings, on_processor: EngineChoice, tmp_path: Path
) -> None:
    other = tmp_path / "other.onnx"
    samples.write_model(other, ("NORMAL", "PNEUMONIA"), seed=2)
    database.write(
        engine, lambda c: models.add_precisions(c, model_id, {"fp16": other}, [], "tester@here")
    )
    told = build._build(settings, engine, model_id, "fp16", on_processor, None, Heard())
    assert (told["precision"], told["passed"], told["films_per_s"]) == ("fp16", False, None)
    assert "holds the model in fp32" in told["text"]
    assert models.detail(engine, model_id)["engines"] == []
