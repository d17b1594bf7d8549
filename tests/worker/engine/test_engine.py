"""The CPU engine: what it says, that neighbours and threads do not matter, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
import pytest
from numpy.typing import NDArray

from tests.worker import samples
from trainer import card as cards
from trainer.card import Card
from worker.engine import FILE_OF, Engine, Outputs, Pending, open_engine
from worker.engine.cpu import core, has_bf16
from worker.errors import EngineError

BATCH = 4

Open = Callable[..., Engine]


@pytest.fixture
def opened(files: dict[str, Path]) -> Iterator[Open]:
    """Opens engines, of `model_file` in fp32 unless told otherwise, and closes them."""
    made: list[Engine] = []

    def open_one(
        path: Path | None = None, threads: int = 1, batch: int = BATCH, precision: str = "fp32"
    ) -> Engine:
        if precision == "bf16" and not has_bf16(core()):
            pytest.skip("this processor has no bfloat16 instructions")
        path = path or files[FILE_OF[precision]]
        made.append(open_engine(path, batch=batch, threads=threads, precision=precision))
        return made[-1]

    yield open_one
    for engine in made:
        engine.close()


@pytest.fixture(scope="module")
def films() -> NDArray[np.uint8]:
    """`uint8 [12, 1, S, S]`, another film each."""
    return samples.pixels([data for _, data in samples.films(8, seed=7)][:12])


def outputs(engine: Engine, films: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    """All films' outputs by name, batch after batch."""
    found = []
    for start in range(0, len(films), engine.batch):
        found.append(engine.submit(films[start : start + engine.batch]).result())
    return {name: np.concatenate([array(o, name) for o in found]) for name in named(found[0])}


def named(one: Outputs) -> tuple[str, ...]:
    """The outputs that a model has."""
    return tuple(n for n in (cards.SCORES, cards.CAM, cards.OOD) if array(one, n) is not None)


def array(one: Outputs, name: str) -> Any:
    """One output by its name in the file."""
    return getattr(one, name)


def edited(model_file: Path, path: Path, edit: Callable[[Any], None]) -> Path:
    """A copy of the model file after `edit(proto)`."""
    proto = onnx.load(str(model_file))
    edit(proto)
    onnx.save(proto, str(path))
    return path


