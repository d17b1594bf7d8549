"""The `look` of a model file says what the fingerprint says, in every precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
import pytest
from onnx import TensorProto, helper

from tests.support.acquired import Films
from tests.trainer.acquisition import plants
from trainer import card as cards
from trainer.acquisition import fingerprint
from trainer.acquisition.fingerprint import Alike, Fingerprint
from trainer.modelfile import fingerprint as nodes
from trainer.modelfile.graph import IR_VERSION, OPSET, Graph

PLANTS: dict[str, Callable[[Films], Films]] = {
    "mark": plants.lettered,
    "corner": lambda films: plants.covered(films)[:, ::-1, ::-1],
    "frame": plants.framed,
    "tone": plants.toned,
    "sharpness": plants.blurred,
}
BOXES = {"mark": [0.06, 0.06, 0.08, 0.12], "corner": [0.9, 0.33, 0.05, 0.17]}


def learned(side: int, looks: Sequence[str]) -> tuple[Fingerprint, Films]:
    """A fingerprint of one group for each kind of look, and films of all of them and of none."""
    films = plants.films(60 + 30 * len(looks), side)
    groups = []
    for number, look in enumerate(looks):
        rows = np.arange(60 + 30 * number, 90 + 30 * number)
        films[rows] = PLANTS[look](films[rows])
        boxes = np.tile(BOXES[look], (30, 1)) if look in BOXES else None
        groups.append(Alike(look="mark" if look in BOXES else look, rows=rows, boxes=boxes))
    patients = [str(n) for n in range(len(films))]
    parts = fingerprint.fit(films, np.arange(len(films)), groups, patients)
    assert None not in parts, parts
    return Fingerprint(tuple(part for part in parts if part is not None)), films


def file_of(path: Path, made: Fingerprint, side: int) -> Path:
    """A file of which `look` is the one output."""
    graph = Graph()
    graph.add("Cast", [cards.INPUT], "gray", to=TensorProto.FLOAT)
    nodes.add(graph, made, side)
    image = helper.make_tensor_value_info(cards.INPUT, TensorProto.UINT8, ["N", 1, side, side])
    look = helper.make_tensor_value_info(cards.LOOK, TensorProto.FLOAT, ["N", len(made.parts)])
    proto = helper.make_model(
        helper.make_graph(graph.nodes, "look", [image], [look], graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION,
    )  # fmt: skip
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, str(path))
    return path


@pytest.mark.parametrize("side", [64, 100, 128])
def test_the_file_says_what_was_learned(tmp_path: Path, side: int) -> None:
    made, films = learned(side, tuple(PLANTS))
    path = file_of(tmp_path / "look.onnx", made, side)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for some in (films, films[:3]):
        (found,) = session.run([cards.LOOK], {cards.INPUT: some[:, None]})
        expected = made(some)
        assert found.shape == expected.shape == (len(some), len(PLANTS))
        assert np.abs(found - expected).max() < 1e-3
    marked = made(films) >= cards.LOOK_LIMIT
    for group in range(len(PLANTS)):
        rows = slice(60 + 30 * group, 90 + 30 * group)
        assert marked[rows, group].mean() >= 0.9
    assert marked[:60].any(axis=1).mean() <= 0.05
