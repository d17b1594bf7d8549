"""The card: which class its operating threshold makes of a film's scores."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from trainer.card import Card

CARD = Card(
    labels=("NORMAL", "PNEUMONIA"),
    positive="PNEUMONIA",
    size=64,
    film_rule="film-1",
    golden=(),
    temperature=1.0,
    threshold=0.5,
    threshold_rule="half",
)


@pytest.mark.parametrize(
    ("threshold", "probability", "expected"),
    [(0.5, 0.5, 1), (0.5, 0.49, 0), (0.2, 0.3, 1), (0.9, 0.8, 0)],
)
def test_of_two_classes_the_threshold_decides(
    threshold: float, probability: float, expected: int
) -> None:
    chosen = dataclasses.replace(CARD, threshold=threshold)
    assert chosen.decide(np.array([[1 - probability, probability]], np.float32)) == expected


def test_of_three_classes_the_threshold_decides_about_the_positive_one_first() -> None:
    chosen = dataclasses.replace(
        CARD, labels=("NORMAL", "PNEUMONIA", "OTHER"), positive="PNEUMONIA", threshold=0.3
    )
    for scores, expected in (
        ((0.6, 0.3, 0.1), 1),  # positive, though NORMAL is likelier
        ((0.5, 0.2, 0.3), 0),
        ((0.1, 0.2, 0.7), 2),
    ):
        assert chosen.decide(np.array([scores], np.float32)) == expected
    # Below its threshold the positive class is not called, even where it is the likeliest.
    strict = dataclasses.replace(chosen, threshold=0.9)
    assert strict.decide(np.array([(0.1, 0.7, 0.2)], np.float32)) == 2
