"""One film, here and now: the same pixels, engine and decision as a scoring job's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from trainer import film
from trainer.card import Card
from trainer.errors import FilmError
from worker import serving
from worker.board import Board
from worker.config import Settings
from worker.engine import Choice, Engine, choose, instead
from worker.errors import EngineError
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
    with _engine(settings, database, model_id, precision) as engine:
        card = engine.card
        pixels = np.zeros((engine.batch, 1, card.size, card.size), np.uint8)
        try:
            film.decode(data, card.size, card.film_rule, out=pixels[0, 0])
        except FilmError as error:
            raise FilmError(error.code, f"{path}: {error}") from error
        outputs = engine.submit(pixels, 1).result()
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


@contextmanager
def _engine(
    settings: Settings, database: sa.Engine, model_id: int, precision: str
) -> Iterator[Engine]:
    """An engine that may serve, and the GPU's lease as long as it is open."""
    choice = choose(settings)
    if choice.gpu is None:
        # The batch shape of scoring jobs, so that the answer is theirs to the last bit; the number
        # of threads changes none.
        choice = replace(choice, threads=1, lanes=1)
    board = None if choice.gpu is None else Board(choice.gpu.uuid, "classify")
    try:
        if board is not None and not board.take():
            choice = _beside(choice, settings, board)
        engine = serving.serve(settings, database, model_id, precision, choice)
        try:
            yield engine
        finally:
            engine.close()
    finally:
        if board is not None:
            board.release()


def _beside(choice: Choice, settings: Settings, board: Board) -> Choice:
    """The processor, while another process has the GPU: one film is not worth the wait."""
    reason = f"the GPU is in use by {board.holder()}"
    other: Choice | None = choice
    while other is not None and other.gpu is not None:
        other = instead(other, settings, reason)
    if other is None:
        raise EngineError(f"{reason}; try again later, or ask for onnx or auto")
    return other
