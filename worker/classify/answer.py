"""Answers: what a model says of films whose pixels it was given; knows nothing of the database."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.card import Card
from trainer.errors import FilmError
from worker.classify.result import Result
from worker.engine import NOT_FINITE, Engine
from worker.errors import EngineError


@dataclass(frozen=True, kw_only=True)
class Answer(Result):
    """What a model answers on one film."""

    #: `float32 [h, w]`, evidence for the positive class in logits.
    cam: NDArray[np.float32] | None
    card: Card
    #: The film's bytes, of which this is the answer.
    film: bytes


def computed(
    engine: Engine, held: list[tuple[str, bytes | FilmError]], pixels: NDArray[np.uint8], count: int
) -> Iterator[tuple[str, Answer | FilmError]]:
    """The outcomes of films whose pixels, of those that have any, begin the batch."""
    card = engine.card
    outputs = engine.submit(pixels, count).result() if count else None
    called = None if outputs is None else card.decide(outputs.scores)
    alike = [] if outputs is None else card.alike(outputs.look, count)
    n = 0
    for name, data in held:
        if isinstance(data, FilmError):
            yield name, data
            continue
        assert outputs is not None and called is not None
        if not outputs.finite[n]:
            raise EngineError(f"{name}: {NOT_FINITE}")
        scores = outputs.scores[n]
        ood = None if outputs.ood is None else float(outputs.ood[n])
        group = alike[n]
        yield (
            name,
            Answer(
                label=card.labels[int(called[n])],
                probability=float(scores[card.positive_index]),
                scores={label: float(s) for label, s in zip(card.labels, scores, strict=True)},
                ood=ood,
                unusual=ood is not None
                and card.ood_threshold is not None
                and ood > card.ood_threshold,
                look=None if group is None else dataclasses.asdict(card.looks[group]),
                labels=card.labels,
                positive=card.positive,
                threshold=card.threshold,
                cam=None if outputs.cam is None else outputs.cam[n],
                card=card,
                film=data,
            ),
        )
        n += 1
