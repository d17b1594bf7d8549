"""Letters: what rooms and vendors burn into films, as small pictures.

Sides, projections, exposures, clocks: as letters, in a box or a circle, and as bright plates.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

#: Pixels of a picture; what it shows is stretched to it.
HEIGHT, WIDTH = 32, 96

TEXTS = (
    "R", "L", "R", "L", "D", "G", "S", "RT", "LT", "AP", "PA", "SUP", "AP SUP", "ERECT", "MOBILE",
    "PORT", "BED 7", "CR", "DX", "B", "JK", "M.T", "TS", "4", "12", "08:15", "21:47", "17.03",
    "80 KV", "kV 65", "2.5 mAs", "110cm", "S=200", "No 381", "W:4096", "90", "R 2", "3 L",
)  # fmt: skip

#: How each is drawn: strokes that are so much bolder, and what is around it.
BOLD, AROUND = (0, 3), ("", "box", "circle", "plate")


@functools.cache
def atlas() -> tuple[Tensor, Tensor]:
    """Pictures `float32 [K, 1, HEIGHT, WIDTH]`, 1 where there is ink, and width by height `[K]`."""
    found, ratios = [], []
    for number, text in enumerate(TEXTS):
        for bold in BOLD:
            around = AROUND[(number + bold) % len(AROUND)] if number % 2 else ""
            picture = _drawn(text, bold, around)
            ratios.append(picture.width / picture.height)
            picture = picture.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)
            found.append(np.asarray(picture, np.float32) / 255)
    return torch.tensor(np.stack(found))[:, None], torch.tensor(ratios, dtype=torch.float32)


@functools.cache
def pictures(device: torch.device) -> Tensor:
    """Those of `atlas` on a device, brought there once: a step must not wait for them."""
    return atlas()[0].to(device)


def _drawn(text: str, bold: int, around: str) -> Image.Image:
    """The text, as large as the picture."""
    font = ImageFont.load_default(64)
    left, top, right, bottom = (int(v) for v in font.getbbox(text, stroke_width=bold))
    room = 16 if around else 2
    image = Image.new("L", (right - left + 2 * room, bottom - top + 2 * room))
    draw = ImageDraw.Draw(image)
    edge = (0, 0, image.width - 1, image.height - 1)
    if around == "box":
        draw.rectangle(edge, outline=255, width=4)
    elif around == "circle":
        draw.ellipse(edge, outline=255, width=4)
    elif around == "plate":
        draw.rectangle(edge, fill=255)
    ink = 0 if around == "plate" else 255
    draw.text((room - left, room - top), text, fill=ink, font=font, stroke_width=bold)
    return image
