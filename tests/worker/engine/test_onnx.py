"""ONNX Runtime's engine, on the processor: what it says, its order, its tails, and its refusals.

On a GPU: tests/gpu.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from tests.worker import samples
from trainer import card as cards
from trainer import folded
from trainer.card import Card
from trainer.modelfile import quantise
from worker.engine import Outputs, Pending, observe, open_engine
from worker.engine.onnx import OnnxEngine
from worker.errors import EngineError, GpuLost, OutOfMemory
from worker.machine import gpu as gpus
from worker.machine.gpu import Gpu

BATCH = 4

BOARD = Gpu(
    index=0,
    name="Orin",
    uuid="GPU-0",
    compute_capability=(8, 7),
    memory_bytes=1 << 33,
    integrated=True,
    driver="12.6",
)

Open = Callable[..., OnnxEngine]


@pytest.fixture
def opened(model_file: Path) -> Iterator[Open]:
    """Opens engines on the processor, of `model_file` unless told otherwise, and closes them."""
    made: list[OnnxEngine] = []

    def open_one(path: Path = model_file, **options: Any) -> OnnxEngine:
        given: dict[str, Any] = {"gpu": None, "batch": BATCH, **options}
        made.append(OnnxEngine(path, cards.read(path), **given))
        return made[-1]

    yield open_one
    for engine in made:
        engine.close()


@pytest.fixture(scope="module")
def films() -> NDArray[np.uint8]:
    """`uint8 [12, 1, S, S]`, another film each."""
    return samples.pixels([data for _, data in samples.films(8, seed=7)][:12])


@pytest.fixture(scope="module")
def reference(model_file: Path, films: NDArray[np.uint8]) -> Outputs:
    """What the processor's own engine says of all of them."""
    engine = open_engine(model_file, batch=len(films), threads=1)
    answer = engine.submit(films).result()
    engine.close()
    return answer


def agree(ours: Outputs, theirs: Outputs, rows: slice = slice(None), delta: float = 1e-4) -> None:
    """Every output has the same shape and type and says the same, on the scale of what is there."""
    for name in (cards.SCORES, cards.CAM, cards.OOD):
        found, expected = getattr(ours, name), getattr(theirs, name)[rows]
        assert found.dtype == np.float32
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= delta * max(1.0, float(np.abs(expected).max()))


def test_it_says_what_the_processors_engine_says(
    opened: Open, films: NDArray[np.uint8], reference: Outputs
) -> None:
    engine = opened()
    for start in range(0, len(films), BATCH):
        found = engine.submit(films[start : start + BATCH]).result()
        agree(found, reference, slice(start, start + BATCH))
    assert np.ptp(reference.scores[:, 1]) > 0.5, "films that are all alike prove nothing"


def test_it_tells_where_it_runs_and_how_it_was_made(opened: Open, card: Card) -> None:
    engine = opened(lanes=3)
    assert engine.card.to_json() == card.to_json()
    assert (engine.backend, engine.device, engine.precision) == ("onnxruntime", "CPU", "fp32")
    assert (engine.batch, engine.depth) == (BATCH, 3)
    assert engine.options == {"batch": BATCH, "piece": BATCH, "lanes": 3}
    assert engine.backend_version[0].isdigit()


def test_as_many_batches_as_its_depth_may_be_pending_and_come_back_in_order(
    opened: Open, films: NDArray[np.uint8], reference: Outputs
) -> None:
    engine = opened(lanes=3)
    pending: deque[tuple[int, Pending]] = deque()
    for number in range(24):
        if len(pending) == engine.depth:
            start, oldest = pending.popleft()
            agree(oldest.result(), reference, slice(start, start + BATCH))
        start = number * BATCH % len(films)
        pending.append((start, engine.submit(films[start : start + BATCH])))
    for start, rest in pending:
        agree(rest.result(), reference, slice(start, start + BATCH))


@pytest.mark.parametrize("wanted", range(1, 2 * BATCH + 1))
def test_a_tail_of_any_length_gets_the_answers_of_a_whole_batch(
    opened: Open, films: NDArray[np.uint8], wanted: int
) -> None:
    engine = opened(batch=2 * BATCH)
    whole = engine.submit(films[: 2 * BATCH]).result()
    tail = engine.submit(films[: 2 * BATCH], wanted).result()
    assert len(tail.scores) >= wanted
    for name in (cards.SCORES, cards.CAM, cards.OOD):
        assert getattr(tail, name)[:wanted].tobytes() == getattr(whole, name)[:wanted].tobytes()


