"""The precision to score in is the fastest that passed on the engine that is to compute it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from db.base.database import write
from db.registry import engines, models
from db.registry.models import NewModel
from tests.db import given


def _register(database: sa.Engine, new: NewModel) -> int:
    return write(database, lambda c: models.register(c, new, "kim@ward"))


def _tried(precision: str, passed: bool = True, **values: Any) -> dict[str, Any]:
    """What became of an engine in a precision."""
    return {
        "precision": precision, "backend": "openvino", "backend_version": "2026.1", "device": "CPU",
        "options": {"films": 400}, "parity_delta": 0.001, "passed": passed, **values,
    }  # fmt: skip


def _with_all_files(database: sa.Engine, folder: Path, tried: list[dict[str, Any]]) -> int:
    files = dict(given.model(folder, "full").files)
    for precision in ("fp16", "int8"):
        files[precision] = folder / f"{precision}.onnx"
        files[precision].write_text(precision)
    return _register(database, given.model(folder, "full", files=files, engines=tried))


_ENGINE = ("tensorrt", "10.3.0", "NVIDIA Orin (8.7)", "fp16")


def _passed(database: sa.Engine, sha256: str, *engine: str) -> sa.RowMapping | None:
    return engines.passed(database, sha256, *(engine or _ENGINE))


@pytest.mark.parametrize(
    ("tried", "best"),
    [
        ([], "fp32"),
        ([_tried("fp32")], "fp32"),
        ([_tried("bf16")], "bf16"),
        ([_tried("bf16", passed=False)], "fp32"),
        ([_tried("bf16"), _tried("int8")], "int8"),
        ([_tried("bf16"), _tried("int8", passed=False)], "bf16"),
        ([_tried("int8", backend="tensorrt")], "fp32"),
        # A file that failed is not kept, nor is what was measured of it.
        ([_tried("fp16")], "fp32"),
    ],
)
def test_the_best_precision_is_the_fastest_that_passed(
    database: sa.Engine, tmp_path: Path, tried: list[dict[str, Any]], best: str
) -> None:
    base = given.model(tmp_path, "full")
    small = tmp_path / "small.onnx"
    small.write_bytes(b"in eight bits")
    files = {**base.files, "int8": small}
    model_id = _register(database, given.model(tmp_path, "full", files=files, engines=tried))
    assert engines.best_precision(database, model_id) == best


@pytest.mark.parametrize(
    ("tried", "best"),
    [
        ([], "fp32"),
        ([_tried("bf16")], "fp32"),  # its file is the fp32 one, which TensorRT computes in fp32
        ([_tried("fp16")], "fp16"),
        ([_tried("fp16"), _tried("int8")], "int8"),
        ([_tried("int8", passed=False), _tried("fp16")], "fp16"),
        ([_tried("int8"), _tried("int8", backend="tensorrt", passed=False)], "fp32"),
        ([_tried("int8", passed=False), _tried("int8", backend="tensorrt_rtx")], "int8"),
        (
            [
                _tried("fp16", backend="tensorrt", passed=False),
                _tried("fp16", backend="tensorrt", backend_version="11.0"),
            ],
            "fp16",
        ),
    ],
)
def test_on_tensorrt_the_best_precision_is_another(
    database: sa.Engine, tmp_path: Path, tried: list[dict[str, Any]], best: str
) -> None:
    model_id = _with_all_files(database, tmp_path, tried)

    assert engines.best_precision(database, model_id, "tensorrt") == best


@pytest.mark.parametrize(
    ("tried", "best"),
    [
        ([_tried("bf16"), _tried("fp16")], "fp32"),
        ([_tried("bf16"), _tried("int8")], "int8"),
        ([_tried("int8"), _tried("int8", backend="tensorrt", passed=False)], "fp32"),
        ([_tried("int8", passed=False), _tried("int8", backend="tensorrt")], "fp32"),
    ],
)
def test_where_either_may_score_the_best_precision_is_fast_and_passed_on_both(
    database: sa.Engine, tmp_path: Path, tried: list[dict[str, Any]], best: str
) -> None:
    model_id = _with_all_files(database, tmp_path, tried)

    assert engines.best_precision(database, model_id, "either") == best


def test_an_engine_that_passed_is_known_by_all_that_it_is(database: sa.Engine) -> None:
    sha256 = models.file_of(database, 1)["sha256"]
    row = dict(zip((*engines.KEY,), _ENGINE, strict=True))
    figures = {"options": {"max_batch": 64}, "parity_delta": 0.0004, "worker_id": "w"}

    write(database, lambda c: engines.record(c, sha256, {**row, **figures, "passed": True}))

    found = _passed(database, sha256)
    assert found is not None
    assert {key: found[key] for key in figures} == figures
    assert found["created_at"] is not None
    for n in range(len(_ENGINE)):
        other = [*_ENGINE]
        other[n] = "int8"
        assert _passed(database, sha256, *other) is None
    assert _passed(database, "0" * 64) is None


def test_an_engine_that_is_tried_again_has_one_row_that_says_how_it_did_last(
    database: sa.Engine,
) -> None:
    sha256 = models.file_of(database, 1)["sha256"]
    row = {**dict(zip(engines.KEY, _ENGINE, strict=True)), "options": {}}

    def record(**values: Any) -> None:
        write(database, lambda c: engines.record(c, sha256, {**row, **values}))

    record(passed=True, parity_delta=0.001, worker_id="first")
    record(passed=False)

    assert _passed(database, sha256) is None
    (kept,) = models.detail(database, 1)["engines"]
    assert (kept["passed"], kept["parity_delta"], kept["worker_id"]) == (False, None, None)
    record(passed=True)
    assert _passed(database, sha256) is not None


def test_workers_that_record_the_same_engine_at_once_leave_one_row(database: sa.Engine) -> None:
    sha256 = models.file_of(database, 1)["sha256"]
    row = {**dict(zip(engines.KEY, _ENGINE, strict=True)), "options": {}, "passed": True}

    def record(name: str) -> Callable[[], None]:
        return lambda: write(
            database, lambda c: engines.record(c, sha256, {**row, "worker_id": name})
        )

    assert given.together(*[record(f"w{n}") for n in range(8)]) == [None] * 8
    assert len(models.detail(database, 1)["engines"]) == 1
