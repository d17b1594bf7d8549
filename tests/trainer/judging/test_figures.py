"""Figures: every metric by name, with its interval by patient."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.trainer.judging.test_metrics import draw
from trainer.judging import clusters, figures


def test_a_summary_has_every_metric_between_the_ends_of_its_interval() -> None:
    found = figures.summary(*draw(3), 0.6)
    for name in ("auroc", "auprc", "accuracy", "sensitivity", "specificity", "ppv", "npv"):
        assert 0 <= found[f"{name}_low"] < found[name] < found[f"{name}_high"] <= 1
    counts = ("true_positive", "false_positive", "true_negative", "false_negative")
    assert sum(found[name] for name in counts) == found["films"] == 300


def test_where_patients_are_unknown_a_summary_says_that_its_intervals_are_too_narrow() -> None:
    score, truth = np.array([0.2, 0.8]), np.array([False, True])
    found = figures.summary(score, truth, 0.5, known="unknown")
    assert found["patients_unknown"] == 1
    for known in ("known", "folders", ""):
        assert "patients_unknown" not in figures.summary(score, truth, 0.5, known=known)


def test_a_summary_lacks_what_the_films_do_not_allow() -> None:
    found = figures.summary(np.array([0.9, 0.8]), np.array([True, True]), 0.5)
    assert found["sensitivity"] == found["ppv"] == 1
    assert not {"auroc", "auroc_low", "specificity", "specificity_high", "npv"} & set(found)
    assert not any(math.isnan(value) for value in found.values())


def test_a_threshold_of_its_own_may_decide_each_film() -> None:
    score, truth = draw(4)
    own = np.where(np.arange(len(score)) % 2, 0.4, 0.6)
    found = figures.summary(score, truth, own)
    assert found["sensitivity"] == (score >= own)[truth].mean()
    assert found["specificity"] == (score < own)[~truth].mean()


def test_intervals_are_by_patient() -> None:
    score, truth = draw(5)
    patients = [f"p{n}" for n in range(len(score))]
    alone = figures.summary(score, truth, 0.6, patients)
    assert alone == figures.summary(score, truth, 0.6)
    again = figures.summary(
        score.repeat(5), truth.repeat(5), 0.6, [p for p in patients for _ in range(5)]
    )
    by_film = figures.summary(score.repeat(5), truth.repeat(5), 0.6)
    for name in ("auroc", "auprc", "accuracy", "sensitivity", "specificity", "ppv", "npv"):
        width = alone[f"{name}_high"] - alone[f"{name}_low"]
        assert again[name] == pytest.approx(alone[name])
        # Five films that are alike say no more than one; taken for five, they would.
        assert again[f"{name}_high"] - again[f"{name}_low"] == pytest.approx(width, rel=0.12)
        assert by_film[f"{name}_high"] - by_film[f"{name}_low"] < 0.6 * width
    called = score >= 0.6
    ends = clusters.share_interval(called[truth], np.array(patients)[truth].tolist())
    assert (alone["sensitivity_low"], alone["sensitivity_high"]) == ends


def test_what_a_goal_came_to_is_said_with_its_interval() -> None:
    score, truth = draw(6)
    found = figures.summary(score, truth, 0.45)
    said = figures.goal("sensitivity=0.95", found)
    assert said.startswith("sensitivity=0.95 holds on the films that chose the threshold and is no")
    assert f"sensitivity is {found['sensitivity']:.3f} (95 % interval" in said
    assert said.endswith("ask for more where it must not be less")
    low = found["specificity_low"]
    assert figures.goal(f"specificity={low - 0.01:.3f}", found).endswith(")")
    assert figures.goal("youden", found) == figures.goal("cost=5", found) == ""
