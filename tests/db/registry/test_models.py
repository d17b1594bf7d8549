"""Models keep their files bit for bit, and one of them is the champion."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from db.base.database import reading, write
from db.base.errors import Conflict, NotFound
from db.base.schema import aliases as alias_table
from db.base.schema import model_chunks
from db.base.schema import models as models_table
from db.registry import aliases, engines, models
from db.registry.models import NewModel
from tests.db import given


def _register(database: sa.Engine, new: NewModel) -> int:
    return write(database, lambda c: models.register(c, new, "kim@ward"))


def _champion(database: sa.Engine) -> int:
    return int(aliases.resolve(database, aliases.CHAMPION)["id"])


def _history(database: sa.Engine, model_id: int) -> list[tuple[str, str]]:
    rows = models.detail(database, model_id)["events"]
    return [(row["event"], row["detail"]) for row in rows]


def test_the_first_model_becomes_the_champion(database: sa.Engine) -> None:
    assert _champion(database) == 1
    assert _history(database, 1) == [
        ("registered", "imported as first"),
        ("promoted", "to champion: the first model there is"),
    ]


def test_the_second_model_does_not(database: sa.Engine, tmp_path: Path) -> None:
    second = _register(database, given.model(tmp_path, "second"))

    assert _champion(database) == 1
    assert _history(database, second) == [("registered", "imported as second")]


def test_of_two_first_models_one_becomes_the_champion(database: sa.Engine, tmp_path: Path) -> None:
    write(database, lambda c: c.execute(sa.delete(alias_table)))
    first, second = (given.model(tmp_path, f"twin {n}") for n in range(2))

    later = given.meanwhile(
        database,
        lambda c: models.register(c, first, "kim@ward"),
        lambda: _register(database, second),
    )

    assert aliases.resolve(database, "twin 1")["id"] == later
    assert aliases.resolve(database, aliases.CHAMPION)["name"] == "twin 0"


def test_a_name_that_is_taken_is_refused(database: sa.Engine, tmp_path: Path) -> None:
    with pytest.raises(Conflict, match="model 1 is named 'first' already; choose another name"):
        _register(database, given.model(tmp_path, "first", b"other bytes"))

    assert given.count(database, models_table) == 1


def test_a_file_that_is_registered_already_is_refused(database: sa.Engine, tmp_path: Path) -> None:
    with pytest.raises(Conflict, match="registered already: it is a file of model 1"):
        _register(database, given.model(tmp_path, "again", b"the bytes of first"))

    assert given.count(database, models_table) == 1


@pytest.mark.parametrize(
    "size", [1, models.CHUNK_BYTES, 5 * models.CHUNK_BYTES // 2], ids=["1 B", "1 MiB", "2.5 MiB"]
)
def test_a_file_comes_back_bit_for_bit(database: sa.Engine, tmp_path: Path, size: int) -> None:
    data = random.Random(size).randbytes(size)
    model_id = _register(database, given.model(tmp_path, "large", data))

    row = models.file_of(database, model_id)
    chunks = list(models.read_chunks(database, row["sha256"]))

    assert b"".join(chunks) == data
    assert row["sha256"] == hashlib.sha256(data).hexdigest()
    assert row["size_bytes"] == size
    assert len(chunks) == -(-size // models.CHUNK_BYTES)


def test_a_precision_that_is_absent_is_named(database: sa.Engine) -> None:
    with pytest.raises(NotFound, match="model 1 has no int8 file"):
        models.file_of(database, 1, "int8")


def test_what_hangs_on_a_model_is_told(database: sa.Engine, tmp_path: Path) -> None:
    small = tmp_path / "small.onnx"
    small.write_bytes(b"in eight bits")
    base = given.model(tmp_path, "full")
    engine = {
        "precision": "int8", "backend": "openvino", "backend_version": "2026.1", "device": "CPU",
        "options": {"threads": 4}, "parity_delta": 0.001, "passed": True,
    }  # fmt: skip
    new = given.model(
        tmp_path,
        "full",
        files={**base.files, "int8": small},
        engines=[engine],
        evaluations={"validation": {"n_films": 624, "auroc": 0.97}},
    )
    model_id = _register(database, new)

    detail = models.detail(database, model_id)

    assert [(row["label_no"], row["name"]) for row in detail["labels"]] == [
        (0, "NORMAL"),
        (1, "PNEUMONIA"),
    ]
    assert {row["precision"] for row in detail["files"]} == {"fp32", "int8"}
    (kept,) = detail["engines"]
    assert (kept["sha256"], kept["options"]) == (
        hashlib.sha256(b"in eight bits").hexdigest(),
        {"threads": 4},
    )
    (evaluation,) = detail["evaluations"]
    assert (evaluation["split"], evaluation["n_films"], evaluation["metrics"]) == (
        "validation",
        624,
        {"auroc": 0.97},
    )


def test_what_is_left_where_films_look_otherwise_is_a_row_of_the_view(
    database: sa.Engine, tmp_path: Path
) -> None:
    shift = {"version": 1, "worst": {"name": "group 2", "auroc": 0.91}}
    evaluations = {
        "validation": {"n_films": 624, "auroc": 0.97, "shift": shift},
        "test of films": {"n_films": 20, "auroc": 0.95},
    }
    _register(database, given.model(tmp_path, "full", evaluations=evaluations))
    with reading(database) as connection:
        rows = connection.execute(
            sa.text(
                "SELECT shift_worst, shift_worst_auroc, shift, metrics FROM v_evaluations "
                "ORDER BY split DESC"
            )
        ).all()
    assert [row[:2] for row in rows] == [("group 2", 0.91), (None, None)]
    kept = rows[0].shift if isinstance(rows[0].shift, dict) else json.loads(rows[0].shift)
    assert kept == shift
    assert rows[1].shift is None
    assert "shift" not in str(rows[0].metrics)


def _tried(precision: str, passed: bool = True, **values: Any) -> dict[str, Any]:
    """What became of an engine in a precision."""
    return {
        "precision": precision, "backend": "openvino", "backend_version": "2026.1", "device": "CPU",
        "options": {"films": 400}, "parity_delta": 0.001, "passed": passed, **values,
    }  # fmt: skip


def test_precisions_are_added_to_a_model_later(database: sa.Engine, tmp_path: Path) -> None:
    model_id = _register(
        database, given.model(tmp_path, "full", engines=[_tried("bf16", passed=False)])
    )
    small = tmp_path / "small.onnx"
    small.write_bytes(b"in eight bits")

    write(
        database,
        lambda c: models.add_precisions(
            c, model_id, {"int8": small}, [_tried("int8"), _tried("bf16")], "kim@ward"
        ),
    )

    assert engines.best_precision(database, model_id) == "int8"
    detail = models.detail(database, model_id)
    # The one that was tried before is there once, as it did the last time.
    assert sorted((row["precision"], row["passed"]) for row in detail["engines"]) == [
        ("bf16", True),
        ("int8", True),
    ]
    digest = models.file_of(database, model_id, "int8")["sha256"]
    assert b"".join(models.read_chunks(database, digest)) == b"in eight bits"
    assert _history(database, model_id)[-1] == ("quantised", "full has files in int8 too")
    with pytest.raises(Conflict, match=f"model {model_id} \\(full\\) has its int8 file already"):
        write(
            database,
            lambda c: models.add_precisions(c, model_id, {"int8": small}, [], "kim@ward"),
        )


def test_precisions_of_no_model_are_refused(database: sa.Engine) -> None:
    with pytest.raises(NotFound, match="there is no model 77"):
        write(database, lambda c: models.add_precisions(c, 77, {}, [], "kim@ward"))


def test_models_are_listed_newest_first(database: sa.Engine, tmp_path: Path) -> None:
    _register(database, given.model(tmp_path, "second"))

    listed = models.listing(database)

    assert [(row["name"], row["champion"], row["metrics"]) for row in listed] == [
        ("second", 0, {"auroc": 0.9}),
        ("first", 1, {"auroc": 0.9}),
    ]
    assert listed[0]["created_at"] == aliases.resolve(database, "second")["created_at"]


def test_a_model_that_fails_to_register_leaves_no_bytes(
    database: sa.Engine, tmp_path: Path
) -> None:
    new = given.model(tmp_path, "broken", files={"fp32": tmp_path / "absent.onnx"})
    with reading(database) as connection:
        before = connection.execute(sa.select(sa.func.count(model_chunks.c.sha256))).scalar_one()

    with pytest.raises(FileNotFoundError):
        _register(database, new)

    assert given.count(database, model_chunks) == before
    assert given.count(database, models_table) == 1
