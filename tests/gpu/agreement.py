"""How far two engines' answers are apart."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trainer import card as cards
from worker.engine import Engine, Outputs

#: Largest difference of a probability from the processor's, by precision.
DELTA = {"fp32": 1e-4, "fp16": 2e-3}

#: Share of labels that are the processor's, where probabilities may differ more.
LABELS = 0.995


def outputs(engine: Engine, films: NDArray[np.uint8]) -> Outputs:
    """What an engine says of all films, a batch at a time, the last one short."""
    found = []
    for start in range(0, len(films), engine.batch):
        part = films[start : start + engine.batch]
        batch = np.zeros((engine.batch, *films.shape[1:]), np.uint8)
        batch[: len(part)] = part
        answer = engine.submit(batch, len(part)).result()
        found.append([getattr(answer, name)[: len(part)] for name in named(answer)])
    return Outputs(**dict(zip(named(answer), map(np.concatenate, zip(*found, strict=True)),
                              strict=True)))  # fmt: skip


def named(answer: Outputs) -> list[str]:
    """The outputs that a model has."""
    return [n for n in (cards.SCORES, cards.CAM, cards.OOD) if getattr(answer, n) is not None]


def delta(ours: Outputs, theirs: Outputs, name: str = cards.SCORES) -> float:
    """The largest difference of one output, on the scale of what is there."""
    found, expected = getattr(ours, name), getattr(theirs, name)
    assert found.dtype == expected.dtype == np.float32
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))


def same_labels(ours: Outputs, theirs: Outputs, threshold: float = 0.5) -> float:
    """Share of films on which both decide the same."""
    one, other = (answer.scores[:, 1] >= threshold for answer in (ours, theirs))
    return float((one == other).mean())


def rows(answer: Outputs, start: int, end: int) -> Outputs:
    """Some films of an answer."""
    return Outputs(**{name: getattr(answer, name)[start:end] for name in named(answer)})
