"""Jetson import: what jetson-inference's train.py and onnx_export.py made becomes a model of ours.

Taken are `model_best.pth.tar`, as written before and since December 2022, a bare file of
torchvision's weights, and `resnet18.onnx`, alone or with its `.onnx.data`. The network is rebuilt
as `trainer.modelfile.export` writes it, so that whatever works for a trained model works for this
one.
"""

from __future__ import annotations

import copy
import dataclasses
import datetime
import hashlib
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer import checkpoint, regular
from trainer.card import Card
from trainer.data import cache as planes
from trainer.data import classes, dataset, gathering
from trainer.data.decoding import Decoder
from trainer.errors import CheckpointError, DatasetError, ImportRefused
from trainer.film import rules
from trainer.folded import Network
from trainer.judging import calibration, crossfit
from trainer.learning import outputs
from trainer.modelfile import export, foreign, jetson_export
from trainer.modelfile.foreign import SUPPORTED
from trainer.network import device as devices
from trainer.network import model, ood
from trainer.network.ood import Detector

#: The threshold of imagenet.py: the likelier of two classes.
HALF = 0.5

#: Share of a labelled folder that settles the temperature and the operating point.
VAL_FRACTION = 0.5

#: train.py's resolution where a checkpoint does not say.
SIZE = 224


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A network from elsewhere, ready to be written as ours."""

    net: model.ResNet18
    labels: tuple[str, ...]
    #: S: films are S × S pixels.
    size: int
    #: Where it came from, for the card's provenance.
    source: dict[str, Any]
    #: Sentences that a person should read before trusting the result.
    notes: tuple[str, ...] = ()


def read(path: Path, listing: Path | None = None) -> Imported:
    """The network in a file, with its classes from `listing`, a labels.txt.

    Without `listing` the checkpoint names the classes, or the labels.txt beside the file does.
    Raises ImportRefused, which says what is supported.
    """
    foreign.check_size(path)
    if listing is None and (path.parent / "labels.txt").is_file():
        listing = path.parent / "labels.txt"
    listed = None if listing is None else labels_of(listing)
    reader = _checkpoint if _is_pytorch(path) else _onnx
    net, size, named, source, notes = reader(path)
    classes = len(net.fc.bias)
    for labels, where in ((listed, listing), (named, path)):
        if labels is not None and len(labels) != classes:
            raise ImportRefused(
                f"{where} names {len(labels)} classes and the network has {classes}; give the "
                "labels.txt that train.py wrote beside the model, with --labels"
            )
    if listed and named and listed != named:
        raise ImportRefused(
            f"{listing} says {', '.join(listed)}, the checkpoint says {', '.join(named)}, which is "
            "the order that it was trained in; correct labels.txt or remove it"
        )
    labels = listed or named
    if labels is None:
        raise ImportRefused(
            f"{path} does not name its {classes} classes; give its labels.txt with --labels"
        )
    if list(labels) != sorted(labels):
        notes.append(
            "labels.txt is not in alphabetical order, which is the order that train.py trains in: "
            "make sure that the first line is the network's first class"
        )
    return Imported(net=net, labels=labels, size=size, source=source, notes=tuple(notes))


def labels_of(listing: Path) -> tuple[str, ...]:
    """The classes of a labels.txt, one per line, as imagenet.py reads it.

    Of a line like `n01440764 tench` the synset's number is no part of the name. A blank line, which
    imagenet.py would count as a class, is allowed at the end only.
    """
    try:
        text = regular.contents(listing)[: 1 << 20].decode("utf-8-sig")
    except OSError as error:
        raise ImportRefused(f"{listing} cannot be opened: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ImportRefused(f"{listing} is not UTF-8 text: {error}") from error
    lines = text.rstrip().replace("\r\n", "\n").replace("\r", "\n").split("\n")
    labels = []
    for n, line in enumerate(lines, 1):
        name = (line[10:] if line.startswith("n") and line[9:10] == " " else line).strip()
        if not name:
            raise ImportRefused(f"line {n} of {listing} is blank and would count as a class")
        labels.append(name)
    double = {name for name in labels if labels.count(name) > 1}
    if double:
        raise ImportRefused(f"{listing} names {min(double)} twice; each line is another class")
    return tuple(labels)


def write(
    imported: Imported, path: Path, *, rule: str, positive: str | None, data: Path | None = None,
    operating_point: str = calibration.YOUDEN, threads: int = 0, decoder: Decoder | None = None,
) -> Card:  # fmt: skip
    """Write the model file; returns the card inside it.

    `rule` is the film rule, one of `film.IMPORTED`. The scores are the network's own and the
    threshold is a half, unless a labelled folder `data` is there to choose them on. Raises
    ImportRefused where `positive` is no class, or is not given and their names do not say it.
    """
    try:
        positive = classes.disease(imported.labels, positive)
    except DatasetError as error:
        raise ImportRefused(str(error)) from error
    card = Card(
        labels=imported.labels,
        positive=positive,
        size=imported.size,
        film_rule=rule,
        golden=tuple(rules.golden(rule)),
        temperature=1.0,
        threshold=HALF,
        threshold_rule="half, as imported",
        provenance={"imported": imported.source, "notes": list(imported.notes)},
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )
    net, detector = copy.deepcopy(imported.net), None
    if data is not None:
        with devices.settings(threads):
            card, detector = _calibrated(net, card, data, operating_point, decoder)
    export.write(path, net.state_dict(), card, detector)
    return card


def _calibrated(
    net: model.ResNet18, card: Card, data: Path, operating_point: str, decoder: Decoder | None
) -> tuple[Card, Detector]:
    """The card with temperature, threshold and metrics by half of a labelled folder.

    The bias of the calibration goes into the network's own.
    """
    gathered = gathering.gather([data])
    if gathered.labels != card.labels:
        advice = (
            "the order of labels.txt is that of the network, and train.py's is by name: correct "
            "labels.txt, or, if the network was trained in its order, import it without --data"
            if set(gathered.labels) == set(card.labels)
            else "correct labels.txt or the names of the folders, whichever is wrong"
        )
        raise ImportRefused(
            f"the classes of {data} are {', '.join(gathered.labels)}, those of the model "
            f"{', '.join(card.labels)}; {advice}"
        )
    films = dataset.settle(gathered, val_fraction=VAL_FRACTION, seed=0, positive=card.positive)
    with tempfile.TemporaryDirectory(prefix="pneumoq-") as cache:
        films, decoded = planes.decode(
            films, Path(cache), size=card.size, rule=card.film_rule, decoder=decoder
        )
        train, val = (films.of(split) for split in (dataset.TRAIN, dataset.VAL))
        rows, val_rows = decoded.rows(train), decoded.rows(val)
        seen = ood.Features()
        logits = outputs.predict(net, decoded, val_rows, watch=seen.add).logits.numpy()
        detector = ood.fit(net, decoded.planes, rows, seen.arrays())
    labels = np.array([f.label for f in val])
    patients = [film.patient for film in val]
    fitted = crossfit.fit(logits, labels, patients, card.positive_index, operating_point)
    with torch.no_grad():
        net.fc.bias.add_(torch.tensor(fitted.chosen.bias))
    found = dataclasses.replace(
        card,
        temperature=fitted.chosen.temperature,
        threshold=fitted.chosen.threshold,
        threshold_rule=f"{operating_point} on {len(val)} films given when it was imported",
        ood_threshold=detector.threshold,
        dataset_hash=films.hash,
        patients=films.patients,
        metrics=fitted.figures(labels == card.positive_index, patients, known=films.patients),
        basis=fitted.basis(),
        provenance={**card.provenance, "bias": fitted.chosen.bias.tolist()},
    )
    return found, detector


def unit_norms(weights: Mapping[str, Any], labels: int) -> dict[str, torch.Tensor]:
    """Weights under torchvision's names, of `<conv>.weight` and `<conv>.bias` with the batch norm
    folded in: each batch norm adds the bias and otherwise leaves things as they are."""
    state = model.ResNet18(labels).state_dict()
    # `conv2` has `bn2`, and `downsample.0` has `downsample.1`.
    norm_of = {
        name: name.replace("conv", "bn").replace("downsample.0", "downsample.1")
        for name in (key.removesuffix(".weight") for key in weights if key.endswith(".weight"))
        if not name.startswith("fc")
    }
    for name, norm in norm_of.items():
        state[f"{name}.weight"] = torch.tensor(weights[f"{name}.weight"])
        state[f"{norm}.bias"] = torch.tensor(weights[f"{name}.bias"])
        state[f"{norm}.running_mean"].zero_()
        state[f"{norm}.running_var"].fill_(1.0)
        state[f"{norm}.weight"].fill_((1.0 + model.NORM_EPS) ** 0.5)
    for key in ("fc.weight", "fc.bias"):
        state[key] = torch.tensor(weights[key])
    return state


_Read = tuple[model.ResNet18, int, "tuple[str, ...] | None", dict[str, Any], list[str]]


def _onnx(path: Path) -> _Read:
    found = foreign.read(path)
    net = model.ResNet18(found.classes).eval()
    net.load_state_dict(unit_norms(found.weights, found.classes))
    notes = []
    if not found.softmax:
        notes.append("the file ends in logits; the softmax that imagenet.py would lack is added")
    return net, found.size, None, {"file": path.name, "sha256": _sha256(path)}, notes


def _checkpoint(path: Path) -> _Read:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            inside = sum(member.file_size for member in archive.infolist())
        if inside > foreign.MAX_BYTES:
            raise ImportRefused(f"{path} unpacks to {inside / 1e6:.0f} MB; {SUPPORTED}")
    try:
        values = checkpoint.load(path)
    except CheckpointError as error:
        raise ImportRefused(str(error)) from error
    wrapped = isinstance(values.get("state_dict"), dict)
    weights = values["state_dict"] if wrapped else values
    arch = values.get("arch", "resnet18") if wrapped else "resnet18"
    if arch != "resnet18":
        raise ImportRefused(f"{path} is a {arch}; {SUPPORTED}")
    if wrapped and values.get("multi_label"):
        raise ImportRefused(f"{path} was trained with --multi-label; {SUPPORTED}")
    # A network that was trained on several GPUs has each name behind `module.`.
    weights = {str(key).removeprefix("module."): value for key, value in weights.items()}
    bias = weights.get("fc.bias")
    if not isinstance(bias, torch.Tensor) or bias.ndim != 1 or not 2 <= len(bias) <= 1000:
        raise ImportRefused(f"{path} has no last layer of two or more classes; {SUPPORTED}")
    net = model.ResNet18(len(bias)).eval()
    try:
        net.load_state_dict(weights)
    except (RuntimeError, AttributeError, TypeError) as error:
        message = " ".join(str(error).split())[:300]
        raise ImportRefused(
            f"{path} is not torchvision's ResNet18: {message}; {SUPPORTED}"
        ) from error
    if not all(bool(v.isfinite().all()) for v in net.state_dict().values()):
        raise ImportRefused(f"{path} holds weights that are no numbers; train again")
    size = values.get("resolution", SIZE) if wrapped else SIZE
    if not isinstance(size, int) or not 32 <= size <= 1024:
        raise ImportRefused(f"{path} says resolution {size!r}; 32 to 1024 is supported")
    named = values.get("classes") if wrapped else None
    if named is not None and not (
        isinstance(named, (list, tuple)) and all(isinstance(name, str) for name in named)
    ):
        raise ImportRefused(f"{path} has a damaged list of classes; {SUPPORTED}")
    source: dict[str, Any] = {"file": path.name, "sha256": _sha256(path)}
    if wrapped:
        source |= {key: values[key] for key in ("epoch",) if isinstance(values.get(key), int)}
        best = values.get("best_acc1", values.get("accuracy"))
        best = best.get("val") if isinstance(best, dict) else best
        if isinstance(best, (int, float, torch.Tensor)):
            source["val_accuracy_percent"] = float(best)
    return net, size, None if named is None else tuple(named), source, []


def _is_pytorch(path: Path) -> bool:
    """Whether a file is torch.save's: a zip archive, or the pickles of old versions."""
    with path.open("rb") as file:
        start = file.read(4)
    return start.startswith(b"PK\x03\x04") or (
        start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04"
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_checkpoint(network: Network, path: Path) -> None:
    """Write a model file's network as `model_best.pth.tar`, which train.py's onnx_export.py reads.

    There is no optimizer in it: training cannot be resumed from it.
    """
    card = network.card
    checkpoint.save(
        path,
        {
            "epoch": 0,
            "arch": "resnet18",
            "resolution": card.size,
            "classes": list(card.labels),
            "num_classes": len(card.labels),
            "multi_label": False,
            "state_dict": unit_norms(jetson_export.weights(network), len(card.labels)),
            "accuracy": {"train": 0.0, "val": 100 * card.metrics.get("accuracy", 0.0)},
            "loss": {"train": 0.0, "val": 0.0},
        },
    )
