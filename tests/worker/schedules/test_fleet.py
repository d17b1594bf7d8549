"""The precision that a job is pinned to: what is stored, else what was measured, else an order."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from db.base import database as connecting
from db.base import workers
from db.base.schema import films
from db.registry import engines, models, rates
from db.registry.rates import Rate
from worker.errors import PrecisionRefused
from worker.schedules import fleet
from worker.schedules.fleet import Machines, Pinned

XEON, OLD = "OpenVINO 2026.1 on Xeon", "OpenVINO 2026.1 on Atom"

ORDER = "as a rule the fastest that passed its parity gate"
MEASURED = "measured to be fastest where it will run"
STORED = "as most of its stored predictions are"


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """SQLite only: what is asked of the database is tested on both with it."""
    return sqlite_url


@pytest.fixture
def passed(database: sa.Engine, model_id: int, tmp_path: Path) -> int:
    """A model whose bf16 and int8 passed their gates."""
    small = tmp_path / "small.onnx"
    small.write_bytes(b"in eight bits")
    tried = [
        {"precision": precision, "backend": "openvino", "backend_version": "1", "device": "CPU",
         "options": {}, "parity_delta": 0.0, "passed": True}
        for precision in ("bf16", "int8")
    ]  # fmt: skip
    connecting.write(
        database, lambda c: models.add_precisions(c, model_id, {"int8": small}, tried, "kim@ward")
    )
    return model_id


def measured(database: sa.Engine, model_id: int, first: Rate, *others: Rate, kind: str) -> None:
    connecting.write(
        database,
        lambda c: rates.keep(
            c, model_id, kind, (first, *others), batch=8, rounds=12, who="w"
        ),
    )  # fmt: skip


def store(database: sa.Engine, model_id: int, precision: str) -> None:
    """A prediction that can be answered from the store."""
    row = {"model_id": model_id, "precision": precision, "content": b"0" * 16}
    with connecting.writing(database) as connection:
        connection.execute(sa.insert(films).values(row | {"job_id": 1, "item_no": 0}))


def test_auto_is_the_order_s_first_until_something_was_measured_on_every_kind_that_is_there(
    database: sa.Engine, passed: int
) -> None:
    assert fleet.pin(database, passed, "auto", Machines()) == Pinned("int8", ORDER)
    faster = Rate("bf16", 1100.0, (1.38, 1.31, 1.44))
    measured(database, passed, Rate("int8", 800.0), faster, kind=XEON)
    assert fleet.pin(database, passed, "auto", Machines()) == Pinned("int8", ORDER)
    both = Machines("onnx", (XEON, OLD))
    assert fleet.pin(database, passed, "auto", both) == Pinned("int8", ORDER)
    only = Machines("onnx", (XEON,))
    assert fleet.pin(database, passed, "auto", only) == Pinned("bf16", MEASURED)
    measured(database, passed, Rate("int8", 100.0), Rate("bf16", 40.0, (0.4, 0.3, 0.5)), kind=OLD)
    assert fleet.pin(database, passed, "auto", both) == Pinned("bf16", MEASURED)
    many = Machines("onnx", (XEON, *[OLD] * 6))
    assert fleet.pin(database, passed, "auto", many) == Pinned("int8", MEASURED)


def test_auto_stays_with_the_precision_of_stored_predictions_whatever_was_measured(
    database: sa.Engine, passed: int
) -> None:
    faster = Rate("bf16", 1100.0, (1.38, 1.31, 1.44))
    measured(database, passed, Rate("int8", 800.0), faster, kind=XEON)
    here = Machines("onnx", (XEON,))
    store(database, passed, "fp32")
    assert fleet.pin(database, passed, "auto", here) == Pinned("fp32", STORED)
    assert fleet.pin(database, passed, "bf16", here) == Pinned("bf16", "as asked")


def test_auto_leaves_a_stored_precision_that_may_not_be_computed_where_it_will_run(
    database: sa.Engine, passed: int
) -> None:
    store(database, passed, "bf16")
    assert fleet.pin(database, passed, "auto", Machines()).precision == "bf16"
    # TensorRT computes the file of bf16 in fp32.
    for on in ("tensorrt", "either"):
        assert fleet.pin(database, passed, "auto", Machines(on)) == Pinned("int8", ORDER)
    sha256 = str(models.file_of(database, passed)["sha256"])
    failed = {
        "precision": "bf16", "backend": "openvino", "backend_version": "1", "device": "CPU",
        "options": {}, "passed": False,
    }  # fmt: skip
    connecting.write(database, lambda c: engines.record(c, sha256, failed))
    assert fleet.pin(database, passed, "auto", Machines()) == Pinned("int8", ORDER)
    with pytest.raises(PrecisionRefused, match="did not pass its parity gate"):
        fleet.pin(database, passed, "bf16", Machines())


@pytest.mark.parametrize("kept", [None, "bf16"])
def test_auto_leaves_out_what_a_machine_that_is_there_could_not_be_measured_in(
    database: sa.Engine, passed: int, kept: str | None
) -> None:
    if kept is not None:
        store(database, passed, kept)
    measured(database, passed, Rate("fp32", 100.0), Rate("int8", 40.0, (0.4, 0.3, 0.5)), kind=OLD)
    only = Machines("onnx", (OLD,))
    assert fleet.pin(database, passed, "auto", only) == Pinned("fp32", MEASURED)
    # XEON was not measured, so that nothing says which one is fastest for both.
    both = fleet.pin(database, passed, "auto", Machines("onnx", (OLD, XEON)))
    assert both == Pinned("int8", ORDER)


def test_the_machines_of_a_job_are_those_of_the_workers_that_may_score_it(
    database: sa.Engine,
) -> None:
    assert fleet.there(database, None) == Machines("onnx", ())
    for name, queues, words, kind in (
        ("a", "score", "auto,onnx", XEON),
        ("b", "score,train", "auto,tensorrt", "TensorRT 10.3.0 on Orin (8.7)"),
        ("c", "train", "auto,onnx", OLD),
    ):
        connecting.write(
            database,
            lambda c, name=name, queues=queues, words=words, kind=kind: workers.register(  # type: ignore[misc]
                c, name, host=name, pid=1, queues=queues, engine=kind,
                versions={"engines": words, "proves": kind},
            ),
        )  # fmt: skip
    everywhere = fleet.there(database, None)
    assert (everywhere.on, sorted(everywhere.kinds)) == (
        "either", [XEON, "TensorRT 10.3.0 on Orin (8.7)"],
    )  # fmt: skip
    assert fleet.there(database, "onnx") == Machines("onnx", (XEON,))
    assert fleet.there(database, "tensorrt").on == "tensorrt"
