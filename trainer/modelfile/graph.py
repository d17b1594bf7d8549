"""Graph: an ONNX graph written node by node, and the model file that it becomes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from trainer import atomic
from trainer import card as cards
from trainer.card import Card

#: What TensorRT 10.3 on JetPack 6 parses, and every later one.
OPSET, IR_VERSION = 17, 8


class Graph:
    """Nodes and constants of an ONNX graph, in the order in which they are added."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Add a constant; returns its name."""
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node with one output; returns the output's name, which is the node's too."""
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output


def write(path: Path, graph: Graph, inputs: list[Any], outputs: list[Any], card: Card) -> None:
    """Write a checked model file with its card inside, replacing `path` in one step.

    Equal graphs and cards give equal bytes.
    """
    proto = helper.make_model(
        helper.make_graph(graph.nodes, "pneumoq", inputs, outputs, graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="pneumoq",
    )
    helper.set_model_props(proto, {cards.KEY: card.to_json()})
    onnx.checker.check_model(proto, full_check=True)
    atomic.replace(path, proto.SerializeToString(deterministic=True))
