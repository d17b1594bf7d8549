"""Models that jetson-inference trained score here as they scored there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]  # ships no hints
import pytest
import torch
from onnx import TensorProto
from torch import nn

from tests.trainer import samples
from tests.trainer.modelfile import jetson
from trainer import card as cards
from trainer.errors import ImportRefused
from trainer.film import rules
from trainer.modelfile import foreign, jetson_import

FILMS = [samples.film(seed, sick) for seed in range(3) for sick in (False, True)]

Write = Callable[[nn.Module, Path], None]


def labels(folder: Path, text: str = "NORMAL\nPNEUMONIA\n") -> Path:
    path = folder / "labels.txt"
    path.write_bytes(text.encode())
    return path


def one_file(net: nn.Module, path: Path) -> None:
    jetson.write_onnx(jetson.with_softmax(net), path)


def two_files(net: nn.Module, path: Path) -> None:
    jetson.write_two_files(jetson.with_softmax(net), path)


def by_default_exporter(net: nn.Module, path: Path) -> None:
    jetson.write_by_default_exporter(jetson.with_softmax(net), path)


def without_softmax(net: nn.Module, path: Path) -> None:
    jetson.write_onnx(net, path)


def unfolded(net: nn.Module, path: Path) -> None:
    net = jetson.with_softmax(net)
    torch.onnx.export(
        net, (torch.ones(1, 3, 64, 64),), str(path), dynamo=False, do_constant_folding=False,
        training=torch.onnx.TrainingMode.PRESERVE, input_names=["input_0"],
        output_names=["output_0"],
    )  # fmt: skip
    assert "BatchNormalization" in {n.op_type for n in onnx.load(str(path)).graph.node}


def old_checkpoint(net: nn.Module, path: Path) -> None:
    jetson.write_checkpoint(net, path, old=True)


def of_several_gpus(net: nn.Module, path: Path) -> None:
    state = {f"module.{key}": value for key, value in net.state_dict().items()}
    jetson.write_checkpoint(net, path, state_dict=state)


def bare_weights(net: nn.Module, path: Path) -> None:
    torch.save(net.state_dict(), path)


def pickled(net: nn.Module, path: Path) -> None:
    torch.save({"arch": "resnet18", "resolution": 64, "state_dict": net.state_dict()}, path,
               _use_new_zipfile_serialization=False)  # fmt: skip


def scores(path: Path, rule: str) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    size = cards.read(path).size
    pixels = np.stack([rules.decode(data, size, rule)[None] for data in FILMS])
    return session.run([cards.SCORES], {cards.INPUT: pixels})[0]  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    ("write", "name"),
    [
        (one_file, "resnet18.onnx"),
        (two_files, "resnet18.onnx"),
        (by_default_exporter, "resnet18.onnx"),
        (without_softmax, "resnet18.onnx"),
        (unfolded, "resnet18.onnx"),
        (jetson.write_checkpoint, "model_best.pth.tar"),
        (old_checkpoint, "model_best.pth.tar"),
        (of_several_gpus, "model_best.pth.tar"),
        (bare_weights, "resnet18.pth"),
        (pickled, "model_best.pth.tar"),
    ],
)
def test_an_imported_file_scores_as_imagenet_does(write: Write, name: str, tmp_path: Path) -> None:
    net = jetson.network()
    write(net, tmp_path / name)
    imported = jetson_import.read(tmp_path / name, labels(tmp_path))
    imported = jetson_import.Imported(**{**vars(imported), "size": 64})  # bare weights say none
    for rule, prepare in (
        ("gray-nearest-1", jetson.imagenet),
        ("gray-crop-1", jetson.validation),
    ):
        ours = tmp_path / "ours.onnx"
        card = jetson_import.write(imported, ours, rule=rule, positive=None)
        assert (card.labels, card.positive, card.threshold) == (jetson.LABELS, "PNEUMONIA", 0.5)
        with torch.no_grad():
            expected = np.concatenate(
                [torch.softmax(net(torch.tensor(prepare(data, 64))), 1).numpy() for data in FILMS]
            )
        assert np.ptp(expected[:, 1]) > 0.05
        assert np.abs(scores(ours, rule) - expected).max() <= 1e-4


def test_the_file_itself_is_the_reference(tmp_path: Path) -> None:
    path = tmp_path / "resnet18.onnx"
    one_file(jetson.network(3), path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    expected = [session.run(None, {"input_0": jetson.imagenet(f, 64)})[0][0] for f in FILMS]
    imported = jetson_import.read(path, labels(tmp_path))
    jetson_import.write(imported, tmp_path / "ours.onnx", rule="gray-nearest-1", positive=None)
    assert np.abs(scores(tmp_path / "ours.onnx", "gray-nearest-1") - expected).max() <= 1e-4


def test_a_missing_softmax_is_added_and_said(tmp_path: Path) -> None:
    without_softmax(jetson.network(), tmp_path / "resnet18.onnx")
    (note,) = jetson_import.read(tmp_path / "resnet18.onnx", labels(tmp_path)).notes
    assert "ends in logits" in note


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("NORMAL\r\nPNEUMONIA\r\n\r\n", ("NORMAL", "PNEUMONIA")),
        ("\ufeffNORMAL\nPNEUMONIA", ("NORMAL", "PNEUMONIA")),
        ("n01440764 tench, Tinca\nnormal lung\n", ("tench, Tinca", "normal lung")),
    ],
)
def test_labels_are_read_as_imagenet_reads_them(
    text: str, names: tuple[str, ...], tmp_path: Path
) -> None:
    assert jetson_import.labels_of(labels(tmp_path, text)) == names


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("NORMAL\n\nPNEUMONIA\n", "line 2 of .* is blank"),
        ("", "line 1 of .* is blank"),
        ("A\nA\n", "names A twice"),
        ("A\nB\nC\n", "names 3 classes and the network has 2"),
        ("PNEUMONIA\nNORMAL\n", "the checkpoint says NORMAL, PNEUMONIA"),
    ],
)
def test_labels_that_cannot_be_right_are_refused(text: str, said: str, tmp_path: Path) -> None:
    jetson.write_checkpoint(jetson.network(), tmp_path / "model_best.pth.tar")
    with pytest.raises(ImportRefused, match=said):
        jetson_import.read(tmp_path / "model_best.pth.tar", labels(tmp_path, text))


def test_labels_lie_beside_the_file_or_inside_it_or_are_asked_for(tmp_path: Path) -> None:
    jetson.write_checkpoint(jetson.network(), tmp_path / "new.pth.tar")
    old_checkpoint(jetson.network(), tmp_path / "old.pth.tar")
    assert jetson_import.read(tmp_path / "new.pth.tar").labels == jetson.LABELS
    with pytest.raises(ImportRefused, match=r"give its labels\.txt with --labels"):
        jetson_import.read(tmp_path / "old.pth.tar")
    labels(tmp_path)
    assert jetson_import.read(tmp_path / "old.pth.tar").labels == jetson.LABELS


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"arch": "resnet50"}, "is a resnet50; only a ResNet18"),
        ({"multi_label": True}, "--multi-label"),
        ({"resolution": 20}, "resolution 20"),
        ({"state_dict": {"fc.bias": torch.zeros(2)}}, "not torchvision's ResNet18"),
        ({"state_dict": {}}, "no last layer"),
        ({"classes": [1, 2]}, "damaged list of classes"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(
    changed: dict[str, object], said: str, tmp_path: Path
) -> None:
    jetson.write_checkpoint(jetson.network(), tmp_path / "best.pth.tar", **changed)
    with pytest.raises(ImportRefused, match=said):
        jetson_import.read(tmp_path / "best.pth.tar", labels(tmp_path))


class Runs:
    """Would run code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit",)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    jetson.write_checkpoint(jetson.network(), tmp_path / "best.pth.tar", extra=Runs())
    with pytest.raises(ImportRefused, match="such files can run code"):
        jetson_import.read(tmp_path / "best.pth.tar", labels(tmp_path))


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    net = jetson.network()
    with torch.no_grad():
        net.fc.weight[0, 0] = float("nan")  # type: ignore[union-attr, operator]
    jetson.write_checkpoint(net, tmp_path / "best.pth.tar")
    one_file(net, tmp_path / "resnet18.onnx")
    for name in ("best.pth.tar", "resnet18.onnx"):
        with pytest.raises(ImportRefused, match="train again"):
            jetson_import.read(tmp_path / name, labels(tmp_path))


