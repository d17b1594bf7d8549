"""Augment: films as another room, another patient position or another export would have made them.

Every change is one that the same patient's film could have had; so there is no mirror image, which
would put the heart on the right. The changes are wide on purpose. In most labelled sets the classes
were not acquired alike: the sick lie in a ward with a mobile unit, the healthy stand in a room of
their own, and the films differ in shape, field, resolution and tone before any disease is seen. A
network learns that first, patients held out of the same source share it, and validation praises it
(`python -m tests.bench.shift` shows it). What these changes scramble, the network cannot use.

Randomness comes from (seed, epoch, step) alone: a run that is continued draws what an undisturbed
one would have drawn.
"""

from __future__ import annotations

import hashlib
import math

import torch
import torch.nn.functional as F
from torch import Tensor

#: Each kind of change happens to this share of films; the others keep something of their own.
SHARE = 0.8

#: Patients lean and detectors are turned by a few degrees.
ROTATION_DEG = 10.0
#: Children and adults fill the detector differently, and collimators are set by hand.
SCALE = 1.25
#: Films of every shape are stretched to a square, and the shape betrays the ward that took the
#: film: what a stretch can do, the network must not use.
ASPECT = 1.6
#: Centring, as a share of the side.
SHIFT = 0.08
#: Films come from detectors of all resolutions and were shrunk with and without antialiasing: they
#: are shrunk to this share of the side at least, by one of three kernels, and enlarged again.
RESOLUTION = 0.4
#: Focus and edge enhancement: -1 doubles the edges that a blur of this radius (pixels at S = 224)
#: would take away, 1 takes them away.
SHARPNESS = (-1.2, 1.0)
BLUR_PX = (0.5, 1.5)
#: Exposure and window are chosen by a person or a vendor: a curve that bends the shadows and one
#: that bends the lights, a window's width and its centre.
GAMMA = 1.6
CONTRAST = 1.4
BRIGHTNESS = 0.15
#: Quantum noise of a low dose, on the scale 0 to 1.
NOISE = 0.04
#: Tubes, electrodes, markers and collimator edges hide parts: up to this many boxes, each of this
#: share of the film at most, with one gray value. Disease is seen in what is left, too.
BOXES = 2
BOX_AREA = (0.02, 0.14)
BOX_ASPECT = 2.5

#: Films that share a resolution and a kernel: a resize is of a whole tensor.
_GROUP = 4

_KERNELS = ("bilinear", "area", "nearest")


