"""A new model's reference: what its scores look like on films like those it learned from.

A scoring job's histogram is held against the validation films' (db.registry.drift), and every
engine's fp32 against what PyTorch says of the drawn films. Part of the training process; knows no
database.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trainer.card import Card
from trainer.data import dataset
from trainer.errors import Stopped
from trainer.modelfile import export
from worker.engine import Engine, gate
from worker.training.evaluation import BUCKETS, counted

if TYPE_CHECKING:
    from trainer.learning.loop import Trained

__all__ = ["BUCKETS", "counted", "measure", "rounded"]

#: Films that are held in memory at once.
CHUNK = 256

#: Drawn films that PyTorch looks at at once, on Jetsons with little memory too.
LOOK = 32

#: Decimals of the scores that are kept: a hundredth of what fp32 engines may differ by.
DECIMALS = 6


def measure(
    trained: Trained,
    engine: Engine,
    stop: Callable[[], bool] = lambda: False,
    *,
    golden: bool = True,
) -> dict[str, Any]:
    """`models.reference` of a network, by the processor's engine of its exported fp32 file.

    `of`, `n`, `histogram` (validation films per bucket of P(positive)), `unusual` (how many of them
    are unlike the training films; None where the model cannot tell), and where it is asked for
    `golden`: PyTorch's `scores [N][C]` of `gate.golden`, by which workers check a model before it
    is promoted by itself. Raises Stopped.
    """
    card = engine.card
    rows = trained.films.rows(trained.dataset.of(dataset.VAL))
    histogram = np.zeros(BUCKETS, np.int64)
    # A model without a detector has neither the output nor the threshold.
    limit, unusual = card.ood_threshold, 0
    for start in range(0, len(rows), CHUNK):
        if stop():
            raise Stopped("stopped while the reference was measured")
        outputs = gate.answers(engine, trained.films.take(rows[start : start + CHUNK]))
        histogram += counted(outputs.scores[:, card.positive_index])
        if limit is not None and outputs.ood is not None:
            unusual += int((outputs.ood.astype(np.float64) > limit).sum())
    found = {
        "of": "validation",
        "n": len(rows),
        "histogram": histogram.tolist(),
        "unusual": None if limit is None else unusual,
    }
    return found | {"golden": {"scores": _golden(trained, card)}} if golden else found


def rounded(scores: NDArray[np.floating[Any]]) -> list[list[float]]:
    """Scores `[N, C]` as they are kept."""
    return [[round(float(score), DECIMALS) for score in row] for row in scores]


def _golden(trained: Trained, card: Card) -> list[list[float]]:
    films = gate.golden(card)[:, 0]
    scores = np.concatenate(
        [
            export.reference_scores(trained, card, films[start : start + LOOK])
            for start in range(0, len(films), LOOK)
        ]
    )
    return rounded(scores)
