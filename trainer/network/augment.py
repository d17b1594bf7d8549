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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.network import device as devices

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

#: Films in one of `parts`: whole groups, and a multiple of 16, since torch draws noise 16 values at
#: a time and the sides of films may be odd.
PART = 16

_KERNELS = ("bilinear", "area", "nearest")


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What is to be done to N films, decided; doing it needs no chance and asks the device nothing.

    Tensors are on the device that `draw` was given.
    """

    #: `float32 [13 + 5 × BOXES, N]`, what each film is changed by: the two rows of its affine map,
    #: how much softer and by which blur, exponents of shadows and lights, factor of the contrast,
    #: added brightness, share of the noise; then each box's edges (pixels) and gray value.
    numbers: Tensor
    #: Side that each group of _GROUP films is shrunk to and the place in _KERNELS; None: it is not.
    resized: tuple[tuple[int, int] | None, ...]
    #: `float32 [N, 1, S, S]`, normal, of spread 1.
    noise: Tensor


def augment(image: Tensor, *, seed: int, epoch: int, step: int, strength: float = 1.0) -> Tensor:
    """A batch `uint8 [N, 1, S, S]` changed at random, as float from 0 to 255.

    `strength` from 0 (not at all) to 1 scales how many films are changed and how far. Films on a
    GPU are changed as on a processor, to rounding, but for the noise and the boxes: the noise is
    the GPU's own, and the boxes are drawn after it.
    """
    n, _, side, _ = image.shape
    changes = draw(
        n, side, seed=seed, epoch=epoch, step=step, strength=strength, device=image.device
    )
    return apply(image, changes)


def draw(
    n: int, side: int, *, seed: int, epoch: int, step: int, strength: float, device: torch.device
) -> Changes:
    """What `augment` would do to `n` films of `side` pixels, for films that are on `device`."""
    dice, number = _dice(seed, epoch, step)
    first, resized = _first(n, side, dice, strength)
    noise = _noise((n, 1, side, side), dice, number, device)
    numbers = torch.stack((*first, *_boxes(n, side, dice, SHARE / 2 * strength)))
    return Changes(numbers=devices.send(numbers, device), resized=resized, noise=noise)


def parts(
    n: int, side: int, *, seed: int, epoch: int, step: int, strength: float
) -> Iterator[tuple[slice, Changes]]:
    """What `draw` gives for films on a processor, by and by: which films, and their changes.

    Of many films the noise and what is made on the way to the last change take 40 times the memory
    of the films themselves; a part is PART films, the last one up to twice as many.
    """
    dice, number = _dice(seed, epoch, step)
    first, resized = _first(n, side, dice, strength)
    again = torch.Generator()
    again.set_state(dice.get_state())
    processor = torch.device("cpu")
    # None is left a part for itself that would be cut into other groups there than among all.
    starts = range(0, max(1, n // PART) * PART, PART)
    films = [slice(start, n if start == starts[-1] else start + PART) for start in starts]

    def noise(part: slice, source: torch.Generator) -> Tensor:
        return _noise((part.stop - part.start, 1, side, side), source, number, processor)

    for part in films:
        noise(part, dice)  # the boxes are drawn after it
    numbers = torch.stack((*first, *_boxes(n, side, dice, SHARE / 2 * strength)))
    for part in films:
        groups = slice(part.start // _GROUP, -(-part.stop // _GROUP))
        yield (
            part,
            Changes(numbers=numbers[:, part], resized=resized[groups], noise=noise(part, again)),
        )


def _dice(seed: int, epoch: int, step: int) -> tuple[torch.Generator, int]:
    """What is drawn from, and the number that it begins with."""
    digest = hashlib.sha256(f"{seed}/{epoch}/{step}".encode()).digest()
    number = int.from_bytes(digest[:8], "big") >> 1
    # Drawn by the processor, whatever the device: these are few numbers, and some of them (the
    # sides that films are shrunk to) would have to come back from a GPU.
    return torch.Generator().manual_seed(number), number


def _first(
    n: int, side: int, dice: torch.Generator, strength: float
) -> tuple[list[Tensor], tuple[tuple[int, int] | None, ...]]:
    """What is drawn before the noise: `Changes.numbers` up to the boxes, and `Changes.resized`."""
    u = torch.rand((12, n), generator=dice) * 2 - 1  # each from -1 to 1
    chance = torch.rand((4, n), generator=dice)
    moved, toned, sharpened, noisy = ((chance < SHARE * strength) * strength).unbind()
    resized = _resizes(n, side, dice, strength)
    shadows, lights, contrast, brightness = (u[7:11] * toned).unbind()
    numbers = [
        *_affine(u[:5] * moved),
        sharpened * _between(*SHARPNESS, u[5]),
        _between(*BLUR_PX, u[6]) * side / 224,
        _power(GAMMA, shadows),
        _power(GAMMA, lights),
        _power(CONTRAST, contrast),
        BRIGHTNESS * brightness,
        noisy * _between(0, NOISE, u[11]),
    ]
    return numbers, resized


def apply(image: Tensor, changes: Changes) -> Tensor:
    """A batch `uint8 [N, 1, S, S]` changed so, as float from 0 to 255."""
    n = len(image)
    columns = changes.numbers.view(len(changes.numbers), n, 1, 1, 1).unbind()
    x = _moved(image.float(), changes.numbers[:6])
    x = _resampled(x, changes.resized)
    sharpness, shadows, lights, contrast, brightness, dose = columns[6], *columns[8:13]
    x = x + sharpness * (_blurred(x, changes.numbers[7]) - x)

    x = (x / 255).clamp(0, 1)
    x = (x.pow(shadows) + 1 - (1 - x).pow(lights)) / 2
    middle = x.mean((1, 2, 3), keepdim=True)
    x = (x - middle) * contrast + middle + brightness
    x = x + dose * changes.noise
    return _hidden(x.clamp(0, 1), changes.numbers[13:]) * 255


def _noise(
    shape: tuple[int, ...], dice: torch.Generator, seed: int, device: torch.device
) -> Tensor:
    """Where the films are: on a GPU by its own generator, which is far faster than a copy."""
    if device.type == "cpu":
        return torch.randn(shape, generator=dice)
    own = torch.Generator(device).manual_seed(seed)
    return torch.randn(shape, generator=own, device=device)


def _affine(u: Tensor) -> tuple[Tensor, ...]:
    """Turned, stretched and shifted: the two rows of each film's map."""
    turn, scale, aspect, dx, dy = u.unbind()
    angle = turn * math.radians(ROTATION_DEG)
    cos, sin = torch.cos(angle), torch.sin(angle)
    wide = _power(SCALE, scale) * _power(ASPECT, aspect / 2)
    high = _power(SCALE, scale) / _power(ASPECT, aspect / 2)
    return cos * wide, -sin * high, 2 * SHIFT * dx, sin * wide, cos * high, 2 * SHIFT * dy


