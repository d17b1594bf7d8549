"""Drawn: pages, bones, fans, photographs, …: pictures that are of no chest at all.

Each takes a generator and a film `float32 [S, S]`, and gives a picture of that shape.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from trainer.network.planes import Plane, Rng, axes, border, cloud, stretched, to_plane

#: A picture is drawn this many times as large, so that its edges are smooth.
FINER = 2


def page(rng: Rng, film: Plane) -> Plane:
    """Lines of marks like words on paper, as a scanner or a camera sees a document."""
    canvas, pen, side = _canvas(film, 255)
    line = side * rng.uniform(0.02, 0.07)
    y = side * rng.uniform(0.02, 0.15)
    margin = side * rng.uniform(0.03, 0.15)
    while y < side * 0.97:
        x, end = margin, side - margin * rng.uniform(0.5, 4)
        while x < end and rng.random() > 0.02:
            word = line * rng.uniform(0.5, 4)
            letter = line * 0.45
            at = x
            while at < x + word:
                tall = line * rng.choice([0.35, 0.6])
                box = (at, y + line * 0.6 - tall, at + letter * 0.7, y + line * 0.6)
                if rng.random() < 0.5:
                    pen.rectangle(box, outline=20, width=max(1, int(line * 0.09)))
                else:
                    pen.line(box, fill=20, width=max(1, int(line * 0.12)))
                at += letter
            x += word + line * 0.4
        y += line * rng.choice([1.0, 1.0, 1.3, 2.5])
    if rng.random() < 0.3:
        for _ in range(int(rng.integers(2, 12))):
            at = rng.uniform(0, side)
            ends = ((0, at), (side, at)) if rng.random() < 0.5 else ((at, 0), (at, side))
            pen.line(ends, fill=60, width=max(1, side // 200))
    plane = _shrunk(canvas.rotate(rng.normal(0, 6), fillcolor=border(rng)), film)
    plane = plane * _light(rng, len(film))
    return 255 - plane if rng.random() < 0.25 else plane


def bones(rng: Rng, film: Plane) -> Plane:
    """A limb or several: long bones with dense rims in flesh, on the empty detector."""
    canvas, _, side = _canvas(film, int(rng.integers(0, 40)))
    plane = np.asarray(canvas, np.float32).flatten()
    toward = rng.uniform(0, math.pi)
    count = int(rng.integers(1, 6))
    for n in range(count):
        angle = toward + rng.normal(0, 0.15)
        along = np.array([math.cos(angle), math.sin(angle)])
        across = np.array([-along[1], along[0]])
        offset = 0.0 if count == 1 else (n - (count - 1) / 2) * side * rng.uniform(0.12, 0.3)
        middle = side / 2 + across * offset
        wide = side * rng.uniform(0.03, 0.12)
        flesh = _rod(side, middle, along, side * rng.uniform(0.4, 1.2), wide * rng.uniform(2, 4))
        plane[flesh] = np.maximum(plane[flesh], np.float32(rng.uniform(50, 120)))
        at = middle - along * side * 0.6
        while np.dot(at - middle, along) < side * 0.6:
            length = side * rng.uniform(0.15, 0.7)
            centre = at + along * length / 2
            for scale, level in ((1.0, rng.uniform(170, 250)), (0.6, rng.uniform(110, 180))):
                bone = _rod(side, centre, along, length * 0.46, wide * scale)
                level = np.float32(level)
                plane[bone] = np.maximum(plane[bone], level) if scale == 1 else level
            at = at + along * length
    canvas = Image.fromarray(plane.reshape(side, side).clip(0, 255).astype(np.uint8))
    plane = _shrunk(canvas, film)
    return plane + rng.normal(0, 4, plane.shape).astype(np.float32)


def cross_section(rng: Rng, film: Plane) -> Plane:
    """A cut through a body: a bright ring on black with rounds inside, as CT and MR show it."""
    canvas, pen, side = _canvas(film, int(rng.integers(0, 25)))
    rx, ry = side * rng.uniform(0.25, 0.49, 2)
    cx, cy = side * (0.5 + rng.normal(0, 0.03, 2))
    pen.ellipse((cx - rx, cy - ry, cx + rx, cy + ry), fill=int(rng.integers(110, 255)))
    rim = rng.uniform(0.82, 0.97)
    flesh = int(rng.integers(70, 200))
    pen.ellipse((cx - rx * rim, cy - ry * rim, cx + rx * rim, cy + ry * rim), fill=flesh)
    for _ in range(int(rng.integers(2, 14))):
        radius, angle = math.sqrt(rng.uniform(0, 0.5)), rng.uniform(0, 2 * math.pi)
        x, y = cx + rx * radius * math.cos(angle), cy + ry * radius * math.sin(angle)
        a, b = side * rng.uniform(0.02, 0.16, 2)
        pen.ellipse((x - a, y - b, x + a, y + b), fill=int(rng.integers(0, 256)))
    plane = _shrunk(canvas, film)
    return plane + (plane > 40) * cloud(rng, len(plane), 1.0) * rng.uniform(2, 25)


def fan(rng: Rng, film: Plane) -> Plane:
    """Speckle in a sector on black, as ultrasound shows it."""
    side = len(film)
    x, y = axes(side)
    up = rng.uniform(0.9, 1.6)
    radius, angle = np.hypot(x, y + up), np.arctan2(x, y + up)
    inside = (np.abs(angle) < rng.uniform(0.3, 0.9)) & (radius < up + rng.uniform(0.4, 1.0))
    inside &= radius > rng.uniform(0.05, 0.6)
    if rng.random() < 0.25:
        inside = np.abs(x) < rng.uniform(0.5, 1)
    depth = stretched(cloud(rng, side, rng.uniform(1.0, 2.2))) / 255
    speckle = rng.rayleigh(0.6, film.shape) if rng.random() < 0.8 else 1.0
    plane = (inside * depth * speckle * rng.uniform(90, 220)).astype(np.float32)
    if rng.random() < 0.5:
        plane[: side // 12, : side // 2] = page(rng, film)[: side // 12, : side // 2]
    return np.asarray(plane, np.float32)


def leaves(rng: Rng, film: Plane) -> Plane:
    """Overlapping shapes of all sizes: the statistics of photographs (Lee et al. 2001)."""
    canvas, pen, side = _canvas(film, int(rng.integers(0, 256)))
    straight = rng.random()
    for _ in range(int(rng.integers(15, 160))):
        size = side * min(0.6, 0.02 / (rng.random() + 0.02))
        x, y = rng.uniform(0, side, 2)
        a, b = size * rng.uniform(0.3, 1, 2)
        fill = int(rng.integers(0, 256))
        if rng.random() < straight:
            corners = rng.uniform(-1, 1, (int(rng.integers(3, 6)), 2)) * (a, b) + (x, y)
            pen.polygon([tuple(c) for c in corners], fill=fill)
        else:
            pen.ellipse((x - a, y - b, x + a, y + b), fill=fill)
    plane = _shrunk(canvas, film)
    return plane + cloud(rng, len(film), rng.uniform(0.5, 1.5)) * rng.uniform(0, 30)


def clouds(rng: Rng, film: Plane) -> Plane:
    """Fog of any grain."""
    plane = stretched(cloud(rng, len(film), rng.uniform(0, 2.5)))
    return plane * _light(rng, len(film)) if rng.random() < 0.3 else plane


def scene(rng: Rng, film: Plane) -> Plane:
    """Sky, ground and upright boxes between them."""
    canvas, pen, side = _canvas(film, int(rng.integers(120, 256)))
    horizon = side * rng.uniform(0.3, 0.8)
    pen.rectangle((0, horizon, side, side), fill=int(rng.integers(0, 160)))
    for _ in range(int(rng.integers(2, 12))):
        x, wide, high = side * rng.random(), side * rng.uniform(0.03, 0.25), side * rng.random()
        foot = horizon + side * rng.uniform(0, 0.2)
        pen.rectangle((x, foot - high, x + wide, foot), fill=int(rng.integers(0, 256)))
        if rng.random() < 0.5:
            for row in np.arange(foot - high, foot, side * 0.05):
                pen.line((x, row, x + wide, row), fill=int(rng.integers(0, 256)), width=side // 90)
    plane = _shrunk(canvas, film) + cloud(rng, len(film), 1.2) * rng.uniform(2, 25)
    return plane * _light(rng, len(film))


def pattern(rng: Rng, film: Plane) -> Plane:
    """Stripes, checks, rings, a ramp, or nothing at all."""
    x, y = axes(len(film))
    angle, pitch = rng.uniform(0, math.pi), rng.uniform(1.5, 40)
    wave = np.sin(pitch * (x * math.cos(angle) + y * math.sin(angle)))
    other = np.sin(pitch * (y * math.cos(angle) - x * math.sin(angle)))
    rings = np.sin(pitch * np.hypot(x - rng.normal(0, 0.3), y - rng.normal(0, 0.3)))
    ramp = x * math.cos(angle) + y * math.sin(angle)
    made = [wave, np.sign(wave), np.sign(wave * other), rings, ramp, np.zeros_like(ramp)]
    middle, swing = rng.uniform(0, 255), rng.uniform(20, 130)
    return np.asarray((middle + swing * made[rng.integers(len(made))]), np.float32)


def test_object(rng: Rng, film: Plane) -> Plane:
    """What a physicist exposes: discs, wedges, bars and wires on an even field."""
    canvas, pen, side = _canvas(film, int(rng.integers(30, 220)))
    for _ in range(int(rng.integers(2, 10))):
        (x, y), a = rng.uniform(0, side, 2), side * rng.uniform(0.03, 0.3)
        fill, what = int(rng.integers(0, 256)), rng.integers(4)
        if what == 0:
            pen.ellipse((x - a, y - a, x + a, y + a), fill=fill)
        elif what == 1:
            for step in range(8):
                pen.rectangle((x + step * a / 4, y, x + (step + 1) * a / 4, y + a), fill=step * 32)
        elif what == 2:
            for at in np.arange(0, a, max(2, a / 8)):
                pen.line((x + at, y, x + at, y + a), fill=fill, width=max(1, int(a / 20)))
        else:
            ends = tuple(rng.uniform(0, side, 4))
            pen.line(ends, fill=fill, width=max(1, int(a / 10)))
    plane = _shrunk(canvas, film)
    return plane + rng.normal(0, rng.uniform(1, 10), plane.shape).astype(np.float32)


def _canvas(film: Plane, level: int) -> tuple[Image.Image, Any, int]:
    side = FINER * len(film)
    canvas = Image.new("L", (side, side), level)
    return canvas, ImageDraw.Draw(canvas), side


def _shrunk(canvas: Image.Image, film: Plane) -> Plane:
    return np.asarray(
        to_plane(canvas.resize(film.shape[::-1], Image.Resampling.BOX)).copy(), np.float32
    )


def _light(rng: Rng, side: int) -> Plane:
    """Uneven light, 0.5 to 1."""
    x, y = axes(side)
    angle, dark = rng.uniform(0, 2 * math.pi), rng.uniform(0, 0.5)
    ramp = (x * math.cos(angle) + y * math.sin(angle)) / math.sqrt(2)
    return (1 - dark * (ramp + 1) / 2).astype(np.float32)


def _rod(
    side: int,
    centre: NDArray[np.floating[Any]],
    along: NDArray[np.floating[Any]],
    half: float,
    wide: float,
) -> NDArray[np.intp]:
    """Places in a flattened square that lie inside a bar with round, thickened ends."""
    at = np.arange(side, dtype=np.float32)
    x, y = at[None, :] - centre[0], at[:, None] - centre[1]
    u, v = x * along[0] + y * along[1], -x * along[1] + y * along[0]
    # Nothing further out can be inside, and what follows takes long for each place.
    reach = 1.6 * wide
    near = np.flatnonzero((np.abs(v) < reach) & (np.abs(u) < half + reach))
    u, v = u.ravel()[near], v.ravel()[near]
    past = np.maximum(np.abs(u) - half, 0)
    thick = wide * (1 + 0.5 * (np.abs(u) / max(half, 1)).clip(0, 1) ** 4)
    return np.asarray(near[np.hypot(past, v) < thick])
