"""Anatomy: the bodies that phantom films are taken of, each a map of what absorbs X-rays.

Lungs, heart, ribs and the rest are geometry, varied by chance; nothing here comes from a patient.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Plane = NDArray[np.float32]

#: The body is drawn on a square canvas of this many pixels, then projected to the film's size.
CANVAS = 416

#: The film's frame is -1 to 1 on both axes; the canvas shows this far, so that a film can be
#: turned and shifted without running out of patient.
REACH = 1.2


@dataclass(frozen=True, kw_only=True)
class Body:
    """One patient as X-rays see them: what is absorbed, each plane `float32 [CANVAS, CANVAS]`."""

    #: Absorption of the body without what follows: 0 is air, 0.25 lung, 0.6 flesh, 0.9 bone.
    density: Plane
    #: Where the lungs are clouded, 0 to 1 and smooth; every patient has some.
    veil: Plane
    #: Cotton-like texture of the disease, -1 to 1 about a mean of 0; all 0 in a healthy patient.
    mottle: Plane


@functools.cache
def _axes() -> tuple[Plane, Plane]:
    """x as a row and y as a column, in units of the film's half side; y grows downwards."""
    axis = np.linspace(-REACH, REACH, CANVAS, dtype=np.float32)
    axis.setflags(write=False)
    return axis[None, :], axis[:, None]


def _step(distance: NDArray[np.floating], width: float) -> Plane:
    """0 to 1 as `distance` passes through 0, within `width`."""
    t: Plane = np.clip(distance * np.float32(1 / width) + np.float32(0.5), 0, 1)
    return t * t * (3 - 2 * t)


def _ellipse(cx: float, cy: float, rx: float, ry: float, soft: float, tilt: float = 0.0) -> Plane:
    """1 inside an ellipse, 0 outside, with an edge `soft` wide; `tilt` in radians."""
    x, y = _axes()
    out = np.zeros((CANVAS, CANVAS), np.float32)
    extent = max(rx, ry) + soft
    left, right = np.searchsorted(x[0], (cx - extent, cx + extent))
    top, bottom = np.searchsorted(y[:, 0], (cy - extent, cy + extent))
    dx, dy = x[:, left:right] - np.float32(cx), y[top:bottom] - np.float32(cy)
    c, s = math.cos(tilt), math.sin(tilt)
    r = np.sqrt(np.square(dx * (c / rx) + dy * (s / rx)) + np.square(dy * (c / ry) - dx * (s / ry)))
    out[top:bottom, left:right] = _step(1 - r, soft / min(rx, ry))
    return out


def _tube(distance: Plane, half: float) -> Plane:
    """What a hollow bone of half width `half` absorbs, 0 to 0.6: its rims more than its middle."""
    q: Plane = np.square(distance * np.float32(1 / half))
    outer: Plane = np.sqrt(np.maximum(1 - q, 0))
    marrow: Plane = np.sqrt(np.maximum(0.7 - q, 0))
    return outer - 0.6 * marrow


def _noise(rng: np.random.Generator, cells: int) -> Plane:
    """Smooth noise of mean 0, with `cells` independent values along each axis."""
    return _scaled(Image.fromarray(rng.standard_normal((cells, cells), dtype=np.float32)), CANVAS)


def _scaled(image: Image.Image, side: int) -> Plane:
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC), np.float32)


def _vessels(rng: np.random.Generator) -> Plane:
    """The branching shadows that leave both hila, 0 to 1."""
    image = Image.new("L", (CANVAS, CANVAS))
    draw = ImageDraw.Draw(image)
    scale = CANVAS / (2 * REACH)

    def branch(x: float, y: float, angle: float, width: float) -> None:
        for _ in range(2):
            length = rng.uniform(0.05, 0.09) + 0.02 * width
            nx, ny = x + length * math.cos(angle), y + length * math.sin(angle)
            points = [(a + REACH) * scale for a in (x, y, nx, ny)]
            draw.line(points, fill=int(70 + 30 * width), width=max(1, round(width)))
            x, y, angle = nx, ny, angle + rng.normal(0, 0.16)
        if width > 0.8:
            branch(x, y, angle - rng.uniform(0.15, 0.45), width * 0.66)
            branch(x, y, angle + rng.uniform(0.15, 0.45), width * 0.66)

    for side in (-1, 1):
        for heading in np.linspace(-1.3, 1.3, 7):
            angle = float(heading + rng.normal(0, 0.12))
            start = 0.07 * angle
            branch(side * 0.17, start, angle if side > 0 else math.pi - angle, rng.uniform(2, 3.4))
    blurred = np.asarray(image.filter(ImageFilter.GaussianBlur(1.1)), np.float32)
    shadows: Plane = blurred / np.float32(255)
    return shadows


