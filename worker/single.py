"""One film, here and now: the same pixels, engine and decision as a scoring job's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer import film
from trainer.card import Card
from trainer.errors import FilmError
from worker.engine import open_engine
from worker.shard import label


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the model says about one film."""

    label: str
    #: P(positive class), 0 to 1.
    probability: float
    #: Class name → probability.
    scores: dict[str, float]
    ood: float | None
    unusual: bool
    #: `float32 [h, w]`, evidence for the positive class in logits.
    cam: NDArray[np.float32] | None
    card: Card


def classify(path: Path, model: Path, *, batch: int, precision: str = "fp32") -> Answer:
    """Score one image file in a precision, with the model file that it is computed from.

    Raises FilmError where it is no film, EngineError for the model.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FilmError("unreadable", f"{path}: {error.strerror}") from error
    # One thread and the batch shape of scoring jobs, so that the answer is theirs to the last bit.
    engine = open_engine(model, batch=batch, threads=1, precision=precision)
    card = engine.card
    pixels = np.zeros((engine.batch, 1, card.size, card.size), np.uint8)
    try:
        film.decode(data, card.size, card.film_rule, out=pixels[0, 0])
    except FilmError as error:
        raise FilmError(error.code, f"{path}: {error}") from error
    outputs = engine.submit(pixels).result()
    engine.close()
    scores = outputs.scores[0]
    ood = None if outputs.ood is None else float(outputs.ood[0])
    return Answer(
        label=card.labels[int(label(outputs.scores[:1], card)[0])],
        probability=float(scores[card.positive_index]),
        scores={name: float(s) for name, s in zip(card.labels, scores, strict=True)},
        ood=ood,
        unusual=ood is not None and card.ood_threshold is not None and ood > card.ood_threshold,
        cam=None if outputs.cam is None else outputs.cam[0],
        card=card,
    )
