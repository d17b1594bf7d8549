"""Warm start: training goes on from a model file, as if its weights had never been folded.

A model file has its batch norms folded into the convolutions. Trained on as it is, with norms that
do nothing, the first batch would turn each of them into another function. So each norm gets the
mean and spread that its convolution has on the training films, and the scale and shift that undo
them: what the network says stays the same to rounding, and in training, where a batch's own mean
and spread take their place, nearly so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer import augment, model
from trainer.errors import CardError, QuantiseError, WeightsError
from trainer.feed import Feed
from trainer.model import Init, ResNet18
from trainer.pixels import Pixels
from trainer.quantise import Network

#: A path of initial weights that ends so is that of a model file.
SUFFIX = ".onnx"

#: Films on which means and spreads are measured: each is of many thousand values even so.
FILMS = 512

#: The film's numbers by which `augment` changes it, apart from those of validation's views.
_VIEW = 1_000_003


def build(labels: Sequence[str], path: Path, seed: int = 0) -> tuple[ResNet18, Init, str]:
    """A network whose weights are those of a model file, its norms still doing nothing.

    The head follows by class name; that of other classes is drawn from `seed`. Also returns a
    sentence for a person. Raises WeightsError where the file is not one of ours.
    """
    net, _ = model.build(len(labels), model.SCRATCH, seed)
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        network = Network(path)
    except (OSError, CardError, QuantiseError) as error:
        raise WeightsError(f"{path} cannot be started from: {error}") from error
    constants, card = network.constants, network.card
    weights: dict[str, Tensor] = {}
    for name, value in net.state_dict().items():
        stem, _, kind = name.rpartition(".")
        source = _convolution(stem)
        if source is None:  # a convolution
            found = constants.get(name)
            if not stem.startswith("fc"):
                weights[name] = _like(found, value, name, path)
        elif kind == "bias":
            weights[name] = _like(constants.get(f"{source}.bias"), value, name, path)
        elif kind == "running_var":
            weights[name] = torch.full_like(value, 1 - model.NORM_EPS)
        elif kind in ("weight", "running_mean"):
            weights[name] = torch.full_like(value, float(kind == "weight"))
    same = sorted(card.labels) == sorted(labels)
    said = f"going on from the weights of {path.name}"
    if same:
        order = [card.labels.index(name) for name in labels]
        for name in ("fc.weight", "fc.bias"):
            value = np.asarray(constants[name]).reshape(
                len(order), *net.state_dict()[name].shape[1:]
            )
            weights[name] = torch.tensor(value[order])
    else:
        said += f", whose classes are {', '.join(card.labels)}: the last layer is new"
    net.load_state_dict(weights, strict=False)
    return net, Init(name=f"model {digest[:12]}", sha256=digest), said


@torch.no_grad()
def settle(
    net: ResNet18,
    films: Pixels,
    rows: NDArray[np.int64],
    *,
    strength: float,
    seed: int,
    batch: int = 32,
) -> None:
    """Give each norm of `build`'s network what its convolution has on these films, changed as in
    training (`strength`)."""
    chosen = rows[np.linspace(0, len(rows) - 1, min(len(rows), FILMS)).astype(np.int64)]
    device = next(net.parameters()).device
    norms = [one for one in net.modules() if isinstance(one, nn.BatchNorm2d)]
    sums: dict[nn.Module, list[Any]] = {norm: [0, 0.0, 0.0] for norm in norms}

    def add(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].double()
        total = sums[norm]
        total[0] += x.numel() // x.shape[1]
        total[1] += x.sum((0, 2, 3))
        total[2] += x.square().sum((0, 2, 3))

    hooks = [norm.register_forward_pre_hook(add) for norm in norms]
    was_training = net.training
    net.eval()
    batches = Feed(films, device).batches(chosen, batch)
    for step in range(-(-len(chosen) // batch)):
        net(
            augment.augment(next(batches), seed=seed, epoch=0, step=_VIEW + step, strength=strength)
        )
    for hook in hooks:
        hook.remove()
    net.train(was_training)
    for norm in norms:
        n, first, second = sums[norm]
        mean = first / n
        variance = (second / n - mean.square()).clamp(min=0.0)
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.weight.copy_((variance + norm.eps).sqrt())
        norm.bias.add_(mean)


def _convolution(stem: str) -> str | None:
    """The convolution before a norm of this name; None for what is no norm."""
    head, _, last = stem.rpartition(".")
    before = f"{head}." if head else ""
    if last.startswith("bn"):
        return f"{before}conv{last.removeprefix('bn')}"
    return f"{head}.0" if head.endswith("downsample") and last == "1" else None


def _like(found: Any, value: Tensor, name: str, path: Path) -> Tensor:
    if found is None or np.asarray(found).shape != tuple(value.shape):
        raise WeightsError(f"{path} has no {name} of our ResNet18; it cannot be started from")
    return torch.tensor(np.asarray(found))
