"""Model: ResNet18 with its normalisation inside and an exact class-activation map.

Takes the gray planes that the film rule makes and nothing else; its parameters have torchvision's
names, so that weights go in and out unchanged.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import URLError

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from trainer import checkpoint
from trainer.errors import CheckpointError, WeightsError

#: Mean and spread of ImageNet's channels on the scale 0 to 1, which the published weights expect.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

#: What keeps a batch norm from dividing by 0, PyTorch's own.
NORM_EPS = 1e-5

#: Channels of the first layer's maps; each further layer has twice those of the one before.
WIDTH = 64

#: `build`'s words for initial weights that are not a file.
IMAGENET, SCRATCH = "imagenet", "scratch"


class Reading(NamedTuple):
    """What the network says about a batch."""

    #: `float [N, C]`, before temperature and softmax.
    logits: Tensor
    #: `float [N, C, h, w]`: its mean over h and w plus the bias is the logit.
    cam: Tensor
    #: `float [N, 512]`, the features' mean.
    pooled: Tensor


class Stages(NamedTuple):
    """A value for each stage of the network, from the film to the last maps."""

    #: The film's gray levels, 0 to 255.
    gray: Any
    #: What each layer makes of it.
    layer1: Any
    layer2: Any
    layer3: Any
    layer4: Any


class Block(nn.Module):
    """Two convolutions that learn what is to be added to their input (He et al. 2016, figure 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        """`inputs` and `outputs` are numbers of channels; `stride` shrinks the maps."""
        super().__init__()
        # Where the shape changes the input is projected (the paper's option B). It is made first
        # because torchvision makes it first: what a seed draws depends on the order.
        projection = (
            nn.Identity()
            if (inputs, stride) == (outputs, 1)
            else nn.Sequential(
                nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False),
                nn.BatchNorm2d(outputs),
            )
        )
        self.conv1 = nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = projection

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[N, outputs, h / stride, w / stride]` of maps `[N, inputs, h, w]`."""
        change = F.relu(self.bn1(self.conv1(x)), inplace=True)
        change = self.bn2(self.conv2(change))
        change += self.downsample(x)
        return F.relu(change, inplace=True)


class ResNet18(nn.Module):
    """ResNet18 (He et al. 2016) for gray films.

    Names, order and random start of the parameters are those of torchvision's, so that a seed draws
    here what it draws there.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, labels: int) -> None:
        super().__init__()
        one, two, three, four = (WIDTH << layer for layer in range(4))
        self.conv1 = nn.Conv2d(3, one, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(one)
        self.layer1 = nn.Sequential(Block(one, one), Block(one, one))
        self.layer2 = nn.Sequential(Block(one, two, stride=2), Block(two, two))
        self.layer3 = nn.Sequential(Block(two, three, stride=2), Block(three, three))
        self.layer4 = nn.Sequential(Block(three, four, stride=2), Block(four, four))
        self.fc = nn.Linear(four, labels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # Gradients keep their size on the way back through the rectifiers (He et al. 2015).
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1) * 255, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Logits `float [N, C]` of gray films, uint8 or float from 0 to 255, `[N, 1, S, S]`."""
        return self.read(image).logits

    def read(self, image: Tensor) -> Reading:
        """Logits with the maps and features that they come from; films as in `forward`."""
        return self.head(self.stages(image).layer4)

    def head(self, maps: Tensor) -> Reading:
        """What the last maps, `[N, 512, S/32, S/32]`, come to."""
        x = maps.float()  # the head is small: full precision costs nothing here
        with torch.autocast(x.device.type, enabled=False):
            cam = F.conv2d(x, self.fc.weight[:, :, None, None])  # [N, C, S/32, S/32]
            logits = cam.mean((2, 3)) + self.fc.bias
        return Reading(logits, cam, x.mean((2, 3)))

    def stages(self, image: Tensor) -> Stages:
        """The film `[N, 1, S, S]` and each layer's maps, `[N, 64, S/4, S/4]` to `[N, 512, …]`."""
        gray = image.float()
        x = (gray - self.mean) / self.std  # [N, 3, S, S]: the gray plane three times
        x = x.contiguous(memory_format=torch.channels_last)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
        x1 = self.layer1(x)
        x2 = self.layer2(x1)
        x3 = self.layer3(x2)
        return Stages(gray, x1, x2, x3, self.layer4(x3))


def folded(net: ResNet18) -> ResNet18:
    """A copy to look at films with: its batch norms are part of its convolutions.

    As in the model file; what it makes of a film differs by rounding, and takes three quarters of
    the time.
    """
    copied = copy.deepcopy(net).eval()
    for part in list(copied.modules()):
        for names in (("conv1", "bn1"), ("conv2", "bn2"), ("0", "1")):
            convolution, norm = (getattr(part, name, None) for name in names)
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                assert norm.running_mean is not None
                assert norm.running_var is not None
                convolution.weight, convolution.bias = fuse_conv_bn_weights(
                    convolution.weight, convolution.bias,
                    norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias,
                )  # fmt: skip
                setattr(part, names[1], nn.Identity())
    return copied


@dataclass(frozen=True, kw_only=True)
class Init:
    """Where initial weights came from."""

    #: `imagenet`, `scratch`, or the file's name.
    name: str
    #: Of the weights' file; empty for `scratch`.
    sha256: str


def build(labels: int, init: str | Path, seed: int = 0) -> tuple[ResNet18, Init]:
    """A network for `labels` classes whose weights start as `init` says.

    `init` is `imagenet` (torchvision's, downloaded at first use), `scratch`, or a file of
    torchvision's ResNet18 weights. What the weights do not settle is drawn from `seed`. Raises
    WeightsError.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = ResNet18(labels)
    if init == SCRATCH:
        return net, Init(name=SCRATCH, sha256="")
    if init == IMAGENET:
        path, name = _imagenet(), IMAGENET
    else:
        path, name = Path(init), Path(init).name
    try:
        weights = checkpoint.load(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except CheckpointError as error:
        raise WeightsError(f"initial weights: {error}") from error
    _adopt(net, weights, name)
    # The start of the hash stands for a file, whose name may be anything.
    shown = name if init == IMAGENET else f"weights {digest[:12]}"
    return net, Init(name=shown, sha256=digest)


def _imagenet() -> Path:
    from torchvision.models import ResNet18_Weights  # takes seconds, and no other start needs it

    weights = ResNet18_Weights.IMAGENET1K_V1
    try:
        weights.get_state_dict(progress=False, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        raise WeightsError(
            f"torchvision's ImageNet weights cannot be downloaded from {weights.url} ({error}); "
            "download that file elsewhere and give its path as the initial weights, or use "
            "`scratch`"
        ) from error
    return Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)


def _adopt(net: ResNet18, weights: Mapping[str, Any], name: str) -> None:
    """Load weights into a network of perhaps another number of classes; strict about the rest."""
    if isinstance(weights.get("state_dict"), dict):  # a training checkpoint around the weights
        weights = weights["state_dict"]
    own = net.state_dict()
    head = {key for key in own if key.startswith("fc.")}
    if any(own[key].shape != getattr(weights.get(key), "shape", None) for key in head):
        # A head for other classes is worth nothing here; the fresh one stays.
        weights = {**weights, **{key: own[key] for key in head}}

    missing = [k for k in own if k not in weights and not k.endswith("num_batches_tracked")]
    unknown = [k for k in weights if k not in own]
    wrong = [
        k for k, v in own.items() if k in weights and getattr(weights[k], "shape", None) != v.shape
    ]
    for keys, what in (
        (missing, "lacks"),
        (unknown, "has the unknown"),
        (wrong, "has another shape of"),
    ):
        if keys:
            shown = ", ".join(keys[:3]) + (", …" if len(keys) > 3 else "")
            raise WeightsError(f"{name} {what} {shown}; it is not a torchvision ResNet18")
    with torch.no_grad():
        for key, value in own.items():
            if key in weights:
                value.copy_(weights[key])