def draw(rng: np.random.Generator, positive: bool) -> Body:
    """Draw one patient; the same `rng` draws the same body with and without pneumonia."""
    x, y = _axes()
    ax = np.abs(x)
    u = rng.uniform

    # Outline: neck, sloping shoulders, sides.
    neck, side, shoulder = u(0.2, 0.26), u(0.9, 1.02), u(-0.98, -0.88)
    slope = shoulder + 0.3 * np.clip((ax - neck) / 0.8, 0, 2) ** 2.2
    outline = _step(y - slope, 0.04) * _step(side + 0.3 * _step(-0.15 - y, 0.6) - ax, 0.06)
    outline = np.maximum(outline, _step(neck + 0.3 * _step(y + 0.9, 0.3) - ax, 0.05) * (y < -0.75))

    # Lungs: inside the chest wall, above the diaphragm, beside the spine.
    widest, apex, base = u(0.72, 0.80), u(-0.84, -0.76), 0.45
    rise = np.clip((base - y) / (base - apex), 0, 1)
    wall = widest * np.sqrt(1 - rise ** u(2.3, 2.7)) - 0.1 * np.square(np.maximum(y - base, 0))
    domes = (u(0.40, 0.50), u(0.47, 0.57))
    dome = domes[0] + (domes[1] - domes[0]) * _step(x, 0.6)
    off = ax - np.float32(0.42 * widest)
    dome = dome + 0.7 * np.square(off) + 6 * np.maximum(off - 0.1, 0) ** 3
    lungs = _step(wall - ax, 0.03) * _step(dome - y, 0.03) * _step(ax - 0.09, 0.05)

    # Heart and great vessels.
    size = u(0.9, 1.12)
    tilt = u(0.5, 0.75)
    tip = u(0.13, 0.17)
    heart = np.maximum(
        _ellipse(tip, 0.28, 0.37 * size, 0.26 * size, 0.05, tilt),
        _ellipse(-0.04, 0.27, 0.19 * size, 0.27 * size, 0.05),
    )
    knob = _ellipse(u(0.07, 0.1), u(-0.34, -0.28), 0.1, 0.12, 0.05)
    trunk = _step(0.135 + 0.07 * _step(y + 0.25, 0.5) + 0.03 * _step(-0.5 - y, 0.4) - ax, 0.08)
    hila = np.maximum(
        _ellipse(-0.2, 0.03, 0.1, 0.2, 0.1, -0.25), _ellipse(0.2, -0.03, 0.1, 0.17, 0.1, 0.25)
    )
    core = 1 - (1 - heart) * (1 - 0.85 * trunk) * (1 - 0.8 * knob)
    open_lung = lungs * (1 - core)

    # Soft tissue, then the air in the lungs, and what fills it.
    density = 0.6 - 0.12 * np.square(ax) + 0.02 * _noise(rng, 7) + 0.01 * _noise(rng, 40)
    inner = _step(wall + 0.02 - ax, 0.1)
    belly = inner * _step(y - dome, 0.03) + (1 - inner) * _step(y - 0.9, 0.9)
    bubble = _ellipse(u(0.3, 0.42), domes[1] + 0.16, u(0.1, 0.17), 0.08, 0.06)
    density += belly * (0.17 - u(0, 0.12) * bubble)
    air = 0.33 - 0.06 * _step(0.16 - wall + ax, 0.3) + 0.04 * _step(-0.2 - y, 0.8)
    density -= open_lung * (air - 0.1 * hila - 0.15 * _vessels(rng) - 0.01 * _noise(rng, 64))
    density += 0.1 * core * _step(0.75 - y, 0.5) * _step(y + 0.75, 0.8)

    density += _spine(rng) + _ribs(rng, wall, lungs, open_lung) + _shoulders(rng)
    if rng.random() < 0.5:
        breast, size = u(0.03, 0.08), u(0.26, 0.36)
        for sign in (-1, 1):
            density += breast * _ellipse(sign * u(0.4, 0.48), u(0.2, 0.32), size, size, 0.12)

    veil = _veil(rng) * lungs * (1 - 0.8 * core)
    mottle = veil * _fluff(rng) * np.float32(positive)
    return Body(density=np.maximum(density, 0) * outline, veil=veil, mottle=mottle)


