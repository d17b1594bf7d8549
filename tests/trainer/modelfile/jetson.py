"""Files as train.py and onnx_export.py of jetson-inference write them, and what imagenet.py does.

Made by the notes on the reference: the network inside `nn.Sequential` with a softmax, one film per
batch, `input_0` and `output_0`. The computation takes no code of ours: pixels one by one, torch's
own ResNet18.
"""

from __future__ import annotations

import copy
import functools
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torchvision
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from PIL import Image
from torch import nn

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

LABELS = ("NORMAL", "PNEUMONIA")


def network(seed: int = 0, labels: int = 2, arch: str = "resnet18") -> nn.Module:
    """A ResNet whose batch norms have seen something and whose answers differ from film to film."""
    return copy.deepcopy(_network(seed, labels, arch))


@functools.cache
def _network(seed: int, labels: int, arch: str) -> nn.Module:
    torch.manual_seed(seed)
    net = getattr(torchvision.models, arch)(num_classes=labels)
    with torch.no_grad():
        for _ in range(4):
            net.train()(torch.randn(8, 3, 64, 64))
        net.fc.weight *= 8
    return net.eval()  # type: ignore[no-any-return]


def with_softmax(net: nn.Module) -> nn.Module:
    """What onnx_export.py hands to the exporter."""
    return nn.Sequential(net, nn.Softmax(1)).eval()


def write_onnx(net: nn.Module, path: Path, size: int = 64) -> None:
    """One file, as torch.onnx.export(dynamo=False) writes it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net, (torch.ones(1, 3, size, size),), str(path), dynamo=False,
            input_names=["input_0"], output_names=["output_0"],
        )  # fmt: skip


def write_two_files(net: nn.Module, path: Path, size: int = 64) -> None:
    """Two files, as torch.onnx.export writes them by default: opset 20, a mean and a Reshape before
    the last layer, and the weights in `.onnx.data`."""
    write_onnx(net, path, size)
    proto = onnx.load(str(path))
    proto.ir_version = 10
    proto.opset_import[0].version = 20
    (pool,) = (node for node in proto.graph.node if node.op_type == "GlobalAveragePool")
    pool.op_type = "ReduceMean"
    pool.input.append("val_1")
    proto.graph.initializer.append(numpy_helper.from_array(np.array([-1, -2]), "val_1"))
    (flatten,) = (node for node in proto.graph.node if node.op_type == "Flatten")
    flatten.op_type = "Reshape"
    del flatten.attribute[:]
    flatten.input.append("val_0")
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1, 512]), "val_0"))
    onnx.save(
        proto, str(path), save_as_external_data=True, location=f"{path.name}.data",
        size_threshold=256,
    )  # fmt: skip


def write_by_default_exporter(net: nn.Module, path: Path, size: int = 64) -> None:
    """The same by the exporter itself, which needs onnxscript."""
    pytest.importorskip("onnxscript", reason="torch's default exporter needs onnxscript")
    torch.onnx.export(
        net, (torch.ones(1, 3, size, size),), str(path), dynamo=True, verbose=False,
        input_names=["input_0"], output_names=["output_0"],
    )  # fmt: skip


def write_checkpoint(net: nn.Module, path: Path, *, old: bool = False, **changed: Any) -> None:
    """`model_best.pth.tar` as it is written since December 2022, or as before."""
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    values: dict[str, Any] = {
        "epoch": 35, "arch": "resnet18", "resolution": 64, "num_classes": 2,
        "state_dict": net.state_dict(), "optimizer": optimizer.state_dict(),
    }  # fmt: skip
    if old:
        values["best_acc1"] = torch.tensor(93.75)
    else:
        values |= {
            "classes": list(LABELS), "multi_label": False,
            "accuracy": {"train": 97.1, "val": 93.75}, "loss": {"train": 0.1, "val": 0.2},
        }  # fmt: skip
    torch.save({**values, **changed}, path)


def imagenet(data: bytes, size: int) -> NDArray[np.float32]:
    """What imageNet.cpp feeds the network of one file: `float32 [1, 3, S, S]`."""
    with Image.open(io.BytesIO(data)) as image:
        rgb = np.asarray(image.convert("RGB"))
    height, width, _ = rgb.shape
    out = np.empty((1, 3, size, size), np.float32)
    for y in range(size):
        for x in range(size):
            dy = int(np.float32(y) * (np.float32(height) / np.float32(size)))
            dx = int(np.float32(x) * (np.float32(width) / np.float32(size)))
            for c in range(3):
                out[0, c, y, x] = (rgb[dy, dx, c] / np.float32(255) - MEAN[c]) / STD[c]
    return out


def validation(data: bytes, size: int) -> NDArray[np.float32]:
    """What train.py's validation feeds the network of one file."""
    from torchvision import transforms as t

    steps = [t.Resize(size), t.CenterCrop(size), t.ToTensor(), t.Normalize(MEAN, STD)]
    with Image.open(io.BytesIO(data)) as image:
        return t.Compose(steps)(image.convert("RGB"))[None].numpy()  # type: ignore[no-any-return]


def replace_attribute(path: Path, op: str, name: str, value: Any) -> None:
    """Change an attribute of the last node of a kind in an ONNX file."""
    proto = onnx.load(str(path))
    node = [node for node in proto.graph.node if node.op_type == op][-1]
    for n, attribute in enumerate(node.attribute):
        if attribute.name == name:
            del node.attribute[n]
            break
    node.attribute.append(helper.make_attribute(name, value))
    onnx.save(proto, str(path))