@pytest.mark.parametrize(("precision", "delta"), [("fp16", 0.005), ("int8", 0.08)])
def test_files_of_other_precisions_are_run_too(
    opened: Open,
    model_file: Path,
    films: NDArray[np.uint8],
    reference: Outputs,
    tmp_path: Path,
    precision: str,
    delta: float,
) -> None:
    path = tmp_path / "other.onnx"
    network = folded.Network(model_file)
    if precision == "int8":
        quantise.int8(network, observe.sample(network, films, threads=1), path)
    else:
        quantise.fp16(network, path)
    engine = opened(path, precision=precision)
    found = engine.submit(films[:BATCH]).result()
    assert engine.precision == precision
    assert 0 < np.abs(found.scores - reference.scores[:BATCH]).max() < delta


def test_a_precision_that_it_does_not_compute_is_refused(opened: Open) -> None:
    with pytest.raises(EngineError, match="fp32, fp16, int8, not in 'bf16'"):
        opened(precision="bf16")


def test_a_model_of_three_classes_without_map_and_distance_is_run_too(
    opened: Open, other_model: tuple[Path, Card], tmp_path: Path, films: NDArray[np.uint8]
) -> None:
    path, card = other_model
    proto = onnx.load(str(path))
    keep = [output for output in proto.graph.output if output.name == cards.SCORES]
    del proto.graph.output[:]
    proto.graph.output.extend(keep)
    onnx.save(proto, str(tmp_path / "plain.onnx"))
    found = opened(tmp_path / "plain.onnx").submit(films[:BATCH]).result()
    assert found.scores.shape == (BATCH, len(card.labels))
    assert np.allclose(found.scores.sum(axis=1), 1, atol=1e-6)
    assert found.cam is None
    assert found.ood is None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("no file", "cannot be opened by ONNX Runtime on CPU: "),
        ("cut short", "cannot be opened by ONNX Runtime on CPU: "),
        ("an operation", "cannot be opened by ONNX Runtime on CPU: "),
        ("other input", "is not a whole model: no image or no scores"),
        ("no scores", "is not a whole model: no image or no scores"),
        ("other size", "and its card says tensor(uint8) ['N', 1, 96, 96]: it was changed"),
    ],
)
def test_a_file_that_cannot_be_run_is_refused_in_one_line(
    model_file: Path, card: Card, tmp_path: Path, damage: str, message: str
) -> None:
    path = tmp_path / "broken.onnx"
    proto = onnx.load(str(model_file))
    if damage == "an operation":
        proto.graph.node[5].op_type = "Nonsense"
    elif damage == "other input":
        proto.graph.input[0].name = proto.graph.node[0].input[0] = "other"
    elif damage == "no scores":
        keep = [output for output in proto.graph.output if output.name != cards.SCORES]
        del proto.graph.output[:]
        proto.graph.output.extend(keep)
    elif damage == "other size":
        card = replace(card, size=96)
    onnx.save(proto, str(path))
    if damage == "cut short":
        path.write_bytes(path.read_bytes()[:-1000])
    elif damage == "no file":
        path.unlink()
    with pytest.raises(EngineError) as refusal:
        OnnxEngine(path, card, gpu=None, batch=BATCH)
    assert not isinstance(refusal.value, OutOfMemory)
    assert str(refusal.value).startswith("broken.onnx ")
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_gpu_is_refused_where_onnxruntime_was_made_without_cuda(
    model_file: Path, card: Card
) -> None:
    import onnxruntime  # type: ignore[import-untyped]

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA: tests/gpu")
    with pytest.raises(EngineError, match=r"without CUDA; .* pip install onnxruntime-gpu"):
        OnnxEngine(model_file, card, gpu=BOARD, batch=BATCH)


class ShortOfMemory:
    """A session in which at most so many films find room; it is the real one that computes."""

    def __init__(self, session: Any, room: int, words: str) -> None:
        self._session, self._room, self._words = session, room, words
        self.calls: list[int] = []

    def run(self, names: list[str], given: dict[str, NDArray[np.uint8]]) -> Any:
        films = len(given[cards.INPUT])
        self.calls.append(films)
        if films > self._room:
            raise RuntimeError(self._words)
        return self._session.run(names, given)


#: As ONNX Runtime's arena and CUDA itself say it.
ARENA = "Failed to allocate memory for requested buffer of size 51380224"
CUDA = "CUDA failure 2: out of memory ; GPU=0 ; hostname=orin ; expr=cudaMalloc((void**)&p, size);"


