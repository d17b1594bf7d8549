"""One film, here and now: the same pixels, engine and decision as a scoring job's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from trainer.card import Card, Group
from trainer.errors import FilmError
from trainer.film import rules
from worker.config import Settings
from worker.engine import NOT_FINITE
from worker.errors import EngineError
from worker.scoring import serving


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model answers on one film."""

    label: str
    #: P(positive class), 0 to 1.
    probability: float
    #: Class name → probability.
    scores: dict[str, float]
    ood: float | None
    unusual: bool
    #: The training films that it looks acquired like, where nearly all of those were of one class.
    look: Group | None = None
    #: `float32 [h, w]`, evidence for the positive class in logits.
    cam: NDArray[np.float32] | None
    card: Card
    #: The film's bytes, of which this is the answer.
    film: bytes


def classify(
    path: Path, settings: Settings, database: sa.Engine, model_id: int, precision: str = "fp32"
) -> Answer:
    """Score one image file with a model in a precision, on what `settings` choose.

    Raises FilmError where it is no film, EngineError for the model or the engine.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FilmError("unreadable", f"{path}: {error.strerror}") from error
    # The number of threads changes no answer.
    with serving.opened(settings, database, model_id, precision, threads=1) as engine:
        card = engine.card
        pixels = np.zeros((engine.batch, 1, card.size, card.size), np.uint8)
        try:
            rules.decode(data, card.size, card.film_rule, out=pixels[0, 0])
        except FilmError as error:
            raise FilmError(error.code, f"{path}: {error}") from error
        outputs = engine.submit(pixels, 1).result()
    if not outputs.finite[0]:
        raise EngineError(f"{path}: {NOT_FINITE}")
    scores = outputs.scores[0]
    ood = None if outputs.ood is None else float(outputs.ood[0])
    (look,) = card.alike(None if outputs.look is None else outputs.look[:1], 1)
    return Answer(
        label=card.labels[int(card.decide(outputs.scores[:1])[0])],
        probability=float(scores[card.positive_index]),
        scores={name: float(s) for name, s in zip(card.labels, scores, strict=True)},
        ood=ood,
        unusual=ood is not None and card.ood_threshold is not None and ood > card.ood_threshold,
        look=None if look is None else card.looks[look],
        cam=None if outputs.cam is None else outputs.cam[0],
        card=card,
        film=data,
    )
