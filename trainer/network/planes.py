"""Planes: pictures as floating numbers, 0 black to 255 white, and what they are made with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Plane = NDArray[np.float32]
Rng = np.random.Generator


def axes(side: int) -> tuple[Plane, Plane]:
    """x as a row and y as a column, -1 to 1."""
    axis = ((np.arange(side) + 0.5) * 2 / side - 1).astype(np.float32)
    return axis[None, :], axis[:, None]


def to_image(plane: Plane) -> Image.Image:
    """Rounded down to 8 bits."""
    return Image.fromarray(np.ascontiguousarray(plane.clip(0, 255)).astype(np.uint8))


def to_plane(image: Image.Image) -> Plane:
    """`float32 [h, w]` of a gray image."""
    return np.asarray(image, np.float32)


def border(rng: Rng) -> int:
    """A gray level for what lies beyond the edge: black, white or any."""
    return (0, 255, int(rng.integers(0, 256)))[rng.integers(3)]


def stretched(plane: NDArray[Any]) -> Plane:
    """From 0 to 255, but for the hundredth at either end."""
    low, high = np.quantile(plane, (0.01, 0.99))
    made = (plane - low) * (255 / max(float(high - low), 1e-6))
    return np.asarray(made.clip(0, 255), np.float32)


def cloud(rng: Rng, side: int, power: float) -> Plane:
    """Noise whose amplitude falls as frequency ** -power; spread 1."""
    fy, fx = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :]
    fall = np.maximum(np.hypot(fx, fy), 1 / side) ** -power
    made = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(side, side))) * fall, s=(side, side))
    return (made / max(float(made.std()), 1e-6)).astype(np.float32)
