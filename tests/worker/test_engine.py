"""The CPU engine: what it says, that neighbours and threads do not matter, and what it refuses."""

from __future__ import annotations

import json
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
from worker.engine import Engine, Outputs, Pending, open_engine
from worker.errors import EngineError

BATCH = 4

Open = Callable[..., Engine]


@pytest.fixture
def opened(model_file: Path) -> Iterator[Open]:
    """Opens engines, of `model_file` unless told otherwise, and closes them."""
    made: list[Engine] = []

    def open_one(path: Path = model_file, threads: int = 1, batch: int = BATCH) -> Engine:
        made.append(open_engine(path, batch=batch, threads=threads))
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


def test_a_film_has_the_same_bits_at_every_place_and_beside_any_neighbours(
    opened: Open, films: NDArray[np.uint8]
) -> None:
    engine = opened()
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


def test_the_number_of_threads_changes_no_bit(opened: Open, films: NDArray[np.uint8]) -> None:
    one, two = (outputs(opened(threads=threads), films) for threads in (1, 2))
    for name, expected in one.items():
        assert two[name].tobytes() == expected.tobytes()


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
