"""What plans are built of and for in tests, without a GPU and without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onnx import TensorProto, helper

from trainer import card as cards
from trainer.modelfile import graph
from worker.engine.build import Options
from worker.machine.gpu import Gpu

#: S of the networks here, as of `samples`.
SIZE = 64

#: A GPU as the driver would describe it. Nobody needs to have it: plans are built for it.
GPU = Gpu(
    index=0,
    name="NVIDIA GeForce RTX 4090",
    uuid="GPU-00000000-0000-0000-0000-000000000000",
    compute_capability=(8, 9),
    memory_bytes=24 << 30,
    integrated=False,
    driver="13.0",
)

#: Its compute capability, as TensorRT-RTX names it.
TARGET = "SM89"


def options(precision: str = "fp32", **changed: Any) -> Options:
    """How plans of networks of SIZE are built."""
    values = {"size": SIZE, "max_batch": 8, "workspace_mb": 256} | changed
    return Options(precision=precision, **values)


def write_tiny(path: Path, size: int = SIZE, kind: int = TensorProto.UINT8) -> Path:
    """Write a network with a model's input and output, and next to nothing between them."""
    nodes = [
        helper.make_node("Cast", [cards.INPUT], ["gray"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["gray"], ["means"], axes=[3], keepdims=0),
        helper.make_node("Flatten", ["means"], ["flat"], axis=1),
        helper.make_node("Softmax", ["flat"], [cards.SCORES], axis=1),
    ]
    image = helper.make_tensor_value_info(cards.INPUT, kind, ["N", 1, size, size])
    scores = helper.make_tensor_value_info(cards.SCORES, TensorProto.FLOAT, ["N", size])
    proto = helper.make_model(
        helper.make_graph(nodes, "tiny", [image], [scores]),
        opset_imports=[helper.make_opsetid("", graph.OPSET)],
        ir_version=graph.IR_VERSION,
    )
    path.write_bytes(proto.SerializeToString())
    return path
