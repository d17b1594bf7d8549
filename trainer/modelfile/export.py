"""Export: a trained network becomes the one file that holds the whole model.

The ONNX graph is written node by node, as `card` describes it, so that its bytes depend on the
weights and the card alone, not on the version of an exporter. Batch norms are folded into their
convolutions.
"""

from __future__ import annotations

import copy
import dataclasses
import datetime
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import PIL
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from trainer import card as cards
from trainer.acquisition.fingerprint import Fingerprint
from trainer.card import Card
from trainer.checking import fingerprints
from trainer.data import dataset
from trainer.film import rules
from trainer.judging import calibration, crossfit
from trainer.learning import outputs
from trainer.learning.loop import Trained
from trainer.modelfile import fingerprint as look_nodes
from trainer.modelfile import graph as graph_file
from trainer.modelfile import shifted as shifted_films
from trainer.modelfile.graph import Graph
from trainer.network import device as devices
from trainer.network import model, ood
from trainer.network.ood import Detector

#: The operating point is chosen on validation films as so many other acquisitions would have made
#: them. A network tells held-out patients of its own source apart so well that any threshold is as
#: good as another there, and the one in the middle of that gap is wrong for the next hospital.
VIEWS = 4

#: Prefix of each residual block's weights, and its stride.
_BLOCKS = tuple(
    (f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1)
    for layer in (1, 2, 3, 4)
    for block in (0, 1)
)

#: Tensor of each of `model.Stages`, and how often it has been halved.
_STAGES = model.Stages(
    ("gray", 0), ("layer1.1.relu2", 2), ("layer2.1.relu2", 3), ("layer3.1.relu2", 4),
    ("layer4.1.relu2", 5),
)._asdict()  # fmt: skip


def export(
    trained: Trained,
    path: Path,
    rule: str = calibration.YOUDEN,
    *,
    stop: Callable[[], bool] = lambda: False,
) -> Card:
    """Calibrate on validation and write the model file; returns the card inside it.

    `rule` chooses the operating point, see `calibration.operating_point`. No film is read again.
    Raises Stopped where `stop` is true before the end.
    """
    data, films = trained.dataset, trained.films
    val = data.of(dataset.VAL)
    labels = np.array([f.label for f in val])
    truth = labels == data.positive_index
    val_rows = films.rows(val)
    train_rows = films.rows(data.of(dataset.TRAIN))
    with devices.settings(trained.options.threads):
        seen = ood.Features()
        logits = outputs.predict(trained.net, films, val_rows, watch=seen.add).logits.numpy()
        views = [
            outputs.predict(
                trained.net, films, val_rows, view=view, strength=trained.options.augment
            ).logits.numpy()
            for view in range(VIEWS)
        ]
        detector = ood.fit(
            trained.net, films.planes, train_rows, seen.arrays(), trained.options.seed
        )
    found = trained.found or fingerprints.find(data, films, stop)
    learned, groups = fingerprints.learn(data, films, found, trained.options.seed)
    patients, dressed = [film.patient for film in val], _dressed(trained)
    fitted = crossfit.fit(
        logits, labels, patients, data.positive_index, rule,
        views=np.stack(views), dressed=dressed, epochs=of_epochs(trained),
    )  # fmt: skip
    chosen = fitted.chosen
    what = "epoch, temperature and threshold"
    if not trained.held_out:
        what = "temperature and threshold, and all the epoch"
    card = Card(
        labels=data.labels,
        positive=data.positive,
        size=trained.options.size,
        film_rule=films.rule,
        golden=tuple(rules.golden(films.rule)),
        temperature=chosen.temperature,
        threshold=chosen.threshold,
        threshold_rule=f"{rule} on {len(val)} validation films, each as {VIEWS} acquisitions"
        + ("" if dressed is None else f" and in {len(dressed)} dressing{'s' * (len(dressed) > 1)}"),
        ood_threshold=detector.threshold,
        looks=groups,
        dataset_hash=data.hash,
        patients=data.patients,
        metrics=fitted.figures(truth, patients, known=data.patients),
        # A doubt comes first: what follows it is true, and says less than it seems to.
        basis="; ".join(filter(None, (data.doubt, fitted.basis(what)))),
        shift=shifted_films.report(
            trained, chosen.temperature, chosen.bias, chosen.threshold, found, stop
        ),
        provenance={**_provenance(trained), "bias": chosen.bias.tolist()},
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )
    write(path, _calibrated(trained, card).state_dict(), card, detector, learned)
    return card


def _dressed(trained: Trained) -> NDArray[np.float32] | None:
    """What the network says of the validation films dressed, `[K, N, C]`; None where that is not
    known."""
    if not trained.held_out:
        return None
    found = trained.held_out[trained.epochs.index(trained.best)][1:]
    return found if len(found) else None


def of_epochs(trained: Trained) -> crossfit.Epochs | None:
    """What each epoch said of the validation films; None where that is not known."""
    if not trained.held_out:
        return None
    return crossfit.Epochs(logits=trained.held_out, kept=trained.epochs.index(trained.best))


