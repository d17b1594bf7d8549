"""Augment: films as another room, another patient position or another export would have made them.

Every change is one that the same patient's film could have had; so there is no mirror image, which
would put the heart on the right. Randomness comes from (seed, epoch, step) alone: a run that is
continued draws what an undisturbed one would have drawn.
"""

from __future__ import annotations

import hashlib
import math

import torch
import torch.nn.functional as F
from torch import Tensor

#: Each kind of change (place, tones, sharpness, noise) happens to this share of films, so that most
#: keep something of their own. When all happened to all, a network from random weights needed
#: three times the epochs to find a disease that is a fine texture.
SHARE = 0.5

#: Patients lean and detectors are turned by a few degrees.
ROTATION_DEG = 7.0
#: Children and adults fill the detector differently.
SCALE = 1.15
#: Films of every shape are stretched to a square, and the shape betrays the ward that took the
#: film: what a stretch can do, the network must not use.
ASPECT = 1.25
#: Centring, as a share of the side.
SHIFT = 0.06
#: Archives were shrunk with and without antialiasing: this share of moved films is sampled without.
NEAREST_SHARE = 0.3
#: Focus and edge enhancement: -1 doubles the edges that a blur of this radius (pixels at S = 224)
#: would take away, 1 takes them away.
SHARPNESS = (-0.8, 1.0)
BLUR_PX = (0.5, 1.5)
#: Exposure and window are chosen by a person or a vendor.
GAMMA = 1.4
CONTRAST = 1.3
BRIGHTNESS = 0.12
#: Quantum noise of a low dose, on the scale 0 to 1.
NOISE = 0.02


def augment(image: Tensor, *, seed: int, epoch: int, step: int) -> Tensor:
    """A batch `uint8 [N, 1, S, S]` changed at random, as float from 0 to 255."""
    n, _, side, _ = image.shape
    digest = hashlib.sha256(f"{seed}/{epoch}/{step}".encode()).digest()
    draw = torch.Generator(image.device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    u = torch.rand((11, n), generator=draw, device=image.device) * 2 - 1  # each from -1 to 1
    chance = torch.rand((5, n), generator=draw, device=image.device)
    moved, toned, sharpened, noisy = (chance[:4] < SHARE).float().unbind()

    x = _moved(image.float(), u[:5] * moved, nearest=chance[4] < NEAREST_SHARE)
    sharpness = (sharpened * _between(*SHARPNESS, u[5])).view(n, 1, 1, 1)
    x = x + sharpness * (_blurred(x, _between(*BLUR_PX, u[6]) * side / 224) - x)

    gamma, contrast, brightness = (u[7:10] * toned).view(3, n, 1, 1, 1).unbind()
    x = torch.pow((x / 255).clamp(0, 1), _power(GAMMA, gamma))
    middle = x.mean((1, 2, 3), keepdim=True)
    x = (x - middle) * _power(CONTRAST, contrast) + middle + BRIGHTNESS * brightness
    dose = (noisy * _between(0, NOISE, u[10])).view(n, 1, 1, 1)
    x = x + dose * torch.randn(x.shape, generator=draw, device=image.device)
    return x.clamp(0, 1) * 255


def _moved(x: Tensor, u: Tensor, nearest: Tensor) -> Tensor:
    """Turned, stretched and shifted; what comes into view is black, like a collimated border."""
    turn, scale, aspect, dx, dy = u.unbind()
    angle = turn * math.radians(ROTATION_DEG)
    cos, sin = torch.cos(angle), torch.sin(angle)
    wide = _power(SCALE, scale) * _power(ASPECT, aspect / 2)
    high = _power(SCALE, scale) / _power(ASPECT, aspect / 2)
    rows = (cos * wide, -sin * high, 2 * SHIFT * dx, sin * wide, cos * high, 2 * SHIFT * dy)
    where = torch.stack(rows, dim=1).view(-1, 2, 3)
    grid = F.affine_grid(where, list(x.shape), align_corners=False)
    smooth = F.grid_sample(x, grid, mode="bilinear", align_corners=False)
    coarse = F.grid_sample(x, grid, mode="nearest", align_corners=False)
    return torch.where(nearest.view(-1, 1, 1, 1), coarse, smooth)


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