@pytest.mark.parametrize("words", [ARENA, CUDA])
def test_where_memory_is_short_a_batch_is_computed_in_halves_and_stays_a_batch(
    opened: Open, films: NDArray[np.uint8], reference: Outputs, words: str
) -> None:
    engine = opened(batch=12, lanes=1)
    engine._session = short = ShortOfMemory(engine._session, 3, words)
    agree(engine.submit(films).result(), reference)
    assert short.calls == [12, 6, 3, 3, 3, 3]
    assert engine.batch == 12
    assert engine.options["piece"] == 3
    agree(engine.submit(films, 4).result(), reference, slice(6))
    assert short.calls[6:] == [3, 3], "it does not try again what did not fit"


def test_lanes_that_find_memory_short_at_the_same_time_halve_it_once(
    opened: Open, films: NDArray[np.uint8], reference: Outputs
) -> None:
    engine = opened(batch=12, lanes=2)
    both = threading.Barrier(2)

    class Together(ShortOfMemory):
        def run(self, names: list[str], given: dict[str, NDArray[np.uint8]]) -> Any:
            if len(given[cards.INPUT]) == 12:
                both.wait(samples.PATIENCE_S)
            return super().run(names, given)

    engine._session = Together(engine._session, 6, ARENA)
    for pending in [engine.submit(films), engine.submit(films)]:
        agree(pending.result(), reference)
    assert engine.options["piece"] == 6


def test_where_not_even_one_film_fits_it_is_out_of_memory(
    opened: Open, films: NDArray[np.uint8]
) -> None:
    engine = opened(lanes=1)
    engine._session = ShortOfMemory(engine._session, 0, ARENA)
    with pytest.raises(OutOfMemory, match="Failed to allocate memory"):
        engine.submit(films[:BATCH]).result()


#: What ONNX Runtime, cuDNN and CUDA say of one call that failed on a GPU that lives.
OF_ONE_CALL = (
    "CUDA failure 1: invalid argument ; GPU=0 ; hostname=orin ; expr=cudaMemcpyAsync(dst, src, n)",
    "CUDA failure 701: too many resources requested for launch ; GPU=0 ; hostname=orin",
    "CUDNN failure 9: CUDNN_STATUS_NOT_SUPPORTED ; GPU=0 ; hostname=orin",
    "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got invalid dimensions for input: image",
    "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Conv node.",
)

#: What they say of a GPU that is lost to the process: an error that stays, one of memory, and one
#: of a GPU that is no longer there.
OF_THE_GPU = (
    "CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; hostname=orin",
    "CUDA failure 719: unspecified launch failure ; GPU=0 ; hostname=orin",
    "CUDA failure 214: uncorrectable ECC error encountered ; GPU=0 ; hostname=orin",
    "CUDA failure 999: unknown error ; GPU=0 ; hostname=orin",
    "CUDA error: device-side assert triggered",
)


@pytest.mark.parametrize(
    ("words", "broken", "lost"),
    [
        *((words, "", False) for words in OF_ONE_CALL),
        *((words, "", True) for words in OF_THE_GPU),
        # Of a consequence only the GPU itself can tell.
        ("CUDNN failure 4: CUDNN_STATUS_INTERNAL_ERROR ; GPU=0", "it answers with 700", True),
    ],
)
def test_a_run_that_fails_is_a_lost_gpu_only_where_the_error_or_the_gpu_says_so(
    opened: Open,
    films: NDArray[np.uint8],
    monkeypatch: pytest.MonkeyPatch,
    words: str,
    broken: str,
    lost: bool,
) -> None:
    monkeypatch.setattr(gpus, "broken_context", lambda gpu: broken)
    engine = opened(lanes=1)
    engine._gpu = BOARD
    engine._session = ShortOfMemory(engine._session, 0, words)
    with pytest.raises(EngineError) as met:
        engine.submit(films[:BATCH]).result()
    assert isinstance(met.value, GpuLost) is lost
    assert words in str(met.value) and broken in str(met.value)


def test_closing_finishes_what_is_pending_and_leaves_no_thread(
    opened: Open, films: NDArray[np.uint8], reference: Outputs
) -> None:
    before = threading.active_count()
    engine = opened(lanes=2)
    pending = [engine.submit(films[:BATCH]) for _ in range(2)]
    engine.close()
    for one in pending:
        agree(one.result(), reference, slice(BATCH))
    assert threading.active_count() == before
