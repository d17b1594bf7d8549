"""Recalibration: chosen on some films, measured on others, and refused where they are too few."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from trainer.judging import calibration, metrics, recalibration

RULE = "sensitivity=0.95"
NAMES = ("PNEUMONIA", "NORMAL")

Drawn = tuple[NDArray[np.float64], NDArray[np.int64], list[str]]


def drawn(seed: int, n: int = 300, each: int = 1, shift: float = -2.0) -> Drawn:
    """Logits `[n, 2]`, true classes and patients of films of a source that is shifted."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n // each).repeat(each) % 2
    margin = rng.normal(0, 1.2, n) + np.where(labels == 1, 1.5, -1.5) + shift
    logits = np.stack([np.zeros(n), 3 * margin], axis=1)
    return logits, labels, [f"p{number}" for number in np.arange(n // each).repeat(each)]


def made(seed: int, **values: float) -> recalibration.Recalibrated:
    logits, labels, patients = drawn(seed, **values)  # type: ignore[arg-type]
    return recalibration.recalibrate(logits, labels, patients, 1, RULE)


def test_the_sensitivity_that_was_asked_for_is_reached_on_films_that_chose_nothing() -> None:
    # What a threshold of a half does on the shifted source is far from it.
    logits, labels, _ = drawn(0)
    assert (calibration.softmax(logits)[labels == 1, 1] >= 0.5).mean() < 0.5
    fresh, truth, _ = drawn(99, n=20_000)
    inside = reached = 0
    for seed in range(20):
        found = made(seed)
        figures = found.figures(drawn(seed)[1] == 1, drawn(seed)[2])
        inside += figures["sensitivity_low"] <= 0.95 <= figures["sensitivity_high"]
        called = found.chosen.scores(fresh)[:, 1] >= found.chosen.threshold
        sensitivity = called[truth == 1].mean()
        reached += figures["sensitivity_low"] <= sensitivity <= figures["sensitivity_high"]
        assert 0.88 < sensitivity < 0.999
    assert inside >= 19
    assert reached >= 17


def test_probabilities_mean_what_they_say_on_films_that_chose_nothing() -> None:
    logits, labels, _ = drawn(1, n=2000)
    before = metrics.ece(calibration.softmax(logits)[:, 1], labels == 1)
    after = made(1, n=2000).figures(labels == 1, drawn(1, n=2000)[2])["ece"]
    assert before > 0.2
    assert after < 0.03


def test_no_film_has_a_part_in_what_is_said_of_it_nor_has_another_of_its_patient() -> None:
    logits, labels, patients = drawn(2, each=3)
    number = recalibration.folds(labels == 1, patients)
    assert all(len(set(number[np.array(patients) == p])) == 1 for p in set(patients))
    before = recalibration.recalibrate(logits, labels, patients, 1, RULE)
    inside = number == 0
    # Whatever else is said of one fold's films, their own decisions and probabilities stay.
    turned = np.where(inside, 1 - labels, labels)
    again = recalibration.folds(turned == 1, patients)
    after = recalibration.recalibrate(logits, turned, patients, 1, RULE)
    if (again == number).all():
        assert (after.probability[inside] == before.probability[inside]).all()
        assert (after.threshold[inside] == before.threshold[inside]).all()
    moved = logits + np.where(inside, 5.0, 0.0)[:, None] * np.array([0.0, 1.0])
    third = recalibration.recalibrate(moved, labels, patients, 1, RULE)
    assert (third.threshold[inside] == before.threshold[inside]).all()
    assert (third.threshold[~inside] != before.threshold[~inside]).all()


def test_each_fold_has_its_share_of_both_classes() -> None:
    truth = np.arange(200) < 50
    number = recalibration.folds(truth, [str(n) for n in range(200)])
    assert np.bincount(number[truth]).tolist() == [10] * recalibration.FOLDS
    assert np.bincount(number[~truth]).tolist() == [30] * recalibration.FOLDS


def test_what_goes_through_the_gate_decides_as_the_folds_do() -> None:
    found = made(3)
    side = found.side()
    assert ((side.score >= side.threshold) == found.called).all()
    truth = drawn(3)[1] == 1
    assert metrics.auroc(side.score, truth) == pytest.approx(
        metrics.auroc(found.probability, truth), abs=0.01
    )


def test_figures_are_of_the_folds_decisions() -> None:
    found, truth = made(4), drawn(4)[1] == 1
    figures = found.figures(truth, drawn(4)[2], known="unknown")
    assert figures["sensitivity"] == found.called[truth].mean()
    assert figures["specificity"] == (~found.called[~truth]).mean()
    assert figures["auroc"] == metrics.auroc(found.probability, truth)
    assert figures["true_positive"] == found.called[truth].sum()
    assert figures["patients_unknown"] == 1


def test_films_of_one_patient_make_intervals_wide() -> None:
    logits, labels, patients = drawn(5)
    truth = labels == 1
    found = recalibration.recalibrate(logits, labels, patients, 1, RULE)
    alone = found.figures(truth, patients)
    # The same films three times over are no more films.
    again = recalibration.measured(
        found.probability.repeat(3), found.called.repeat(3), truth.repeat(3),
        [p for p in patients for _ in range(3)],
    )  # fmt: skip
    for name in ("sensitivity", "specificity", "auroc"):
        for end in ("low", "high"):
            assert again[f"{name}_{end}"] == pytest.approx(alone[f"{name}_{end}"], abs=0.01)


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
