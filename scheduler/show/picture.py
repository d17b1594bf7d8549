"""Pictures of films with the evidence on them: what `classify FILM OUT` writes, and pages show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from trainer.film import rules
from worker.classify.answer import Answer

#: Opacity of the strongest evidence.
STRONGEST = 0.45

#: The colour of evidence.
RED = (230, 40, 30)


def evidence(cam: NDArray[np.float32]) -> Image.Image | None:
    """How opaque the evidence is in each cell of a map in logits `[h, w]`, mode `L`; None: none.

    Evidence against the class is not shown; what is shown is scaled to its own strongest.
    """
    positive = np.clip(cam, 0, None)
    strongest = float(positive.max(initial=0))
    if strongest <= 0:
        return None
    return Image.fromarray((positive / strongest * (255 * STRONGEST)).astype(np.uint8))


def annotate(out: Path, answer: Answer) -> None:
    """Write the film with its class-activation map in red and the answer in words.

    The film is shown whole and as the model's film rule makes it gray; the map lies where the model
    looked. The format follows `out`'s suffix; ValueError or OSError where it cannot be written.
    """
    base = rules.gray(answer.film).convert("RGB")
    if answer.cam is not None and answer.probability >= answer.card.threshold:
        alpha = evidence(answer.cam)
        if alpha is not None:
            card = answer.card
            box = rules.field(card.film_rule, base.width, base.height, card.size)
            x, y, beyond_x, beyond_y = (round(side) for side in box)
            mask = alpha.resize((beyond_x - x, beyond_y - y), Image.Resampling.BICUBIC)
            base.paste(Image.new("RGB", mask.size, RED), (x, y), mask)
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
