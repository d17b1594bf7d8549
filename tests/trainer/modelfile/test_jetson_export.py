"""What goes out to jetson-inference comes back, and says there what it says here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]  # ships no hints
import pytest
import torch
import torchvision

from tests.trainer import samples
from tests.trainer.modelfile import jetson
from trainer import card as cards
from trainer.card import Card
from trainer.film import rules
from trainer.folded import Network
from trainer.modelfile import jetson_export, jetson_import
from trainer.network import model

RULE = "gray-nearest-1"
FILMS = [samples.film(seed, sick) for seed in range(4) for sick in (False, True)]
PIXELS = np.stack([rules.decode(data, 64, RULE)[None] for data in FILMS])


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of ours with a temperature and a bias."""
    from trainer.modelfile import export

    net = model.ResNet18(2).eval()
    net.load_state_dict(jetson.network(5).state_dict())
    with torch.no_grad():
        net.fc.bias += torch.tensor([0.3, -0.3])
    card = Card(
        labels=jetson.LABELS, positive="PNEUMONIA", size=64, film_rule=RULE,
        golden=tuple(rules.golden(RULE)), temperature=1.7, threshold=0.3, threshold_rule="a third",
    )  # fmt: skip
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    export.write(path, net.state_dict(), card)
    return path


def run(path: Path, name: str, image: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {name: image})[0]  # type: ignore[no-any-return]


def test_imagenet_gets_the_same_probabilities_from_the_exported_file(
    ours: Path, tmp_path: Path
) -> None:
    jetson_export.write(Network(ours), tmp_path)
    assert (tmp_path / "labels.txt").read_text() == "NORMAL\nPNEUMONIA\n"
    expected = run(ours, cards.INPUT, PIXELS)
    assert np.ptp(expected[:, 1]) > 0.05
    for data, row in zip(FILMS, expected, strict=True):
        found = run(tmp_path / "resnet18.onnx", "input_0", jetson.imagenet(data, 64))
        assert np.abs(found - row).max() <= 1e-4


def test_the_exported_file_has_what_imagenet_asks_for(ours: Path, tmp_path: Path) -> None:
    jetson_export.write(Network(ours), tmp_path)
    proto = onnx.load(str(tmp_path / "resnet18.onnx"))
    assert [i.name for i in proto.graph.input] == ["input_0"]
    assert [o.name for o in proto.graph.output] == ["output_0"]
    assert [d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim] == [1, 3, 64, 64]
    assert {node.op_type for node in proto.graph.node} == {
        "Conv", "Relu", "MaxPool", "Add", "GlobalAveragePool", "Flatten", "Gemm", "Softmax"
    }  # fmt: skip
    assert proto.opset_import[0].version == 11


def test_a_round_trip_reproduces_the_probabilities(ours: Path, tmp_path: Path) -> None:
    jetson_export.write(Network(ours), tmp_path)
    jetson_import.write_checkpoint(Network(ours), tmp_path / "model_best.pth.tar")
    expected = run(ours, cards.INPUT, PIXELS)
    for name in ("resnet18.onnx", "model_best.pth.tar"):
        back = tmp_path / "back.onnx"
        imported = jetson_import.read(tmp_path / name)
        jetson_import.write(imported, back, rule=RULE, positive=None)
        assert np.abs(run(back, cards.INPUT, PIXELS) - expected).max() <= 1e-4


def test_the_checkpoint_goes_into_torchvisions_network(ours: Path, tmp_path: Path) -> None:
    jetson_import.write_checkpoint(Network(ours), tmp_path / "model_best.pth.tar")
    values = torch.load(tmp_path / "model_best.pth.tar", weights_only=True)
    net = torchvision.models.resnet18(num_classes=values["num_classes"]).eval()
    net.load_state_dict(values["state_dict"])
    image = torch.tensor(jetson.imagenet(FILMS[0], 64))
    with torch.no_grad():
        found = torch.softmax(net(image), 1).numpy()
    assert np.abs(found - run(ours, cards.INPUT, PIXELS[:1])).max() <= 1e-4
