"""A film alone is computed in a batch of one only where that says the same to the last bit."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from trainer import card as cards
from worker.engine import alone


def changed(source: Path, path: Path, of: str) -> Path:
    """The model with scores that are `of` the scores: a node's name, with its inputs."""
    model = onnx.load(str(source))
    graph = model.graph
    for node in graph.node:
        for n, name in enumerate(node.output):
            if name == cards.SCORES:
                node.output[n] = "as_they_were"
    nodes = {
        # Each film's depend on those beside it.
        "neighbours": [
            helper.make_node("ReduceMax", ["as_they_were"], ["most"], axes=[0], keepdims=1),
            helper.make_node("Mul", ["as_they_were", "most"], [cards.SCORES]),
        ],
        # Nothing but zeros and ones is told.
        "sure": [
            helper.make_node("Round", ["as_they_were"], [cards.SCORES]),
        ],
    }
    graph.node.extend(nodes[of])
    kept = [output for output in graph.output if output.name == cards.SCORES]
    del graph.output[:]
    graph.output.extend(
        kept or [helper.make_tensor_value_info(cards.SCORES, TensorProto.FLOAT, [])]
    )
    path.write_bytes(model.SerializeToString())
    return path


def test_a_network_says_the_same_of_a_film_alone(model_file: Path) -> None:
    assert alone.agrees(model_file, "fp32", 8)


def test_a_network_that_looks_at_neighbours_is_found_out(model_file: Path, tmp_path: Path) -> None:
    path = changed(model_file, tmp_path / "beside.onnx", "neighbours")
    assert not alone.agrees(path, "fp32", 8)


def test_a_network_that_is_sure_of_noise_proves_nothing(model_file: Path, tmp_path: Path) -> None:
    path = changed(model_file, tmp_path / "sure.onnx", "sure")
    assert not alone.agrees(path, "fp32", 8)
