"""A model file that costs nothing to compute: what is left is the plumbing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from trainer import card as cards
from trainer.card import Card
from trainer.film import rules


def write(path: Path, size: int = 32) -> Card:
    """Write a model that says 0.25 of every film of `size` × `size` pixels; returns its card."""
    made = Card(
        labels=("NORMAL", "PNEUMONIA"),
        positive="PNEUMONIA",
        size=size,
        film_rule=rules.DEFAULT_RULE,
        golden=tuple(rules.golden()),
        temperature=1.0,
        threshold=0.5,
        threshold_rule="as given: a constant",
    )
    constants = [
        numpy_helper.from_array(np.array([[0.75, 0.25]], np.float32), "said"),
        numpy_helper.from_array(np.array(0.0, np.float32), "nothing"),
    ]
    nodes = [
        # One number per film, so that the answer has the batch's length.
        helper.make_node("Cast", [cards.INPUT], ["gray"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["gray"], ["most"], axes=[2, 3], keepdims=0),  # [N, 1]
        helper.make_node("Mul", ["most", "nothing"], ["zero"]),
        helper.make_node("Add", ["zero", "said"], [cards.SCORES]),
    ]
    image = helper.make_tensor_value_info(cards.INPUT, TensorProto.UINT8, ["N", 1, size, size])
    scores = helper.make_tensor_value_info(cards.SCORES, TensorProto.FLOAT, ["N", 2])
    proto = helper.make_model(
        helper.make_graph(nodes, "constant", [image], [scores], constants),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    helper.set_model_props(proto, {cards.KEY: made.to_json()})
    onnx.checker.check_model(proto, full_check=True)
    path.write_bytes(proto.SerializeToString(deterministic=True))
    return made
