"""Jetson export: a model file of ours becomes what jetson-inference's imagenet.py loads.

`resnet18.onnx` takes `input_0`, float32 [1, 3, S, S], RGB normalised as ImageNet's, and gives
`output_0`, float32 [1, C], the calibrated probabilities: temperature and bias are in the last
layer's weights. Beside it `labels.txt`. The operating threshold has no place in that format; nor
has the film rule. Needs onnx, no torch.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from trainer import atomic
from trainer.folded import LAST, Network

#: What TensorRT 8.2 on JetPack 4 parses, and every later one.
OPSET, IR_VERSION = 11, 6

ONNX, LABELS = "resnet18.onnx", "labels.txt"

#: Names that imagenet.py takes with --input-blob and --output-blob.
INPUT, OUTPUT = "input_0", "output_0"

#: Our own normalised films, which the new input takes the place of.
_NORMALISED = "normalised"


def write(network: Network, folder: Path) -> None:
    """Write `resnet18.onnx` and `labels.txt` into a folder that is there."""
    card = network.card
    last = next(i for i, node in enumerate(network.nodes) if node.name == LAST)
    first = next(i for i, node in enumerate(network.nodes) if node.name == _NORMALISED)
    nodes = []
    for node in network.nodes[first + 1 : last + 1]:
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        copied.input[:] = [INPUT if name == _NORMALISED else name for name in node.input]
        nodes.append(copied)
    values = {
        name: value
        for name, value in weights(network).items()
        if any(name in node.input for node in nodes) or name.startswith("fc.")
    }
    nodes += [
        helper.make_node("GlobalAveragePool", [LAST], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"], axis=1),
        helper.make_node("Gemm", ["features", "fc.weight", "fc.bias"], ["logits"], transB=1),
        helper.make_node("Softmax", ["logits"], [OUTPUT], axis=1),
    ]
    shape = [1, 3, card.size, card.size]
    proto = helper.make_model(
        helper.make_graph(
            nodes,
            "resnet18",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [1, len(card.labels)])],
            [numpy_helper.from_array(value, name) for name, value in values.items()],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="pneumoq",
    )
    onnx.checker.check_model(proto, full_check=True)
    atomic.replace(folder / ONNX, proto.SerializeToString(deterministic=True))
    write_labels(network, folder)


def write_labels(network: Network, folder: Path) -> None:
    """Write `labels.txt` into a folder that is there."""
    atomic.replace(folder / LABELS, "".join(f"{name}\n" for name in network.card.labels).encode())


def weights(network: Network) -> dict[str, NDArray[np.float32]]:
    """`<conv>.weight` and `<conv>.bias`, batch norms folded in, and a last layer `fc` whose softmax
    is calibrated."""
    convolutions = {name for node in network.convolutions for name in node.input[1:]}
    found = {name: network.constants[name] for name in sorted(convolutions)}
    temperature = network.constants["temperature"]
    found["fc.weight"] = network.constants["fc.weight"][:, :, 0, 0] / temperature
    found["fc.bias"] = network.constants["fc.bias"] / temperature
    return found