def test_a_network_of_another_shape_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "resnet18.onnx"
    jetson.write_onnx(jetson.with_softmax(jetson.network(arch="resnet34")), path)
    with pytest.raises(ImportRefused, match="36 convolutions and a ResNet18 has 20"):
        foreign.read(path)
    jetson.write_onnx(nn.Sequential(jetson.network(), nn.Sigmoid()), path)
    with pytest.raises(ImportRefused, match="--multi-label"):
        foreign.read(path)
    jetson.write_onnx(jetson.with_softmax(jetson.with_softmax(jetson.network())), path)
    with pytest.raises(ImportRefused, match="followed by Softmax"):
        foreign.read(path)
    for op, name, value in (
        ("Conv", "strides", [2, 2]),
        ("Conv", "dilations", [2, 2]),
        ("Softmax", "axis", 0),
        ("Gemm", "alpha", 2.0),
    ):
        jetson.write_onnx(jetson.with_softmax(jetson.network()), path)
        jetson.replace_attribute(path, op, name, value)
        with pytest.raises(ImportRefused, match="is not torchvision's ResNet18"):
            foreign.read(path)


def test_weights_outside_the_folder_are_not_followed(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    path = inside / "resnet18.onnx"
    two_files(jetson.network(), path)
    data = inside / "resnet18.onnx.data"
    foreign.read(path)

    whole = data.read_bytes()
    data.write_bytes(whole[:-4])
    with pytest.raises(ImportRefused, match="cut short"):
        foreign.read(path)
    data.unlink()
    with pytest.raises(ImportRefused, match=r"put that file beside it"):
        foreign.read(path)
    (tmp_path / "secret").write_bytes(whole)
    data.symlink_to(tmp_path / "secret")
    with pytest.raises(ImportRefused, match="outside its folder"):
        foreign.read(path)
    proto = onnx.load(str(path), load_external_data=False)
    for tensor in proto.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            tensor.external_data[0].value = "../secret"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ImportRefused, match="outside its folder"):
        foreign.read(path)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "resnet18.onnx"
    one_file(jetson.network(), path)
    whole = path.read_bytes()
    for data in (
        b"",
        b"PK\x03\x04",
        b"\x80\x02",
        b"nonsense",
        whole[: len(whole) // 2],
        whole[:200],
    ):
        path.write_bytes(data)
        with pytest.raises(ImportRefused):
            jetson_import.read(path, labels(tmp_path))
    with pytest.raises(ImportRefused, match="cannot be opened"):
        jetson_import.read(tmp_path / "gone.onnx", labels(tmp_path))


def test_where_the_classes_do_not_say_which_is_the_disease_it_is_asked(tmp_path: Path) -> None:
    jetson.write_checkpoint(jetson.network(), tmp_path / "best.pth.tar")
    imported = dataclasses.replace(
        jetson_import.read(tmp_path / "best.pth.tar"), labels=("COVID", "TB")
    )
    with pytest.raises(ImportRefused, match=r"neither COVID nor TB .* --positive CLASS"):
        jetson_import.write(imported, tmp_path / "x", rule="gray-nearest-1", positive=None)
    imported = dataclasses.replace(imported, labels=("COVID", "NORMAL"))
    card = jetson_import.write(imported, tmp_path / "x", rule="gray-nearest-1", positive=None)
    assert card.positive == "COVID"


def test_a_labelled_folder_settles_threshold_and_temperature(tmp_path: Path) -> None:
    folder = tmp_path / "films"
    samples.fill(folder, patients=12)
    jetson.write_checkpoint(jetson.network(), tmp_path / "best.pth.tar")
    imported = jetson_import.read(tmp_path / "best.pth.tar")
    ours = tmp_path / "ours.onnx"
    card = jetson_import.write(imported, ours, rule="gray-nearest-1", positive=None, data=folder)
    assert card.threshold_rule.startswith("youden on 24 films given")
    assert card.temperature != 1.0
    assert card.ood_threshold is not None
    assert card.metrics["films"] == 24
    assert cards.read(ours).to_json() == card.to_json()
    (folder / "PNEUMONIA").rename(folder / "SICK")
    with pytest.raises(ImportRefused, match="are NORMAL, SICK, those of the model"):
        jetson_import.write(imported, ours, rule="gray-nearest-1", positive="NORMAL", data=folder)
    with pytest.raises(ImportRefused, match=r"correct labels.txt or the names of the folders"):
        jetson_import.write(imported, ours, rule="gray-nearest-1", positive=None, data=folder)
    (folder / "SICK").rename(folder / "PNEUMONIA")
    swapped = dataclasses.replace(imported, labels=imported.labels[::-1])
    with pytest.raises(ImportRefused, match=r"PNEUMONIA, NORMAL; .* correct labels.txt, or, if"):
        jetson_import.write(swapped, ours, rule="gray-nearest-1", positive=None, data=folder)