def augment(image: Tensor, *, seed: int, epoch: int, step: int, strength: float = 1.0) -> Tensor:
    """A batch `uint8 [N, 1, S, S]` changed at random, as float from 0 to 255.

    `strength` from 0 (not at all) to 1 scales how many films are changed and how far.
    """
    n, _, side, _ = image.shape
    digest = hashlib.sha256(f"{seed}/{epoch}/{step}".encode()).digest()
    draw = torch.Generator(image.device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    u = torch.rand((12, n), generator=draw, device=image.device) * 2 - 1  # each from -1 to 1
    chance = torch.rand((4, n), generator=draw, device=image.device)
    moved, toned, sharpened, noisy = ((chance < SHARE * strength) * strength).unbind()

    x = _moved(image.float(), u[:5] * moved)
    x = _resampled(x, draw, strength)
    sharpness = (sharpened * _between(*SHARPNESS, u[5])).view(n, 1, 1, 1)
    x = x + sharpness * (_blurred(x, _between(*BLUR_PX, u[6]) * side / 224) - x)

    shadows, lights, contrast, brightness = (u[7:11] * toned).view(4, n, 1, 1, 1).unbind()
    x = (x / 255).clamp(0, 1)
    x = (x.pow(_power(GAMMA, shadows)) + 1 - (1 - x).pow(_power(GAMMA, lights))) / 2
    middle = x.mean((1, 2, 3), keepdim=True)
    x = (x - middle) * _power(CONTRAST, contrast) + middle + BRIGHTNESS * brightness
    dose = (noisy * _between(0, NOISE, u[11])).view(n, 1, 1, 1)
    x = x + dose * torch.randn(x.shape, generator=draw, device=image.device)
    return _hidden(x.clamp(0, 1), draw, SHARE / 2 * strength) * 255


def _moved(x: Tensor, u: Tensor) -> Tensor:
    """Turned, stretched and shifted; what comes into view is black, like a collimated border."""
    turn, scale, aspect, dx, dy = u.unbind()
    angle = turn * math.radians(ROTATION_DEG)
    cos, sin = torch.cos(angle), torch.sin(angle)
    wide = _power(SCALE, scale) * _power(ASPECT, aspect / 2)
    high = _power(SCALE, scale) / _power(ASPECT, aspect / 2)
    rows = (cos * wide, -sin * high, 2 * SHIFT * dx, sin * wide, cos * high, 2 * SHIFT * dy)
    where = torch.stack(rows, dim=1).view(-1, 2, 3)
    grid = F.affine_grid(where, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", align_corners=False)


def _resampled(x: Tensor, draw: torch.Generator, strength: float) -> Tensor:
    """Shrunk and enlarged again, a few films at a time; a batch is in random order already."""
    side = x.shape[-1]
    least = 1 - (1 - RESOLUTION) * strength
    groups = x.chunk(-(-len(x) // _GROUP))
    sides = torch.rand(len(groups), generator=draw, device=x.device)
    kernels = torch.randint(len(_KERNELS), (len(groups),), generator=draw, device=x.device)
    apart = torch.rand(len(groups), generator=draw, device=x.device) >= SHARE * strength
    done = []
    for group, share, kernel, left in zip(
        groups, sides.tolist(), kernels.tolist(), apart.tolist(), strict=True
    ):
        small = max(8, round(side * (least + (1 - least) * share)))
        if left or small >= side:
            done.append(group)
            continue
        smooth = {"align_corners": False, "antialias": True} if kernel == 0 else {}
        shrunk = F.interpolate(group, size=(small, small), mode=_KERNELS[kernel], **smooth)
        done.append(F.interpolate(shrunk, size=(side, side), mode="bilinear", align_corners=False))
    return torch.cat(done)


def _hidden(x: Tensor, draw: torch.Generator, share: float) -> Tensor:
    """Up to BOXES boxes of one gray value over each film, each with the chance `share`."""
    n, _, side, _ = x.shape
    u = torch.rand((BOXES, 6, n), generator=draw, device=x.device)
    at = torch.arange(side, device=x.device, dtype=x.dtype) + 0.5
    for area, ratio, row, column, gray, chance in (box.unbind() for box in u):
        size = (BOX_AREA[0] + (BOX_AREA[1] - BOX_AREA[0]) * area).sqrt() * side
        ratio = _power(BOX_ASPECT, 2 * ratio - 1).sqrt()
        high, wide = size * ratio, size / ratio
        top, left = row * (side - high), column * (side - wide)
        rows = (at >= top[:, None]) & (at < (top + high)[:, None])
        columns = (at >= left[:, None]) & (at < (left + wide)[:, None])
        hidden = rows[:, :, None] & columns[:, None, :] & (chance < share)[:, None, None]
        x = torch.where(hidden[:, None], gray.view(n, 1, 1, 1), x)
    return x


def _blurred(x: Tensor, sigma: Tensor) -> Tensor:
    """Each film under a Gaussian of its own width in pixels."""
    n, _, side, _ = x.shape
    reach = min(3, side - 1)
    at = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (at / sigma[:, None]) ** 2)
    kernel = kernel / kernel.sum(1, keepdim=True)  # [N, 2 × reach + 1]
    y = F.pad(x.view(1, n, side, side), (reach,) * 4, mode="replicate")
    y = F.conv2d(y, kernel[:, None, :, None], groups=n)
    return F.conv2d(y, kernel[:, None, None, :], groups=n).view(n, 1, side, side)


def _power(limit: float, u: Tensor) -> Tensor:
    """From 1 / limit to limit, evenly in ratio."""
    return torch.exp(math.log(limit) * u)


def _between(low: float, high: float, u: Tensor) -> Tensor:
    return low + (high - low) * (u + 1) / 2
