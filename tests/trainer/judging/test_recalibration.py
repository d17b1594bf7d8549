"""Recalibration: logits are read off scores, and too few films are refused."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.judging import calibration, recalibration

RULE = "sensitivity=0.95"
NAMES = ("PNEUMONIA", "NORMAL")


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_logits_are_read_off_scores(temperature: float) -> None:
    logits = np.random.default_rng(0).normal(0, 5, (50, 3))
    scores = calibration.softmax(logits, temperature).astype(np.float32)
    again = recalibration.logits_of(scores, temperature)
    assert calibration.softmax(again, temperature) == pytest.approx(scores, rel=1e-6)
    differences = again - again[:, :1] - (logits - logits[:, :1])
    assert np.abs(differences).max() < 1e-4 * temperature


def test_a_score_of_one_is_a_number_as_any_other() -> None:
    scores = recalibration.of_positive(np.array([0.0, 0.25, 1.0]), 1)
    logits = recalibration.logits_of(scores, 1.0)
    assert np.isfinite(logits).all()
    assert np.argsort(logits[:, 1] - logits[:, 0]).tolist() == [0, 1, 2]
    assert recalibration.of_positive(np.array([0.25]), 0).tolist() == [[0.25, 0.75]]


@pytest.mark.parametrize(
    ("positives", "rule", "said"),
    [
        (49, RULE, "49 films of PNEUMONIA are too few: 50 are needed, of 20 patients or more"),
        (50, RULE, ""),
        (150, "sensitivity=0.99", "150 films of PNEUMONIA are too few for sensitivity=0.99: 200 "
         "are needed, of 20 patients or more"),
        (60, "specificity=0.99", ""),
        (200, "specificity=0.99", "100 films of NORMAL are too few for specificity=0.99: 200 are "
         "needed, of 20 patients or more"),
        (100, "sensitivity=1", "no number of films can show that sensitivity=1; ask for less "
         "than 1"),
    ],
)  # fmt: skip
def test_too_few_films_are_refused_with_how_many_are_needed(
    positives: int, rule: str, said: str
) -> None:
    truth = np.arange(300) < positives
    patients = [str(n) for n in range(300)]
    assert recalibration.lack(truth, patients, rule, NAMES) == said


def test_too_few_patients_are_refused() -> None:
    truth = np.arange(300) < 150
    patients = [f"{n < 150}{n % 19}" if n < 150 else str(n) for n in range(300)]
    assert recalibration.lack(truth, patients, "youden", NAMES) == (
        "the 150 films of PNEUMONIA are of 19 patients, where 20 are needed"
    )
