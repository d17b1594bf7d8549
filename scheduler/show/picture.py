"""The annotated picture that `classify FILM OUT` writes: the film, the evidence, the answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from worker.scoring.classify import Answer

#: Opacity of the strongest evidence.
STRONGEST = 0.45


def annotate(film: Path, out: Path, answer: Answer) -> None:
    """Write the film with its class-activation map in red and the answer in words.

    The format follows `out`'s suffix; ValueError or OSError where it cannot be written.
    """
    with Image.open(film) as image:
        base = ImageOps.exif_transpose(image).convert("L").convert("RGB")
    if answer.cam is not None:
        # Evidence against the class is not shown; what is shown is scaled to its own strongest.
        evidence = np.clip(answer.cam, 0, None)
        strongest = float(evidence.max())
        if strongest > 0 and answer.probability >= answer.card.threshold:
            alpha = Image.fromarray((evidence / strongest * (255 * STRONGEST)).astype(np.uint8))
            red = Image.new("RGB", base.size, (230, 40, 30))
            base.paste(red, mask=alpha.resize(base.size, Image.Resampling.BICUBIC))
    text = f"{100 * answer.probability:.2f}% {answer.card.positive}: called {answer.label}"
    if answer.unusual:
        text += " (unusual film: do not trust it)"
    font_size = max(12, base.height // 30)
    font = ImageFont.load_default(font_size)
    draw = ImageDraw.Draw(base)
    margin = font_size // 2
    lines = (text, "Research software, not a medical device.")
    for number, line in enumerate(lines):
        place = (margin, margin + number * round(1.4 * font_size))
        left, top, right, bottom = draw.textbbox(place, line, font=font)
        draw.rectangle((left - 4, top - 3, right + 4, bottom + 3), fill=(40, 40, 40))
        draw.text(place, line, font=font, fill=(255, 255, 255))
    base.save(out)