def _spine(rng: np.random.Generator) -> Plane:
    """Vertebrae, and the windpipe with its fork in front of them (which absorbs less)."""
    x, y = _axes()
    u = rng.uniform
    bend = np.float32(0.015) * np.sin(2 * y + np.float32(u(0, 6)))
    disc = np.abs(np.mod(y / np.float32(u(0.125, 0.145)) + np.float32(u(0, 1)), 1) - 0.5) * 2
    across = np.abs(x - bend)
    bone: Plane = _step(0.08 + 0.014 * disc - across, 0.03) * (
        0.035 + 0.03 * _step(disc - 0.25, 0.3)
    )
    bone += 0.03 * _step(0.018 - across, 0.02) * _step(disc - 0.5, 0.4)
    fork = np.clip(y + 0.3, 0, 0.25)
    return bone - 0.09 * _step(0.04 - np.abs(np.abs(x) - 0.9 * fork), 0.035) * _step(-0.1 - y, 0.15)


def _ribs(rng: np.random.Generator, wall: Plane, lungs: Plane, open_lung: Plane) -> Plane:
    """Ten pairs: each a ring seen from the front, its back the upper arc, its front the lower.

    `wall` is the half width of the lungs for each row, `[CANVAS, 1]`.
    """
    x, y = _axes()
    ax = np.abs(x)
    u = rng.uniform
    cage = np.maximum(wall + 0.035, 0.01)
    arch = np.sqrt(np.maximum(1 - np.square(ax / cage), 0))
    gap, start, lean = u(0.13, 0.15), u(-0.62, -0.56), u(-0.03, 0.03)
    shown = (0.25 + 0.4 * lungs + 0.35 * open_lung) * (ax < cage)
    backs = (u(0.18, 0.24), 0.033, 0.17, _step(ax - 0.08, 0.1))
    fronts = (-u(0.26, 0.34), 0.036, 0.13, _step(ax - 0.3, 0.25))  # the rest is cartilage
    bone = np.zeros_like(lungs)
    for lift, half, strength, reach in (backs, fronts):
        phase = (y + lift * arch + lean * x - start) * np.float32(1 / gap)
        steep = np.hypot(*np.gradient(phase, 2 * REACH / CANVAS))
        number = np.round(phase)
        tubes = _tube((phase - number) / np.maximum(steep, 1), half)
        bone += strength * tubes * shown * reach * ((number >= 0) & (number < 10))
    return bone


def _shoulders(rng: np.random.Generator) -> Plane:
    """Clavicles, shoulder blades and the heads of the upper arms."""
    x, y = _axes()
    u = rng.uniform
    bone = np.zeros((CANVAS, CANVAS), np.float32)
    for sign in (-1, 1):
        sx = sign * x
        line = u(-0.55, -0.49) - u(0.2, 0.3) * sx + 0.035 * np.sin(7 * sx - 0.4)
        ends = _step(sx - 0.07, 0.05) * _step(u(0.78, 0.86) - sx, 0.05)
        bone += 0.2 * _tube((y - line) * 0.95, 0.04) * ends
        bone += 0.05 * _ellipse(sign * 0.87, -0.3, 0.17, 0.38, 0.06, tilt=sign * 0.25)
        bone += 0.1 * _ellipse(sign * 1.02, -0.66, 0.16, 0.15, 0.06)
    return bone


def _veil(rng: np.random.Generator) -> Plane:
    """Where the lungs are clouded, 0 to 1: one to three patches, or everywhere a little.

    It is drawn the same way for the sick and the healthy, so that brightness alone says little.
    """
    if rng.random() < 0.3:
        diffuse: Plane = np.clip(0.5 + 0.5 * _noise(rng, 5), 0, 1)
        return diffuse
    u = rng.uniform
    veil = np.zeros((CANVAS, CANVAS), np.float32)
    for _ in range(int(rng.integers(1, 4))):
        sign = 1 if rng.random() < 0.5 else -1
        spot = (sign * u(0.38, 0.6), u(-0.45, 0.45), u(0.2, 0.34), u(0.2, 0.34))
        veil = np.maximum(veil, _ellipse(*spot, soft=0.24))
    return veil


def _fluff(rng: np.random.Generator) -> Plane:
    """Cotton-like texture, -1 to 1, whose mean is 0 over any area of more than a few tufts.

    A tuft is a fiftieth to a hundredth of the film: seen at 112 × 112, gone at 16 × 16.
    """
    image = Image.fromarray(rng.standard_normal((100, 100), dtype=np.float32))
    broad = image.resize((20, 20), Image.Resampling.BOX)
    coarse = image.resize((56, 56), Image.Resampling.BILINEAR)
    tufts = 0.6 * np.asarray(image) + 1.4 * _scaled(coarse, 100) - 2 * _scaled(broad, 100)
    texture: Plane = np.clip(0.8 * _scaled(Image.fromarray(tufts), CANVAS), -1, 1)
    return texture
