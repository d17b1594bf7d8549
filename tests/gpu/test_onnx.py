"""ONNX Runtime on a GPU says what the processor says, and gives back what it took."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.gpu import agreement
from tests.gpu.conftest import BATCH
from trainer import card as cards
from worker.engine import Outputs
from worker.engine.onnx import OnnxEngine
from worker.machine.gpu import Gpu

Open = Callable[..., OnnxEngine]


@pytest.fixture
def opened(gpu: Gpu, model_files: dict[str, Path]) -> Iterator[Open]:
    """Opens engines on the GPU and closes them."""
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime was made without CUDA: pip install onnxruntime-gpu")
    made: list[OnnxEngine] = []

    def open_one(precision: str = "fp32", **options: Any) -> OnnxEngine:
        path = model_files[precision]
        given: dict[str, Any] = {"batch": BATCH, "precision": precision, **options}
        made.append(OnnxEngine(path, cards.read(path), gpu=gpu, **given))
        return made[-1]

    yield open_one
    for engine in made:
        engine.close()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_it_agrees_with_the_processor(
    opened: Open, films: NDArray[np.uint8], on_cpu: dict[str, Outputs], precision: str
) -> None:
    engine = opened(precision)
    ours, theirs = agreement.outputs(engine, films), on_cpu[precision]
    if precision == "int8":
        assert agreement.same_labels(ours, theirs, engine.card.threshold) >= agreement.LABELS
    else:
        assert agreement.delta(ours, theirs) <= agreement.DELTA[precision]
        for name in (cards.CAM, cards.OOD):
            assert agreement.delta(ours, theirs, name) <= 10 * agreement.DELTA[precision]


def test_it_runs_on_the_gpu_and_says_so(opened: Open, gpu: Gpu) -> None:
    engine = opened()
    assert (engine.backend, engine.device) == ("onnxruntime", gpu.device)
    assert engine._session.get_providers()[0] == "CUDAExecutionProvider"


def test_a_film_has_the_same_answer_beside_any_neighbours(
    opened: Open, films: NDArray[np.uint8]
) -> None:
    engine = opened(lanes=2)
    expected = engine.submit(films[:BATCH]).result()
    for start in range(BATCH, 8 * BATCH, BATCH):
        other = films[start : start + BATCH].copy()
        other[0] = films[0]
        pending = [engine.submit(other, 1), engine.submit(films[:BATCH])]
        assert np.array_equal(pending[0].result().scores[0], expected.scores[0])
        assert np.array_equal(pending[1].result().scores, expected.scores)
