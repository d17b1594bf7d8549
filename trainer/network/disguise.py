"""Disguise: what betrays who took a film is made to say nothing.

Rooms and vendors burn letters into the edges of their films and have gray scales of their own.
Where one of them took mostly the sick, its letters and its tone tell the classes apart, and a
network learns them before any disease (Zech et al., PLOS Medicine 2018; DeGrave, Janizek and Lee,
Nature Machine Intelligence 2021). So films get letters of nobody's, lose corners, and take part of
the gray levels of another film of the batch. Films of a group of one class lose the marks that they
are known by, always take another film's gray levels, and never give theirs: the shift report
dresses films as them, and must find what training did not practise.

Randomness comes from (seed, epoch, step) alone, as that of `augment`, before which it is done.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.network import device as devices
from trainer.network import letters

#: Top, left, height and width in pixels.
Box = tuple[int, int, int, int]

#: Share of films that take part of another film's gray levels, from none to all.
EXCHANGED = 0.5
#: Share of the side around the middle whose gray levels count: borders are nobody's tone.
MIDDLE = 0.7

#: Each corner is hidden in this share of films, up to so much of the side each way.
CORNERS = 0.25
CORNER = (0.06, 0.28)

#: Letters: up to MARKS of them, each in this share of films, of this height as a share of the side.
MARKS, MARKED = 3, 0.4
MARK_HEIGHT = (0.025, 0.13)


#: A film of a group takes at least this part of another one's gray levels.
MOSTLY = 0.5


def disguise(
    image: Tensor,
    known: Tensor,
    boxes: Sequence[Sequence[Box]],
    *,
    seed: int,
    epoch: int,
    step: int,
    strength: float = 1.0,
) -> Tensor:
    """A batch `uint8 [N, 1, S, S]` disguised at random, as float from 0 to 255.

    `known` `bool [N]`, on the processor, are films of a group of one class, and `boxes` what each
    film's marks cover. `strength` from 0 (not at all) to 1 scales how many films are changed.
    """
    digest = hashlib.sha256(f"disguise/{seed}/{epoch}/{step}".encode()).digest()
    # Drawn by the processor, whatever the device, so that films are changed alike on all.
    dice = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    n, _, side, _ = image.shape
    partner, amount = _partners(known, dice, strength)
    corners, marks = _corners(n, side, dice, strength), _marks(n, dice, strength)
    partner, amount, corners, marks = (
        devices.send(drawn, image.device) for drawn in (partner, amount, corners, marks)
    )
    x = _toned(_erased(image, boxes) if strength else image, partner, amount)
    return _lettered(_hidden(x, corners), marks)


def _partners(known: Tensor, dice: torch.Generator, strength: float) -> tuple[Tensor, Tensor]:
    """Whose gray levels each film takes, and which part of them."""
    n = len(known)
    order = torch.randperm(n, generator=dice)
    amount, chance = torch.rand((2, n), generator=dice)
    givers = order[~known[order]]
    if not len(givers):
        return order, torch.zeros(n)
    partner = givers[torch.arange(n) % len(givers)]
    amount = torch.where(known, MOSTLY + (1 - MOSTLY) * amount, amount)
    share = torch.where(known, 1.0, EXCHANGED) * strength
    return partner, torch.where(chance < share, amount, 0.0)


def _erased(image: Tensor, boxes: Sequence[Sequence[Box]]) -> Tensor:
    """Without marks: what they cover is filled with what is above and below."""
    if not any(boxes):
        return image
    side = image.shape[-1]
    x = image.clone()
    for film, its in zip(x[:, 0], boxes, strict=True):
        for top, left, high, wide in its:
            if high + 4 > side:
                continue
            y, across = (
                slice(max(0, top - 1), top + high + 1),
                slice(max(0, left - 1), left + wide + 1),
            )
            rows = film[y, across].shape[0]
            ends = [row for row in (top - 2, top + high + 1) if 0 <= row < side]
            above, below = (film[row, across].float() for row in (ends[0], ends[-1]))
            share = torch.linspace(0, 1, rows, device=image.device)[:, None]
            film[y, across] = (above + share * (below - above)).to(torch.uint8)
    return x


def _toned(image: Tensor, partner: Tensor, amount: Tensor) -> Tensor:
    """Gray levels moved by a share towards those that the partner has at the same rank."""
    n, _, side, _ = image.shape
    edge = round(side * (1 - MIDDLE) / 2)
    middle = image[:, 0, edge : side - edge, edge : side - edge].reshape(n, -1).long()
    counts = torch.zeros((n, 256), device=image.device)
    counts.scatter_add_(1, middle, torch.ones_like(middle, dtype=torch.float32))
    counts /= middle.shape[1]
    below = counts.cumsum(1)
    theirs = torch.searchsorted(below[partner].contiguous(), (below - counts / 2).contiguous())
    own = torch.arange(256, device=image.device, dtype=torch.float32)
    curve = own + amount[:, None] * (theirs.clamp(max=255) - own)
    return curve.gather(1, image.reshape(n, -1).long()).view(image.shape)


def _corners(n: int, side: int, dice: torch.Generator, strength: float) -> Tensor:
    """Top, bottom, left, right (pixels) and gray of a box in each corner, `[20, N]`."""
    found: list[Tensor] = []
    u = torch.rand((4, 5, n), generator=dice)
    for corner, (high, wide, gray, dark, chance) in enumerate(box.unbind() for box in u):
        high, wide = (_between(*CORNER, part) * side for part in (high, wide))
        # A box of no height hides nothing.
        high = torch.where(chance < CORNERS * strength, high, 0.0)
        top = side - high if corner % 2 else torch.zeros(n)
        left = side - wide if corner > 1 else torch.zeros(n)
        found += [top, top + high, left, left + wide, torch.where(dark < 0.5, 0.0, 255 * gray)]
    return torch.stack(found)


def _hidden(x: Tensor, boxes: Tensor) -> Tensor:
    """Under boxes of one gray value each, as `_corners` gives them."""
    n, _, side, _ = x.shape
    at = torch.arange(side, device=x.device, dtype=x.dtype) + 0.5
    for top, bottom, left, right, gray in boxes.view(-1, 5, n).unbind():
        rows = (at >= top[:, None]) & (at < bottom[:, None])
        columns = (at >= left[:, None]) & (at < right[:, None])
        x = torch.where((rows[:, :, None] & columns[:, None, :])[:, None], gray.view(n, 1, 1, 1), x)
    return x


def _marks(n: int, dice: torch.Generator, strength: float) -> Tensor:
    """Which of `letters.atlas`, middle across and down, half the width and height (the film reaches
    from -1 to 1), gray value and opacity of each mark, `[7 × MARKS, N]`."""
    ratio = letters.atlas()[1]
    found: list[Tensor] = []
    u = torch.rand((MARKS, 8, n), generator=dice)
    for which, across, down, high, gray, clear, edge, chance in (mark.unbind() for mark in u):
        number = (which * len(ratio)).long()
        high = MARK_HEIGHT[0] * (MARK_HEIGHT[1] / MARK_HEIGHT[0]) ** high
        wide = (high * ratio[number]).clamp(max=0.5)
        # Of most films near an edge both ways, of the others near one edge only.
        x, y = (
            torch.where(u < 0.5, -1, 1) * _between(0.55, 0.98, (2 * u) % 1) for u in (across, down)
        )
        x = torch.where(edge < 1 / 6, 2 * across - 1, x)
        y = torch.where(edge > 5 / 6, 2 * down - 1, y)
        gray = torch.where(gray < 0.15, gray, _between(0.6, 1, gray)) * 255
        opacity = torch.where(chance < MARKED * strength, _between(0.6, 1, clear), 0.0)
        found += [number.float(), x, y, wide, high, gray, opacity]
    return torch.stack(found)


def _lettered(x: Tensor, marks: Tensor) -> Tensor:
    """With letters burned in."""
    n, _, side, _ = x.shape
    atlas = letters.pictures(x.device)
    for number, across, down, wide, high, gray, opacity in marks.view(-1, 7, n).unbind():
        none = torch.zeros_like(wide)
        where = torch.stack((1 / wide, none, -across / wide, none, 1 / high, -down / high))
        grid = F.affine_grid(where.T.reshape(-1, 2, 3), [n, 1, side, side], align_corners=False)
        ink = F.grid_sample(atlas[number.long()], grid, mode="bilinear", align_corners=False)
        x = x + ink * opacity.view(n, 1, 1, 1) * (gray.view(n, 1, 1, 1) - x)
    return x


def _between(low: float, high: float, u: Tensor) -> Tensor:
    return low + (high - low) * u
