"""Films here and now: the same pixels, engine and decision as a scoring job's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from trainer.card import Card, Group
from trainer.errors import FilmError
from trainer.film import rules
from worker.config import Settings
from worker.engine import NOT_FINITE, Engine
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
    films: Iterable[tuple[str, bytes | FilmError]],
    settings: Settings,
    database: sa.Engine,
    model_id: int,
    precision: str = "fp32",
) -> Iterator[tuple[str, Answer | FilmError]]:
    """Score films, each a name and its bytes, with a model in a precision, on what `settings` say.

    Yields each name with its answer, or with why it is no film, in their order; no more films than
    the engine takes at a time are held. Raises EngineError for the model or the engine.
    """
    # The number of threads changes no answer.
    with serving.opened(settings, database, model_id, precision, threads=1) as engine:
        card = engine.card
        pixels = np.zeros((engine.batch, 1, card.size, card.size), np.uint8)
        held: list[tuple[str, bytes | FilmError]] = []
        decoded = 0
        for name, data in films:
            found = data
            if not isinstance(data, FilmError):
                try:
                    rules.decode(data, card.size, card.film_rule, out=pixels[decoded, 0])
                    decoded += 1
                except FilmError as error:
                    found = FilmError(error.code, f"{name}: {error}")
            held.append((name, found))
            # Where nothing can be decoded for long, what was found is told all the same.
            if decoded == engine.batch or len(held) == 4 * engine.batch:
                yield from _computed(engine, held, pixels, decoded)
                held, decoded = [], 0
        yield from _computed(engine, held, pixels, decoded)


def _computed(
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
                look=None if group is None else card.looks[group],
                cam=None if outputs.cam is None else outputs.cam[n],
                card=card,
                film=data,
            ),
        )
        n += 1
