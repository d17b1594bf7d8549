"""Films that a small network learns in seconds: the sick have a few soft spots, the healthy none.

What a night needs is a task that can be learned well, badly, and wrongly, not one that looks like a
chest.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

#: Pixels of a side.
SIDE = 64

#: Films of one patient.
EACH = 2


def film(rng: np.random.Generator, sick: bool) -> Image.Image:
    """A gray film of smooth noise, with spots where it is of a sick patient."""
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    gray = (
        110 + 25 * np.sin(x / rng.uniform(9, 14) + rng.uniform(0, 6)) + rng.normal(0, 12, x.shape)
    )
    for _ in range(3 if sick else 0):
        cx, cy = rng.uniform(12, SIDE - 12, 2)
        gray += 70 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 18)
    return Image.fromarray(np.clip(gray, 0, 255).astype(np.uint8))


def write(root: Path, patients: int, seed: int, *, wrong: float = 0.0) -> Path:
    """Write films of so many patients, half of them sick, into class folders below `root`.

    The share `wrong` of the patients lies in the other class's folder.
    """
    for number in range(patients):
        rng = np.random.default_rng([seed, number])
        sick = bool(number % 2)
        said = sick != (rng.random() < wrong)
        folder = root / ("PNEUMONIA" if said else "NORMAL")
        folder.mkdir(parents=True, exist_ok=True)
        for n in range(EACH):
            film(rng, sick).save(folder / f"person{seed}{number:04d}_{n}.png")
    return root


def lettered(folder: Path, seed: int, *, patients: int = 25) -> None:
    """Put films of so many sick patients with the same letter in a corner into a folder."""
    for number in range(patients):
        rng = np.random.default_rng([seed, number])
        for n in range(EACH):
            made = film(rng, sick=True)
            pen = ImageDraw.Draw(made)
            pen.text((46, 2), "R", fill=255, font=ImageFont.load_default(size=16))
            made.save(folder / f"person{seed}{number:04d}_{n}.png")
