"""Engines: which were built from a model's files, and what precisions may be used for it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from db.base import database
from db.base.schema import engines, model_files
from db.base.types import now

#: Columns of the engines table that, with the file, say which engine it is.
KEY = ("backend", "backend_version", "device", "precision")

#: engines.backend of the two flavours of TensorRT.
TENSORRT = ("tensorrt", "tensorrt_rtx")

#: Kind of worker → precisions that are faster than fp32 there, the fastest first. A processor
#: widens fp16 again, and TensorRT computes bf16's file in fp32.
FASTEST = {"onnx": ("int8", "bf16"), "tensorrt": ("int8", "fp16"), "either": ("int8",)}


def add(
    connection: sa.Connection, digests: Mapping[str, str], tried: Sequence[Mapping[str, Any]]
) -> None:
    """Insert rows of the engines table, each with the file that its precision is computed from."""
    for engine in tried:
        file = {"bf16": "fp32"}.get(engine["precision"], engine["precision"])
        if file in digests:  # a file that failed its gate is not kept, nor what it did
            connection.execute(
                sa.insert(engines).values(**engine, sha256=digests[file], created_at=now())
            )


def record(connection: sa.Connection, sha256: str, row: Mapping[str, Any]) -> None:
    """Keep what became of an engine made from this file; one tried before is recorded anew.

    `row` is columns of the engines table, `passed` among them. Two workers may do so at once.
    """
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert
    else:
        from sqlalchemy.dialects.sqlite import insert  # type: ignore[assignment]
    values = {"parity_delta": None, "worker_id": None, **row, "sha256": sha256, "created_at": now()}
    key = ("sha256", *KEY)
    connection.execute(
        insert(engines)
        .values(**values)
        .on_conflict_do_update(
            index_elements=list(key),
            set_={name: value for name, value in values.items() if name not in key},
        )
    )


def passed(
    engine: sa.Engine, sha256: str, backend: str, version: str, device: str, precision: str
) -> sa.RowMapping | None:
    """The row of this very engine, where it passed its gate the last time that it was tried."""
    select = sa.select(engines).where(
        engines.c.sha256 == sha256,
        engines.c.backend == backend,
        engines.c.backend_version == version,
        engines.c.device == device,
        engines.c.precision == precision,
        engines.c.passed,
    )
    with database.reading(engine) as connection:
        return connection.execute(select).mappings().first()


def best_precision(engine: sa.Engine, model_id: int, on: str = "onnx") -> str:
    """The fastest precision of a model that may be used, for workers of one kind.

    On `onnx`, workers that compute the file as it is: int8, else bf16, else fp32. (A bf16 engine
    that passed did so on a processor that has bfloat16.) On `tensorrt`: int8, else fp16, else fp32.
    On `either`: what is fast on both.
    """
    return first(on, usable_precisions(engine, model_id, on))


def first(on: str, usable: Collection[str]) -> str:
    """Of usable precisions the first of the order for workers of a kind, else fp32."""
    return next((precision for precision in FASTEST[on] if precision in usable), "fp32")


def usable_precisions(engine: sa.Engine, model_id: int, on: str = "onnx") -> set[str]:
    """The precisions of a model that passed their parity gate, for workers of one kind.

    What passed elsewhere counts on TensorRT too, until it has been tried there: a worker tries its
    own engine before it serves. From then on the latest trial there has the last word.
    """
    with database.reading(engine) as connection:
        tried = connection.execute(
            sa.select(engines.c.precision, engines.c.backend, engines.c.passed)
            .join(model_files, model_files.c.sha256 == engines.c.sha256)
            .where(model_files.c.model_id == model_id)
            .order_by(engines.c.created_at, engines.c.id)
        ).all()
    usable = {row.precision for row in tried if row.passed and row.backend not in TENSORRT}
    there = {row.precision: row.passed for row in tried if row.backend in TENSORRT}
    if on != "onnx":
        usable -= {precision for precision, passed in there.items() if not passed}
    if on == "tensorrt":
        usable |= {precision for precision, passed in there.items() if passed}
    return usable
