"""The annotated picture that `classify FILM OUT` writes: the film, the evidence, the answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from trainer.film import rules
from worker.scoring.classify import Answer

#: Opacity of the strongest evidence.
STRONGEST = 0.45


def annotate(out: Path, answer: Answer) -> None:
    """Write the film with its class-activation map in red and the answer in words.

    The film is shown whole and as the model's film rule makes it gray; the map lies where the model
    looked. The format follows `out`'s suffix; ValueError or OSError where it cannot be written.
    """
    base = rules.gray(answer.film).convert("RGB")
    if answer.cam is not None:
        # Evidence against the class is not shown; what is shown is scaled to its own strongest.
        evidence = np.clip(answer.cam, 0, None)
        strongest = float(evidence.max())
        if strongest > 0 and answer.probability >= answer.card.threshold:
            alpha = Image.fromarray((evidence / strongest * (255 * STRONGEST)).astype(np.uint8))
            card = answer.card
            box = rules.field(card.film_rule, base.width, base.height, card.size)
            x, y, beyond_x, beyond_y = (round(side) for side in box)
            mask = alpha.resize((beyond_x - x, beyond_y - y), Image.Resampling.BICUBIC)
            base.paste(Image.new("RGB", mask.size, (230, 40, 30)), (x, y), mask)
    text = f"{100 * answer.probability:.2f}% {answer.card.positive}: called {answer.label}"
    if answer.unusual:
        text += " (unusual film: do not trust it)"
    elif answer.look is not None:
        text += " (acquired like films of one class: do not trust it)"
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
