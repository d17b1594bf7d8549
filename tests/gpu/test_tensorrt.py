"""TensorRT on a GPU says what the processor says, in any batch and any order."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.gpu import agreement
from tests.gpu.conftest import BATCH, Open
from trainer import card as cards
from worker.engine import Outputs, Pending, signed
from worker.engine import plans as plans_of
from worker.machine.gpu import Gpu


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_it_agrees_with_the_processor(
    opened: Open, films: NDArray[np.uint8], on_cpu: dict[str, Outputs], precision: str
) -> None:
    engine = opened(precision)
    ours, theirs = agreement.outputs(engine, films), on_cpu[precision]
    assert np.ptp(theirs.scores[:, 1]) > 0.5, "films that are all alike prove nothing"
    if precision == "int8":
        assert agreement.same_labels(ours, theirs, engine.card.threshold) >= agreement.LABELS
    else:
        assert agreement.delta(ours, theirs) <= agreement.DELTA[precision]
        # A map and a distance are not squeezed between 0 and 1: they show more.
        for name in (cards.CAM, cards.OOD):
            assert agreement.delta(ours, theirs, name) <= 10 * agreement.DELTA[precision]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_tail_of_any_length_gets_the_answers_of_a_whole_batch(
    opened: Open, films: NDArray[np.uint8], precision: str
) -> None:
    engine = opened(precision)
    whole = engine.submit(films[:BATCH]).result()
    for wanted in range(1, BATCH + 1):
        tail = engine.submit(films[:BATCH], wanted).result()
        assert len(tail.scores) == wanted
        # Other sizes may be computed by other kernels.
        close = 1e-5 if precision == "fp32" else 2e-3
        assert agreement.delta(tail, agreement.rows(whole, 0, wanted)) <= close


def test_as_many_batches_as_its_depth_may_be_pending_and_come_back_in_order(
    opened: Open, films: NDArray[np.uint8], on_cpu: dict[str, Outputs]
) -> None:
    engine = opened(lanes=3)
    assert engine.depth == 3
    pending: deque[tuple[int, Pending]] = deque()
    for number in range(300):
        if len(pending) == engine.depth:
            start, oldest = pending.popleft()
            expected = agreement.rows(on_cpu["fp32"], start, start + BATCH)
            assert agreement.delta(oldest.result(), expected) <= agreement.DELTA["fp32"]
        start = number * BATCH % len(films)
        pending.append((start, engine.submit(films[start : start + BATCH])))
    while pending:
        pending.popleft()[1].result()


def test_films_may_be_overwritten_as_soon_as_they_are_submitted(
    opened: Open, films: NDArray[np.uint8], on_cpu: dict[str, Outputs]
) -> None:
    engine = opened()
    batch = films[:BATCH].copy()
    pending = engine.submit(batch)
    batch[:] = 255
    expected = agreement.rows(on_cpu["fp32"], 0, BATCH)
    assert agreement.delta(pending.result(), expected) <= agreement.DELTA["fp32"]


def test_outputs_stay_as_they_are_when_the_next_batches_are_computed(
    opened: Open, films: NDArray[np.uint8]
) -> None:
    engine = opened()
    first = engine.submit(films[:BATCH]).result()
    before = first.scores.copy()
    for start in range(BATCH, 8 * BATCH, BATCH):
        engine.submit(films[start : start + BATCH]).result()
    assert np.array_equal(first.scores, before)


def test_the_engine_tells_where_it_runs_and_how_it_was_made(
    opened: Open, tensorrt: str, gpu: Gpu
) -> None:
    engine = opened()
    assert (engine.backend, engine.device, engine.precision) == (tensorrt, gpu.device, "fp32")
    assert engine.options["max_batch"] == engine.batch == BATCH
    assert engine.backend_version[0].isdigit()


def test_a_plan_that_is_kept_is_loaded_and_not_built_again(
    opened: Open, model_files: dict[str, Path], tmp_path: Path
) -> None:
    told: list[str] = []

    def report(phase: str, step: int, steps: int) -> None:
        told.append(phase)

    opened(home=tmp_path, report=report).close()
    assert told[-1] == "built"
    told.clear()
    opened(home=tmp_path, report=report).close()
    assert told == []


def test_a_plan_that_is_damaged_on_disk_is_built_again(
    opened: Open, films: NDArray[np.uint8], on_cpu: dict[str, Outputs], tmp_path: Path
) -> None:
    opened(home=tmp_path).close()
    (entry,) = plans_of.ls(tmp_path)
    data = bytearray(entry.path.read_bytes())
    data[len(data) // 2] ^= 1
    entry.path.write_bytes(data)
    ours = agreement.outputs(opened(home=tmp_path), films)
    assert agreement.delta(ours, on_cpu["fp32"]) <= agreement.DELTA["fp32"]
    assert entry.path.read_bytes() != data


def test_a_plan_that_tensorrt_refuses_is_forgotten_and_built_again(
    opened: Open,
    films: NDArray[np.uint8],
    on_cpu: dict[str, Outputs],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Signed by this machine all the same, as after a change of the driver.
    write = signed.write

    def half(path: Path, about: dict[str, Any], data: bytes, key: bytes) -> str:
        cut = data[: len(data) // 2] if path.suffix == ".plan" else data
        return write(path, about, cut, key)

    monkeypatch.setattr(signed, "write", half)
    opened(home=tmp_path).close()
    monkeypatch.undo()
    (entry,) = plans_of.ls(tmp_path)
    ours = agreement.outputs(opened(home=tmp_path), films)
    assert agreement.delta(ours, on_cpu["fp32"]) <= agreement.DELTA["fp32"]
    (again,) = plans_of.ls(tmp_path)
    assert again.size_bytes > 1.5 * entry.size_bytes
