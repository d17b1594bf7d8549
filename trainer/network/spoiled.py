"""Spoiled: training films turned, inverted, cut up, …, so that they are good films no more.

They share all of their texture with good ones. Each takes a generator and a film `float32 [S, S]`,
and gives a picture of that shape.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from trainer.network import drawn
from trainer.network.planes import Plane, Rng, axes, border, stretched, to_image, to_plane


def quarter_turned(rng: Rng, film: Plane) -> Plane:
    """Lying on either side."""
    return np.rot90(film, 1 + 2 * int(rng.integers(2)))


def upside_down(rng: Rng, film: Plane) -> Plane:
    """Turned by half, or flipped."""
    return np.rot90(film, 2) if rng.random() < 0.7 else np.flipud(film)


def askew(rng: Rng, film: Plane) -> Plane:
    """Turned by 40 to 140 degrees."""
    angle = rng.choice([-1, 1]) * rng.uniform(40, 140)
    return to_plane(to_image(film).rotate(angle, Image.Resampling.BILINEAR, fillcolor=border(rng)))


def inverted(rng: Rng, film: Plane) -> Plane:
    """Black for white."""
    return 255 - film


def detail(rng: Rng, film: Plane) -> Plane:
    """A small part, enlarged."""
    side = len(film)
    part = max(4, int(side * rng.uniform(0.12, 0.42)))
    x, y = rng.integers(0, side - part + 1, 2)
    box = (x, y, x + part, y + part)
    return to_plane(to_image(film).resize((side, side), Image.Resampling.BICUBIC, box))


def shuffled(rng: Rng, film: Plane) -> Plane:
    """Cut into tiles that are laid in another order."""
    n = int(rng.integers(2, 6))
    edges = np.linspace(0, len(film), n + 1).astype(int)
    cell = edges[1]
    tiles = [film[y : y + cell, x : x + cell] for y in edges[:-1] for x in edges[:-1]]
    tiles = [t for t in tiles if t.shape == (cell, cell)]
    order = np.roll(rng.permutation(len(tiles)), 1)
    made = film.copy()
    places = [(y, x) for y in edges[:-1] for x in edges[:-1]]
    for (y, x), tile in zip(places, order, strict=False):
        made[y : y + cell, x : x + cell] = tiles[tile][: len(film) - y, : len(film) - x]
    return np.asarray(made, np.float32)


def overlaid(rng: Rng, film: Plane) -> Plane:
    """Exposed twice, turned in between."""
    other = np.rot90(film, int(rng.integers(1, 4)))
    share = np.float32(rng.uniform(0.4, 0.6))
    return np.asarray(share * film + (1 - share) * other, np.float32)


def swirled(rng: Rng, film: Plane) -> Plane:
    """Twisted about the middle."""
    x, y, side = *axes(len(film)), len(film)
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    angle = angle + rng.choice([-1, 1]) * rng.uniform(1.5, 5) * np.exp(-2 * radius)
    back = radius * np.cos(angle), radius * np.sin(angle)
    column, row = (((c + 1) / 2 * side).astype(int).clip(0, side - 1) for c in back)
    return np.asarray(film[row, column], np.float32)


def same_spectrum(rng: Rng, film: Plane) -> Plane:
    """The film's sizes of detail at random places."""
    phase = np.angle(np.fft.fft2(rng.normal(size=film.shape)))
    made = np.fft.ifft2(np.abs(np.fft.fft2(film - film.mean())) * np.exp(1j * phase)).real
    return np.asarray((made + film.mean()), np.float32)


def edges(rng: Rng, film: Plane) -> Plane:
    """Nothing but outlines."""
    gy, gx = np.gradient(film)
    made = stretched(np.hypot(gx, gy))
    return made if rng.random() < 0.5 else 255 - made


def two_tones(rng: Rng, film: Plane) -> Plane:
    """Two or three gray levels left."""
    steps = int(rng.integers(1, 3))
    levels = np.quantile(film, np.sort(rng.uniform(0.15, 0.85, steps)))
    return (np.digitize(film, levels) * (255 / steps)).astype(np.float32)


def tiny(rng: Rng, film: Plane) -> Plane:
    """A film, or several, small on something else: a contact sheet, a screenshot."""
    side = len(film)
    page = (
        stretched(drawn.leaves(rng, film))
        if rng.random() < 0.5
        else np.full_like(film, border(rng))
    )
    small = max(4, int(side * rng.uniform(0.15, 0.4)))
    thumb = to_plane(to_image(film).resize((small, small), Image.Resampling.BOX))
    for _ in range(int(rng.integers(1, 7))):
        y, x = rng.integers(0, side - small + 1, 2)
        page[y : y + small, x : x + small] = thumb
    return page


def smeared(rng: Rng, film: Plane) -> Plane:
    """Nothing left but large shadows, or moved while exposed."""
    side = len(film)
    if rng.random() < 0.5:
        return to_plane(
            to_image(film).filter(ImageFilter.GaussianBlur(side * rng.uniform(0.05, 0.12)))
        )
    reach = int(side * rng.uniform(0.2, 0.5))
    axis = int(rng.integers(0, 2))
    padded = np.concatenate([film, film], axis=axis).cumsum(axis=axis, dtype=np.float64)
    late, early = np.roll(padded, -reach, axis), padded
    made = (late - early) / reach
    return made[:side, :side].astype(np.float32) if reach < side else film
