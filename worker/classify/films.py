"""Films here and now: the same pixels, engine and decision as a scoring job's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import sqlalchemy as sa

from trainer.errors import FilmError
from trainer.film import rules
from worker.classify.answer import Answer, computed
from worker.config import Settings
from worker.scoring import serving


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
                yield from computed(engine, held, pixels, decoded)
                held, decoded = [], 0
        yield from computed(engine, held, pixels, decoded)
