"""Warm start: training goes on from a model file, as if its weights had never been folded.

A model file has its batch norms folded into the convolutions. Trained on as it is, with norms that
do nothing, the first batch would turn each of them into another function. So each norm gets the
mean and spread that its convolution has on the training films, and the scale and shift that undo
them: what the network says stays the same to rounding, and in training, where a batch's own mean
and spread take their place, nearly so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer.data.cache import Pixels
from trainer.errors import CardError, QuantiseError, Stopped, WeightsError
from trainer.folded import Network
from trainer.network import augment, model
from trainer.network.feed import Feed
from trainer.network.model import Init, ResNet18

#: A path of initial weights that ends so is that of a model file.
SUFFIX = ".onnx"

#: Films that means and spreads are measured on: even the last layer has thousands of values then.
FILMS = 512

#: They are changed as in training, but as no step of an epoch changes its own: epochs begin at 1,
#: and validation's views count from step 0 of this one.
_EPOCH, _STEP = 0, 1_000_000


def build(labels: Sequence[str], path: Path, seed: int = 0) -> tuple[ResNet18, Init, str]:
    """A network with the weights of a model file, which says what the file says in evaluation mode.

    Its norms do nothing yet: `fit_norms` makes them fit for training. The last layer follows by the
    classes' names; for other classes it is drawn from `seed`. Also returns a sentence for a person.
    Raises WeightsError where the file is not of a network of ours.
    """
    net, _ = model.build(len(labels), model.SCRATCH, seed)
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        network = Network(path)
    except (OSError, CardError) as error:
        raise WeightsError(f"training cannot begin from {path}: {error}") from error
    except QuantiseError as error:
        raise WeightsError(
            f"training cannot begin from {path}: it is not an fp32 file of a ResNet18 that PneumoQ "
            "trained or imported"
        ) from error
    # The start of the hash stands for the model wherever one is named.
    init = Init(name=f"model {digest[:12]}", sha256=digest)
    note = f"going on from the weights of {init.name}"
    theirs = network.card.labels
    same = sorted(theirs) == sorted(labels)
    if not same:
        note += f", whose classes are {', '.join(theirs)}: the last layer is new"

    weights = {}
    for name, own in net.state_dict().items():
        layer, _, kind = name.rpartition(".")
        convolution = _before(layer)
        if layer == "fc":
            if same:
                found = _found(network.constants, name, own, path)
                own = found[[theirs.index(label) for label in labels]]
        elif convolution is None:
            own = _found(network.constants, name, own, path)
        elif kind == "bias":
            own = _found(network.constants, f"{convolution}.bias", own, path)
        elif kind == "running_var":
            own = torch.full_like(own, 1 - model.NORM_EPS)
        weights[name] = own
    net.load_state_dict(weights)
    return net, init, note


@torch.no_grad()
def fit_norms(
    net: ResNet18,
    films: Pixels,
    rows: NDArray[np.int64],
    *,
    strength: float,
    seed: int,
    batch: int = 32,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Give each norm of `build`'s network what its convolution has on some of these films.

    They are changed as in training (`strength`), `batch` at a time. Raises Stopped.
    """
    chosen = rows[np.linspace(0, len(rows) - 1, min(len(rows), FILMS)).astype(np.int64)]
    norms = {norm: _Seen() for norm in net.modules() if isinstance(norm, nn.BatchNorm2d)}
    hooks = [norm.register_forward_pre_hook(seen) for norm, seen in norms.items()]
    net.eval()
    batches = Feed(films, next(net.parameters()).device).batches(chosen, batch)
    for step, x in enumerate(batches):
        if stop():
            raise Stopped("stopped before the first epoch")
        net(augment.augment(x, seed=seed, epoch=_EPOCH, step=_STEP + step, strength=strength))
    for hook in hooks:
        hook.remove()
    for norm, seen in norms.items():
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.copy_(seen.mean)
        norm.running_var.copy_(seen.variance)
        norm.weight.copy_((seen.variance + norm.eps).sqrt())
        norm.bias.add_(seen.mean)


class _Seen:
    """Mean and variance of each channel of the maps that reach a norm, float64 `[C]`."""

    def __init__(self) -> None:
        self._n = 0
        self._sum: Tensor
        self._squares: Tensor

    def __call__(self, norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Look at a batch `[N, C, h, w]` on its way into the norm."""
        (x,) = inputs
        total = x.sum((0, 2, 3), dtype=torch.float64)
        squares = x.square().sum((0, 2, 3), dtype=torch.float64)
        self._sum, self._squares = (
            (self._sum + total, self._squares + squares) if self._n else (total, squares)
        )
        self._n += x.numel() // x.shape[1]

    @property
    def mean(self) -> Tensor:
        """Of all values of a channel."""
        return self._sum / self._n

    @property
    def variance(self) -> Tensor:
        """Of all values of a channel."""
        return (self._squares / self._n - self.mean.square()).clamp(min=0)


def _before(layer: str) -> str | None:
    """The convolution that a norm follows, by their names; None for a layer that is no norm."""
    head, _, last = layer.rpartition(".")
    if last.startswith("bn"):
        return f"{head}.conv{last.removeprefix('bn')}".removeprefix(".")
    return f"{head}.0" if head.endswith("downsample") and last == "1" else None


def _found(
    constants: Mapping[str, NDArray[np.float32]], name: str, own: Tensor, path: Path
) -> Tensor:
    """The file's constant in the shape of our own weights."""
    value = constants.get(name)
    # The last layer is a convolution in the file.
    if value is None or value.shape not in (own.shape, (*own.shape, 1, 1)):
        raise WeightsError(
            f"training cannot begin from {path}: it lacks {name}, or has it in another shape"
        )
    return torch.tensor(value.reshape(own.shape))
