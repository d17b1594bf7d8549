"""What is said of a film that was scored here and now; needs neither NumPy nor the database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a model says of one film, and by which words and operating point."""

    label: str
    #: P(positive class), 0 to 1.
    probability: float
    #: Class name → probability.
    scores: dict[str, float]
    ood: float | None
    unusual: bool
    #: The training films that it looks acquired like, where nearly all of those were of one class:
    #: the fields of `trainer.card.Group`.
    look: dict[str, Any] | None = None
    #: All classes, and the one that `probability` and `threshold` are of.
    labels: tuple[str, ...]
    positive: str
    threshold: float