def _moved(x: Tensor, affine: Tensor) -> Tensor:
    """What comes into view is black, like a collimated border."""
    where = affine.T.reshape(-1, 2, 3)
    grid = F.affine_grid(where, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", align_corners=False)


def _resizes(
    n: int, side: int, dice: torch.Generator, strength: float
) -> tuple[tuple[int, int] | None, ...]:
    """How a few films at a time are shrunk; a batch is in random order already."""
    least = 1 - (1 - RESOLUTION) * strength
    groups = -(-n // _GROUP)
    sides = torch.rand(groups, generator=dice)
    kernels = torch.randint(len(_KERNELS), (groups,), generator=dice)
    apart = torch.rand(groups, generator=dice) >= SHARE * strength
    resizes: list[tuple[int, int] | None] = []
    for share, kernel, left in zip(sides.tolist(), kernels.tolist(), apart.tolist(), strict=True):
        small = max(8, round(side * (least + (1 - least) * share)))
        resizes.append(None if left or small >= side else (small, kernel))
    return tuple(resizes)


def _resampled(x: Tensor, resized: Sequence[tuple[int, int] | None]) -> Tensor:
    """Shrunk and enlarged again, group by group."""
    side = x.shape[-1]
    done = []
    for group, resize in zip(x.chunk(len(resized)), resized, strict=True):
        if resize is None:
            done.append(group)
            continue
        small, kernel = resize
        smooth = {"align_corners": False, "antialias": True} if kernel == 0 else {}
        shrunk = F.interpolate(group, size=(small, small), mode=_KERNELS[kernel], **smooth)
        done.append(F.interpolate(shrunk, size=(side, side), mode="bilinear", align_corners=False))
    return torch.cat(done)


def _boxes(n: int, side: int, dice: torch.Generator, share: float) -> list[Tensor]:
    """Top, bottom, left, right and gray of BOXES boxes, each there with the chance `share`."""
    found: list[Tensor] = []
    u = torch.rand((BOXES, 6, n), generator=dice)
    for area, ratio, row, column, gray, chance in (box.unbind() for box in u):
        size = (BOX_AREA[0] + (BOX_AREA[1] - BOX_AREA[0]) * area).sqrt() * side
        ratio = _power(BOX_ASPECT, 2 * ratio - 1).sqrt()
        high, wide = size * ratio, size / ratio
        top, left = row * (side - high), column * (side - wide)
        bottom = torch.where(chance < share, top + high, top)  # a box of no height hides nothing
        found += [top, bottom, left, left + wide, gray]
    return found


def _hidden(x: Tensor, boxes: Tensor) -> Tensor:
    """Under boxes of one gray value each, as `_boxes` gives them."""
    n, _, side, _ = x.shape
    at = torch.arange(side, device=x.device, dtype=x.dtype) + 0.5
    for top, bottom, left, right, gray in boxes.view(-1, 5, n).unbind():
        rows = (at >= top[:, None]) & (at < bottom[:, None])
        columns = (at >= left[:, None]) & (at < right[:, None])
        hidden = rows[:, :, None] & columns[:, None, :]
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
