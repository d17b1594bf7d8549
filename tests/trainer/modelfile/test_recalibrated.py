"""A model file that was calibrated anew: the same weights, other probabilities."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.trainer.modelfile.test_export import by_onnxruntime, films
from trainer import card as cards
from trainer.card import Card
from trainer.errors import CardError
from trainer.folded import Network
from trainer.judging import calibration, recalibration
from trainer.learning import loop
from trainer.modelfile import quantise, recalibrated

BIAS = np.array([0.4, -0.4])


def constants(path: Path) -> dict[str, bytes]:
    """The bytes of a file's constants by name."""
    graph = onnx.load(str(path)).graph
    return {one.name: one.SerializeToString(deterministic=True) for one in graph.initializer}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_all_weights_keep_their_bytes_and_probabilities_are_the_new_calibration_s(
    precision: str, trained: loop.Trained, exported: tuple[Path, Card], tmp_path: Path
) -> None:
    source = exported[0]
    if precision == "fp16":
        source = tmp_path / "half.onnx"
        quantise.fp16(Network(exported[0]), source)
    before = cards.read(source)
    said = dataclasses.replace(before, temperature=before.temperature * 1.7, threshold=0.3)
    path = tmp_path / "again.onnx"
    recalibrated.write(source, path, said, BIAS)

    assert cards.read(path).to_json() == said.to_json()
    old, new = constants(source), constants(path)
    assert {name for name in old if old[name] != new[name]} == {"temperature", "fc.bias"}
    nodes = [onnx.load(str(p)).graph.node for p in (source, path)]
    assert nodes[0] == nodes[1]
    pixels = films(trained, 7)[:, None]
    were, are = by_onnxruntime(source, pixels), by_onnxruntime(path, pixels)
    logits = recalibration.logits_of(were[cards.SCORES], before.temperature)
    expected = calibration.softmax(logits + BIAS, said.temperature)
    assert are[cards.SCORES] == pytest.approx(expected, abs=1e-6)
    for same in (cards.CAM, cards.OOD):
        assert (are[same] == were[same]).all()


def test_the_same_calibration_gives_the_same_bytes(
    exported: tuple[Path, Card], tmp_path: Path
) -> None:
    path, card = exported
    for name in ("one", "two"):
        recalibrated.write(path, tmp_path / name, card, BIAS)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_file_of_another_make_is_refused(exported: tuple[Path, Card], tmp_path: Path) -> None:
    path, card = exported
    proto = onnx.load(str(path))
    for one in proto.graph.initializer:
        one.name = one.name.replace("temperature", "t")
    onnx.save(proto, str(tmp_path / "other.onnx"))
    with pytest.raises(CardError, match=r"other\.onnx has no temperature and bias of its own"):
        recalibrated.write(tmp_path / "other.onnx", tmp_path / "new.onnx", card, BIAS)