def carded(model_file: Path, path: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of the model file after `edit(values of its card)`."""

    def change(proto: Any) -> None:
        values = json.loads(proto.metadata_props[0].value)
        edit(values)
        proto.metadata_props[0].value = json.dumps(values)

    return edited(model_file, path, change)


def refused(path: Path) -> str:
    """What `open_engine` says; one line."""
    with pytest.raises(EngineError) as refusal:
        open_engine(path, batch=BATCH, threads=1)
    message = str(refusal.value)
    assert "\n" not in message
    return message


def test_the_engine_says_what_onnxruntime_says(
    opened: Open, model_file: Path, films: NDArray[np.uint8]
) -> None:
    ours = outputs(opened(), films)
    assert ours.keys() == {cards.SCORES, cards.CAM, cards.OOD}
    session = onnxruntime.InferenceSession(str(model_file))
    names = [output.name for output in session.get_outputs()]
    for name, theirs in zip(names, session.run(None, {cards.INPUT: films}), strict=True):
        assert ours[name].dtype == np.float32
        assert ours[name].shape == theirs.shape
        scale = max(1.0, float(np.abs(theirs).max()))
        assert np.abs(ours[name] - theirs).max() <= 1e-5 * scale
    assert np.ptp(ours[cards.SCORES][:, 1]) > 0.5, "films that are all alike prove nothing"


@pytest.mark.parametrize("precision", FILE_OF)
def test_a_film_has_the_same_bits_at_every_place_and_beside_any_neighbours(
    opened: Open, films: NDArray[np.uint8], precision: str
) -> None:
    engine = opened(precision=precision)
    alone = np.zeros_like(films[:BATCH])
    alone[0] = films[0]
    expected = engine.submit(alone).result()
    rng = np.random.default_rng(0)
    for place in range(BATCH):
        for _ in range(3):
            batch = films[rng.permutation(len(films))[:BATCH]].copy()
            batch[place] = films[0]
            found = engine.submit(batch).result()
            for name in named(found):
                assert array(found, name)[place].tobytes() == array(expected, name)[0].tobytes()


@pytest.mark.parametrize("precision", FILE_OF)
def test_the_number_of_threads_changes_no_bit(
    opened: Open, films: NDArray[np.uint8], precision: str
) -> None:
    one, two = (outputs(opened(threads=n, precision=precision), films) for n in (1, 2))
    for name, expected in one.items():
        assert two[name].tobytes() == expected.tobytes()


@pytest.mark.parametrize(("precision", "delta"), [("bf16", 0.08), ("fp16", 0.005), ("int8", 0.08)])
def test_every_precision_says_nearly_what_fp32_says(
    opened: Open, films: NDArray[np.uint8], precision: str, delta: float
) -> None:
    expected = outputs(opened(), films)
    engine = opened(precision=precision)
    found = outputs(engine, films)
    assert engine.precision == precision
    assert found.keys() == expected.keys()
    assert 0 < np.abs(found[cards.SCORES] - expected[cards.SCORES]).max() < delta
    for name in (cards.CAM, cards.OOD):
        assert found[name].dtype == np.float32
        spread = np.ptp(expected[name])
        assert np.abs(found[name] - expected[name]).max() < 10 * delta * spread


def test_the_convolutions_of_an_int8_engine_are_computed_in_int8(
    files: dict[str, Path], films: NDArray[np.uint8]
) -> None:
    compiled = core().compile_model(files["int8"], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = {
        node.get_friendly_name(): node.get_rt_info()["runtimePrecision"].astype(str)
        for node in compiled.get_runtime_model().get_ops()
        if node.get_rt_info()["layerType"].astype(str) == "Convolution"
    }
    # The stem's second digit is one more; the head's is the only one in float.
    assert len(found) == 22
    assert [name for name, kind in found.items() if kind not in ("i8", "u8")] == ["maps"]


def test_ctrl_c_is_heard_after_engines_came_and_went(model_file: Path) -> None:
    script = (
        "import gc, os, signal; from pathlib import Path; from worker.engine import open_engine\n"
        "for _ in range(3):\n"
        f"    a, b = (open_engine(Path({str(model_file)!r}), batch=1, threads=1) for _ in 'ab')\n"
        "    a.close(); del a; gc.collect(); b.close(); del b; gc.collect()\n"
        "signal.signal(signal.SIGINT, lambda *_: print('heard', flush=True))\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    assert (ran.returncode, ran.stdout) == (0, "heard\n"), ran.stderr


def test_a_file_of_another_precision_is_refused(files: dict[str, Path]) -> None:
    for path, precision, has, wants in (
        (files["fp32"], "int8", "fp32", "int8"),
        (files["int8"], "fp32", "int8", "fp32"),
        (files["int8"], "bf16", "int8", "fp32"),
    ):
        with pytest.raises(EngineError) as refusal:
            open_engine(path, batch=BATCH, threads=1, precision=precision)
        assert str(refusal.value) == (
            f"{path.name} holds the model in {has}, and {precision} is computed from its {wants} "
            "file; fetch that one"
        )


def test_an_unknown_precision_is_refused(model_file: Path) -> None:
    with pytest.raises(EngineError, match="precision 'int4' is unknown; give one of fp32, bf16"):
        open_engine(model_file, batch=BATCH, threads=1, precision="int4")


def test_bf16_is_refused_where_the_processor_lacks_it(model_file: Path) -> None:
    if has_bf16(core()):
        open_engine(model_file, batch=BATCH, threads=1, precision="bf16").close()
    else:
        with pytest.raises(EngineError, match="has no bfloat16 instructions"):
            open_engine(model_file, batch=BATCH, threads=1, precision="bf16")


def test_as_many_batches_as_its_depth_may_be_pending_and_come_back_in_order(
    opened: Open, films: NDArray[np.uint8]
) -> None:
    engine = opened(threads=2)
    assert engine.depth == 2
    expected = outputs(opened(), films)[cards.SCORES]
    parts = [films[start : start + BATCH].copy() for start in range(0, len(films), BATCH)] * 4
    pending: list[Pending] = []
    found = []
    for part in parts:
        if len(pending) == engine.depth:
            found.append(pending.pop(0).result().scores)
        pending.append(engine.submit(part))
    found.extend(p.result().scores for p in pending)
    assert np.concatenate(found).tobytes() == np.tile(expected, (4, 1)).tobytes()


def test_outputs_stay_as_they_are_when_the_next_batch_is_computed(
    opened: Open, films: NDArray[np.uint8]
) -> None:
    engine = opened()
    first = engine.submit(films[:BATCH]).result()
    before = first.scores.copy()
    engine.submit(films[BATCH : 2 * BATCH]).result()
    assert np.array_equal(first.scores, before)


def test_a_model_of_three_classes_and_no_distance_is_run_too(
    opened: Open, other_model: tuple[Path, Card], tmp_path: Path, films: NDArray[np.uint8]
) -> None:
    path, card = other_model

    def without_distance(proto: Any) -> None:
        keep = [o for o in proto.graph.output if o.name != cards.OOD]
        del proto.graph.output[:]
        proto.graph.output.extend(keep)

    found = outputs(opened(edited(path, tmp_path / "plain.onnx", without_distance)), films)
    assert found.keys() == {cards.SCORES, cards.CAM}
    assert found[cards.SCORES].shape == (len(films), len(card.labels))
    assert np.allclose(found[cards.SCORES].sum(axis=1), 1, atol=1e-6)


def test_the_engine_tells_where_it_runs(opened: Open, card: Card) -> None:
    engine = opened()
    assert engine.card.to_json() == card.to_json()
    assert (engine.backend, engine.precision, engine.batch) == ("openvino", "fp32", BATCH)
    assert engine.device
    assert engine.backend_version[0].isdigit()


def test_a_file_that_is_no_model_is_refused(tmp_path: Path, model_file: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_text("not a model")
    assert "model.onnx is not an ONNX file" in refused(path)
    path.write_bytes(model_file.read_bytes()[:-1000])
    assert "model.onnx" in refused(path)
    path.unlink()
    assert "cannot be read" in refused(path)


def test_a_model_that_is_not_ours_is_refused(tmp_path: Path, model_file: Path) -> None:
    path = edited(model_file, tmp_path / "theirs.onnx", lambda p: p.metadata_props.pop())
    assert "was not made or imported by PneumoQ" in refused(path)


def test_an_unknown_film_rule_is_refused(tmp_path: Path, model_file: Path) -> None:
    path = carded(model_file, tmp_path / "new.onnx", lambda c: c.update(film_rule="gray-9"))
    assert refused(path) == (
        "new.onnx wants film rule 'gray-9', which this PneumoQ lacks; upgrade this worker"
    )


def test_a_model_whose_golden_films_become_other_pixels_here_is_refused(
    tmp_path: Path, model_file: Path
) -> None:
    def swap(values: dict[str, Any]) -> None:
        first, second = values["golden"][:2]
        first["pixels"], second["pixels"] = second["pixels"], first["pixels"]

    message = refused(carded(model_file, tmp_path / "drifted.onnx", swap))
    assert "decodes images differently" in message


@pytest.mark.parametrize("damage", ["an operation", "a constant", "the input", "an output"])
def test_a_network_that_cannot_be_run_is_refused_in_one_line(
    tmp_path: Path, model_file: Path, damage: str
) -> None:
    def edit(proto: Any) -> None:
        if damage == "an operation":
            proto.graph.node[5].op_type = "Nonsense"
        elif damage == "a constant":
            del proto.graph.initializer[3]
        elif damage == "the input":
            proto.graph.input[0].name = proto.graph.node[0].input[0] = "other"
        else:
            keep = [o for o in proto.graph.output if o.name != cards.SCORES]
            del proto.graph.output[:]
            proto.graph.output.extend(keep)

    assert "broken.onnx" in refused(edited(model_file, tmp_path / "broken.onnx", edit))
