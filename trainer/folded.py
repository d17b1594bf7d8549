"""Folded: the network inside an fp32 model file, its batch norms folded into its convolutions.

What faster precisions, jetson-inference's files and a warm start are made of. Needs NumPy and onnx,
no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper, numpy_helper

from trainer import card as cards
from trainer.errors import QuantiseError

#: Tensors by whose names the parts of what `trainer.modelfile.export` writes are found.
GRAY, FIRST, STEM, LAST = "gray", "conv1", "maxpool", "layer4.1.relu2"


class Network:
    """The network inside an fp32 model file."""

    def __init__(self, path: Path) -> None:
        """Read a file that `export` wrote; raises CardError or QuantiseError for others."""
        self.card = cards.read(path)
        proto = onnx.load(str(path))
        self.proto = proto
        self.nodes = list(proto.graph.node)
        self.constants = {i.name: numpy_helper.to_array(i) for i in proto.graph.initializer}
        names = {node.name for node in self.nodes}
        if self.card.precision != "fp32" or not {GRAY, FIRST, STEM, LAST} <= names:
            raise QuantiseError(
                f"{path.name} is not an fp32 file that PneumoQ trained, and only such a network is "
                "known well enough to be quantised"
            )
        inferred = onnx.shape_inference.infer_shapes(proto).graph
        #: Height of every tensor that has one.
        self.side = {
            value.name: value.type.tensor_type.shape.dim[2].dim_value
            for value in inferred.value_info
            if len(value.type.tensor_type.shape.dim) == 4
        }

    @property
    def trunk(self) -> list[str]:
        """Nodes up to the last feature maps, in order; their outputs have the same names."""
        last = next(i for i, node in enumerate(self.nodes) if node.name == LAST)
        return [node.name for node in self.nodes[: last + 1]]

    @property
    def convolutions(self) -> list[Any]:
        """Nodes of the trunk's convolutions, in order."""
        trunk = self.nodes[: len(self.trunk)]
        return [node for node in trunk if node.op_type == "Conv"]

    @property
    def activations(self) -> list[str]:
        """What the convolutions after the first one read: the tensors that `int8` must know."""
        return list(dict.fromkeys(node.input[0] for node in self.convolutions[1:]))

    def observable(self) -> bytes:
        """The model with the activations as further outputs, serialised."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        for name in self.activations:
            proto.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
        return bytes(proto.SerializeToString())
