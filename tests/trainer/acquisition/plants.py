"""Films that are like no other in their anatomy, and what a unit may lay on some of them."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tests.support.acquired import Films, scaled


def films(n: int, side: int, seed: int = 0) -> Films:
    """Soft shapes with a little noise, uint8 [n, side, side]."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        soft = rng.integers(50, 190, (6, 6)).astype(np.uint8)
        shape = Image.fromarray(soft).resize((side, side), Image.Resampling.BICUBIC)
        made.append(np.asarray(shape, dtype=np.float64) + rng.normal(0, 3, (side, side)))
    return np.clip(np.rint(made), 0, 255).astype(np.uint8)


def lettered(some: Films, text: str = "R2", at: tuple[float, float] = (0.05, 0.06)) -> Films:
    """With white letters, whose place is a share of the side from the left and the top."""
    side = some.shape[1]
    font = ImageFont.load_default(size=max(9, side // 12))
    made = []
    for film in some:
        image = Image.fromarray(film)
        ImageDraw.Draw(image).text((at[0] * side, at[1] * side), text, fill=255, font=font)
        made.append(np.asarray(image))
    return np.stack(made)


def covered(some: Films) -> Films:
    """With a white rectangle."""
    side = some.shape[1]
    made = some.copy()
    made[:, side // 20 : side // 10, side // 2 : side // 2 + side // 6] = 255
    return made


def toned(some: Films, gamma: float = 0.7) -> Films:
    """With a curve on their gray levels."""
    curve = np.rint(255 * (np.arange(256) / 255) ** gamma).astype(np.uint8)
    return curve[some]


def framed(some: Films) -> Films:
    """With a gray frame."""
    width = max(2, some.shape[1] // 28)
    made = np.full_like(some, 128)
    made[:, width:-width, width:-width] = some[:, width:-width, width:-width]
    return made


def blurred(some: Films, factor: float = 2.0) -> Films:
    """As a coarser detector makes them."""
    return scaled(scaled(some, round(some.shape[1] / factor)), some.shape[1])


PLANTS = {
    "letters": lettered,
    "a rectangle": covered,
    "a tone curve": toned,
    "a frame": framed,
    "a coarser detector": blurred,
}
