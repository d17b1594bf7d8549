"""Recalibrated: a model file of the same weights with another temperature, bias and card.

Of the file's constants two are replaced: `temperature`, and `fc.bias`, to which calibration adds
its bias as training does. All others keep their bytes, and so do the graph and what else it gives
out. Needs NumPy and onnx, no torch.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from trainer import atomic
from trainer import card as cards
from trainer.card import Card
from trainer.errors import CardError

#: The constants that a calibration chooses, of whatever precision the file is.
TEMPERATURE, BIAS = "temperature", "fc.bias"


def write(source: Path, path: Path, card: Card, bias: NDArray[np.float64]) -> None:
    """Write the file of a model calibrated anew, replacing `path` in one step.

    `source` is the file of the model as it was, `card` what is said of it now, with its new
    temperature, and `bias` `[C]` what is added to its logits. Raises CardError where `source` is no
    file that PneumoQ wrote.
    """
    cards.read(source)
    proto = onnx.load(str(source))
    constants = {one.name: one for one in proto.graph.initializer}
    if not {TEMPERATURE, BIAS} <= constants.keys():
        raise CardError(
            f"{source.name} has no temperature and bias of its own, so that it cannot be "
            "calibrated; import the model again, with --data"
        )
    before = numpy_helper.to_array(constants[BIAS])
    for name, value in (
        (TEMPERATURE, np.array(card.temperature, np.float32)),
        (BIAS, (before.astype(np.float64) + bias).astype(before.dtype)),
    ):
        constants[name].CopyFrom(numpy_helper.from_array(value, name))
    helper.set_model_props(proto, {cards.KEY: card.to_json()})
    onnx.checker.check_model(proto, full_check=True)
    atomic.replace(path, proto.SerializeToString(deterministic=True))