@torch.no_grad()
def reference_scores(
    trained: Trained, card: Card, pixels: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """What every engine must say of `uint8 [N, S, S]`: `scores float32 [N, C]`, by PyTorch."""
    net = _calibrated(trained, card)
    device = next(net.parameters()).device
    batch = devices.looked_at(device, pixels.shape[-1])
    found = []
    with devices.settings(trained.options.threads):
        for start in range(0, len(pixels), batch):
            # A copy: they may be read-only.
            image = torch.tensor(pixels[start : start + batch, None], device=device)
            found.append(torch.softmax(net(image) / card.temperature, dim=1))
        return torch.cat(found).cpu().numpy()


def _calibrated(trained: Trained, card: Card) -> model.ResNet18:
    """The network with the calibration's bias in its own; the temperature stays apart."""
    net = copy.deepcopy(trained.net)
    with torch.no_grad():
        net.fc.bias.add_(torch.tensor(card.provenance["bias"], device=net.fc.bias.device))
    return net


def write(
    path: Path,
    weights: Mapping[str, torch.Tensor],
    card: Card,
    detector: Detector | None = None,
    learned: Fingerprint | None = None,
) -> None:
    """Write the fp32 file of torchvision-named ResNet18 weights, replacing `path` in one step.

    Without `detector` the model has no `ood` output, without `learned` no `look`. Files of other
    precisions are made from this one by `trainer.modelfile.quantise`; ValueError for a card that
    names one.
    """
    if card.precision != "fp32":
        raise ValueError(f"precision {card.precision} cannot be written from weights, only fp32")
    arrays = {key: value.detach().float().cpu().numpy() for key, value in weights.items()}
    side = _side(card.size)
    graph = Graph()
    features = _trunk(graph, arrays)
    outputs = [
        _output(cards.SCORES, "N", len(card.labels)),
        _output(cards.CAM, "N", side, side),
    ]
    _head(graph, features, arrays, card)
    if detector is not None:
        _ood(graph, detector, card.size)
        outputs.append(_output(cards.OOD, "N"))
    if learned is not None and learned.parts:
        look_nodes.add(graph, learned, card.size)
        outputs.append(_output(cards.LOOK, "N", len(learned.parts)))
    image = helper.make_tensor_value_info(
        cards.INPUT, TensorProto.UINT8, ["N", 1, card.size, card.size]
    )
    graph_file.write(path, graph, [image], outputs, card)


def _trunk(graph: Graph, weights: dict[str, NDArray[np.float32]]) -> str:
    """The network up to its last feature maps, `float32 [N, 512, h, w]`.

    All that a precision changes is in here: the convolutions, and what enters and leaves them. The
    names of the tensors are those by which `trainer.modelfile.quantise` finds them.
    """
    x = graph.add("Cast", [cards.INPUT], "gray", to=TensorProto.FLOAT)
    # Broadcasting over [1, 3, 1, 1] repeats the gray plane. It is not folded into the first
    # convolution, whose padding is a mean-gray border and not a black one.
    mean = np.array(model.MEAN, np.float32).reshape(1, 3, 1, 1) * np.float32(255)
    std = np.array(model.STD, np.float32).reshape(1, 3, 1, 1) * np.float32(255)
    x = graph.add("Sub", [x, graph.constant("mean", mean)], "centred")
    x = graph.add("Div", [x, graph.constant("std", std)], "normalised")
    x = _convolution(graph, weights, x, "conv1", "bn1", stride=2)
    x = graph.add("Relu", [x], "relu")
    pool = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    x = graph.add("MaxPool", [x], "maxpool", **pool)
    for block, stride in _BLOCKS:
        short = x
        x = _convolution(graph, weights, x, f"{block}.conv1", f"{block}.bn1", stride)
        x = graph.add("Relu", [x], f"{block}.relu1")
        x = _convolution(graph, weights, x, f"{block}.conv2", f"{block}.bn2")
        if f"{block}.downsample.0.weight" in weights:
            down = f"{block}.downsample"
            short = _convolution(graph, weights, short, f"{down}.0", f"{down}.1", stride)
        x = graph.add("Add", [x, short], f"{block}.add")
        x = graph.add("Relu", [x], f"{block}.relu2")
    return x


def _convolution(
    graph: Graph,
    weights: dict[str, NDArray[np.float32]],
    x: str,
    name: str,
    norm: str,
    stride: int = 1,
) -> str:
    """A convolution with its batch norm folded in, padded so that only the stride shrinks."""
    kernel = weights[f"{name}.weight"].astype(np.float64)
    variance = weights[f"{norm}.running_var"].astype(np.float64) + model.NORM_EPS
    gain = weights[f"{norm}.weight"] / np.sqrt(variance)
    bias = weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * gain
    folded = (kernel * gain[:, None, None, None]).astype(np.float32)
    inputs = [
        x,
        graph.constant(f"{name}.weight", folded),
        graph.constant(f"{name}.bias", bias.astype(np.float32)),
    ]
    side = kernel.shape[-1]
    return graph.add(
        "Conv",
        inputs,
        name,
        kernel_shape=[side, side],
        strides=[stride, stride],
        pads=[side // 2] * 4,
    )


def _head(graph: Graph, features: str, weights: dict[str, NDArray[np.float32]], card: Card) -> None:
    """`cam` and `scores` from the feature maps."""
    kernel = graph.constant("fc.weight", weights["fc.weight"][:, :, None, None])
    maps = graph.add("Conv", [features, kernel], "maps", kernel_shape=[1, 1])  # [N, C, h, w]
    positive = graph.constant("positive", np.array(card.positive_index, np.int64))
    graph.add("Gather", [maps, positive], cards.CAM, axis=1)
    x = graph.add("ReduceMean", [maps], "evidence", axes=[2, 3], keepdims=0)
    x = graph.add("Add", [x, graph.constant("fc.bias", weights["fc.bias"])], "logits")
    temperature = graph.constant("temperature", np.array(card.temperature, np.float32))
    x = graph.add("Div", [x, temperature], "calibrated")
    graph.add("Softmax", [x], cards.SCORES, axis=1)


def _ood(graph: Graph, detector: Detector, size: int) -> None:
    """`ood` from the film and the layers' maps, as `Detector` defines it."""
    features, mapped = [], []
    for part in detector.parts:
        name = f"ood.{part.stage}"
        tensor, halvings = _STAGES[part.stage]
        x = _cells(graph, tensor, name, _side(size, halvings), part.cells)
        x = graph.add("Sub", [x, graph.constant(f"{name}.mean", part.mean)], f"{name}.centred")
        x = graph.add("Mul", [x, graph.constant(f"{name}.gain", part.gain)], f"{name}.standardised")
        features.append(x)
        x = graph.add("MatMul", [x, graph.constant(f"{name}.map", part.map)], f"{name}.mapped")
        mapped.append(x)
    x = graph.add("Concat", mapped, "ood.mapped", axis=1)
    x = graph.add("Mul", [x, x], "ood.squared")
    axis = graph.constant("ood.axis", np.array([1], np.int64))
    x = graph.add("ReduceSum", [x, axis], "ood.summed", keepdims=1)
    distance = graph.add("Sqrt", [x], "ood.distance")
    x = graph.add("Concat", features, "ood.features", axis=1)
    low, high = (
        graph.constant(f"ood.{name}", np.array(value, np.float32))
        for name, value in (("low", -ood.CLIP), ("high", ood.CLIP))
    )
    x = graph.add("Clip", [x, low, high], "ood.clipped")
    weights = np.concatenate([part.head for part in detector.parts])[:, None]
    x = graph.add("MatMul", [x, graph.constant("ood.head", weights)], "ood.logit")
    bias = graph.constant("ood.bias", np.array([detector.bias], np.float32))
    head = graph.add("Add", [x, bias], "ood.biased")
    x = graph.add("Concat", [distance, head], "ood.both", axis=1)
    graph.add("ReduceMax", [x], cards.OOD, axes=[1], keepdims=0)


def _cells(graph: Graph, x: str, name: str, side: int, cells: int) -> str:
    """`[N, C × cells²]` means of maps `[N, C, side, side]` as adaptive average pooling takes them.

    As products with a constant matrix, since engines pool by equal windows only; it stands on the
    right, where every engine takes it.
    """
    if cells == 1:
        return graph.add("ReduceMean", [x], f"{name}.pooled", axes=[2, 3], keepdims=0)
    share = np.zeros((cells, side), np.float32)
    for cell in range(cells):
        first, last = cell * side // cells, -(-(cell + 1) * side // cells)
        share[cell, first:last] = 1 / (last - first)
    windows = graph.constant(f"{name}.windows", np.ascontiguousarray(share.T))
    for way in ("columns", "rows"):
        x = graph.add("MatMul", [x, windows], f"{name}.{way}")
        x = graph.add("Transpose", [x], f"{name}.{way}.turned", perm=[0, 1, 3, 2])
    return graph.add("Flatten", [x], f"{name}.flat", axis=1)


def _output(name: str, *shape: str | int) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def _side(size: int, halvings: int = 5) -> int:
    """Height and width of maps after so many halvings, each rounded up; 5 lead to the last ones."""
    for _ in range(halvings):
        size = (size + 1) // 2
    return size


def _version(package: str) -> str:
    """The version of a package that is not imported for it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _provenance(trained: Trained) -> dict[str, Any]:
    options = dataclasses.asdict(trained.options)
    # Paths mean nothing elsewhere and may name people.
    options.update(init=trained.init.name, resume_from=trained.options.resume_from is not None)
    return {
        "options": options,
        "init": dataclasses.asdict(trained.init),
        "best_epoch": dataclasses.asdict(trained.best),
        "verdict": trained.verdict,
        "device": trained.device,
        "precision": trained.precision,
        "films": {split: trained.dataset.count(split) for split in (dataset.TRAIN, dataset.VAL)},
        "left_out": len(trained.dataset.left_out),
        "notes": [*trained.dataset.notes, *filter(None, (trained.dataset.doubt,))],
        "versions": {
            "torch": torch.__version__,
            "torchvision": _version("torchvision"),
            "numpy": np.__version__,
            "pillow": PIL.__version__,
            "onnx": onnx.__version__,
        },
    }
