"""Whether a new model may take the champion's place, from what both say of the same films."""

from __future__ import annotations

import dataclasses
import json
import time

import numpy as np
import pytest
from scipy.stats import norm

from trainer.judging import metrics, verdict
from trainer.judging.verdict import Floats, Margins, Side, Verdict

MARGINS = Margins(auroc=0.01, sensitivity=0.02, specificity=0.05)


def films(
    n: int, *, seed: int = 0, apart: float = 2.0, noise: float = 0.3, per_patient: int = 1
) -> tuple[verdict.Flags, list[str], Floats, Floats]:
    """Truth, patients, and two models' scores that see the same with some noise of their own."""
    rng = np.random.default_rng(seed)
    groups = n // per_patient
    truth = np.repeat(rng.random(groups) < 0.4, per_patient)
    seen = rng.normal(apart * truth, 1) / 2 + np.repeat(rng.normal(0, 0.8, groups), per_patient)
    one, other = (1 / (1 + np.exp(1 - seen - rng.normal(0, noise, n))) for _ in range(2))
    return truth, [f"patient{k // per_patient:05}" for k in range(n)], one, other


def judge(
    truth: verdict.Flags, patients: list[str], new: Floats, old: Floats, **options: object
) -> Verdict:
    return verdict.compare(
        truth, patients, Side(score=new, threshold=0.5), Side(score=old, threshold=0.5),
        MARGINS, **options,  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.parametrize("n", [60, 400])
def test_a_model_beside_itself_is_accepted(n: int) -> None:
    truth, patients, score, _ = films(n)
    found = judge(truth, patients, score, score)
    assert found.accepted
    assert found.figures["auroc"]["difference"] == found.figures["auroc"]["low"] == 0
    assert found.figures["films"] == n and found.figures["positives"] == int(truth.sum())


def test_a_better_model_is_accepted_and_the_worse_one_is_not() -> None:
    truth, patients, score, _ = films(600, apart=4.0)
    blurred = np.clip(score + np.random.default_rng(1).normal(0, 0.3, len(score)), 0, 1)
    assert judge(truth, patients, score, blurred).accepted
    refused = judge(truth, patients, blurred, score)
    assert not refused.accepted
    new, old = refused.figures["auroc"]["candidate"], refused.figures["auroc"]["champion"]
    assert refused.text.startswith("on 600 frozen films of 600 patients the new model's AUROC is ")
    assert f"is {new:.3f}, the champion's {old:.3f}: lower by {old - new:.3f}" in refused.text
    assert "95 % at worst -0." in refused.text and "where -0.010 may be" in refused.text
    assert refused.shareable == refused.text


def test_who_is_better_turns_with_the_sides() -> None:
    truth, patients, one, other = films(300, per_patient=2)
    first, second = Side(score=one, threshold=0.4), Side(score=other, threshold=0.6)
    there = verdict.differences(truth, patients, first, second)
    back = verdict.differences(truth, patients, second, first)
    for name in verdict.NAMES:
        assert there[name].value == pytest.approx(-back[name].value, abs=1e-12)
        assert there[name].low == pytest.approx(-back[name].high, abs=1e-12)
        assert there[name].low < there[name].value < there[name].high


def test_the_order_of_the_films_and_the_names_of_patients_change_no_figure_but_chance() -> None:
    truth, patients, one, other = films(300)
    order = np.random.default_rng(3).permutation(300)
    a = judge(truth, patients, one, other).figures
    b = judge(truth[order], [patients[k] for k in order], one[order], other[order]).figures
    assert a["auroc"] == pytest.approx(b["auroc"])
    assert judge(truth, patients, one, other).figures == a


def test_a_draw_is_what_drawing_the_patients_would_give() -> None:
    truth, patients, score, _ = films(80, per_patient=2)
    score = np.round(score, 1)  # many ties
    number = np.unique(patients, return_inverse=True)[1]
    weights = verdict._draws(truth, number, 7)
    found = verdict._aurocs(score, truth, weights, number)
    shares = verdict._shares(score[truth] >= 0.5, weights, number[truth])
    for draw in range(0, verdict.DRAWS, 190):
        taken = np.repeat(np.arange(80), weights[draw][number].astype(int))
        assert found[draw] == pytest.approx(metrics.auroc(score[taken], truth[taken]), abs=1e-12)
        assert shares[draw] == pytest.approx(
            metrics.confusion(score[taken], truth[taken], 0.5).sensitivity
        )


def test_no_draw_is_without_a_class() -> None:
    # One patient has all the negatives there are, and positives too.
    truth = np.array([True] * 60 + [False] * 30)
    number = np.concatenate([np.arange(60) % 20, np.zeros(30, np.int64)])
    weights = verdict._draws(truth, number, 0)
    assert (weights[:, 0] == 1).all()
    assert (weights.sum(axis=1) == 20).all()
    score = np.linspace(0, 1, 90)
    assert np.isfinite(verdict._aurocs(score, truth, weights, number)).all()


def test_delong_s_interval_is_that_of_the_textbook_and_the_bootstrap_s_is_near() -> None:
    truth, patients, one, other = films(400)
    one = np.round(one, 1)  # many ties
    low, high = verdict.delong(truth, one, other)

    # By definition: each positive against each negative.
    def places(score: Floats) -> tuple[Floats, Floats]:
        sick, well = score[truth][:, None], score[~truth][None, :]
        won = (sick > well) + 0.5 * (sick == well)
        return won.mean(axis=1), won.mean(axis=0)

    (sick_a, well_a), (sick_b, well_b) = places(one), places(other)
    covariance = np.cov(sick_a, sick_b) / truth.sum() + np.cov(well_a, well_b) / (~truth).sum()
    error = np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    apart = metrics.auroc(one, truth) - metrics.auroc(other, truth)
    assert abs(verdict.Z - norm.ppf(0.95)) < 1e-12
    assert low == pytest.approx(apart - norm.ppf(0.95) * error, abs=1e-12)
    assert high == pytest.approx(apart + norm.ppf(0.95) * error, abs=1e-12)
    drawn = judge(truth, patients, one, other).figures
    assert drawn["delong"] == {"low": low, "high": high}
    assert drawn["auroc"]["low"] == pytest.approx(low, abs=0.15 * (high - low))
    assert drawn["auroc"]["high"] == pytest.approx(high, abs=0.15 * (high - low))


def test_the_bound_is_below_the_true_difference_nineteen_times_in_twenty() -> None:
    """Two models that are equally good in truth: the difference that is estimated is 0.

    Of 200 simulated sets 190 are expected; fewer than 179 or more than 199 come by chance once in
    some thousand times.
    """
    below = dict.fromkeys(verdict.NAMES, 0)
    for seed in range(200):
        truth, patients, one, other = films(160, seed=seed, noise=0.6, per_patient=2)
        found = verdict.differences(
            truth, patients, Side(score=one, threshold=0.5), Side(score=other, threshold=0.5)
        )
        for name, difference in found.items():
            below[name] += difference.low <= 0
    assert all(179 <= n <= 199 for n in below.values()), below


def test_films_of_one_patient_widen_the_bound_as_fewer_films_would() -> None:
    truth, patients, one, other = films(200, noise=0.8)
    many = [np.repeat(values, 5) for values in (one, other)]
    alone = judge(truth, patients, one, other).figures["auroc"]
    five = judge(np.repeat(truth, 5), list(np.repeat(patients, 5)), *many).figures["auroc"]
    taken_apart = judge(
        np.repeat(truth, 5), [str(k) for k in range(1000)], *many
    ).figures["auroc"]  # fmt: skip

    def width(figure: dict[str, float]) -> float:
        return figure["high"] - figure["low"]

    assert width(five) == pytest.approx(width(alone), rel=0.1)
    assert width(taken_apart) < 0.6 * width(alone)


def test_each_model_is_judged_at_its_own_operating_point() -> None:
    truth, patients, score, _ = films(600)
    halved = verdict.compare(
        truth, patients, Side(score=score / 2, threshold=0.25), Side(score=score, threshold=0.5),
        MARGINS,
    )  # fmt: skip
    assert halved.accepted
    moved = verdict.compare(
        truth, patients, Side(score=score, threshold=0.8), Side(score=score, threshold=0.5), MARGINS
    )
    assert not moved.accepted
    assert "sensitivity" in moved.text and "AUROC" not in moved.text


def test_what_may_be_chance_is_not_accepted_and_said_to_be() -> None:
    truth, patients, _, _ = films(200)
    score = np.where(truth, 0.9, 0.1)
    new, old = score.copy(), score.copy()
    sick = np.flatnonzero(truth)
    new[sick[:4]], old[sick[4:9]] = 0.2, 0.2
    found = judge(truth, patients, new, old)
    assert not found.accepted
    assert f"higher by {1 / len(sick):.3f}, which may be chance" in found.text


@pytest.mark.parametrize(("positives", "negatives"), [(19, 300), (300, 19), (0, 50), (0, 0)])
def test_too_few_films_of_a_class_are_nothing_to_judge_by(positives: int, negatives: int) -> None:
    truth = np.array([True] * positives + [False] * negatives, dtype=np.bool_)
    score = np.where(truth, 0.9, 0.1)
    found = judge(truth, [str(k) for k in range(len(truth))], score, score)
    assert not found.accepted
    fewest, name = min((positives, "positive"), (negatives, "negative"))
    if positives != negatives:
        assert found.text.startswith(f"{fewest} {name} frozen films are left, where 20 are")
    assert "more frozen films are needed" in found.shareable


def test_films_of_a_handful_of_patients_are_nothing_to_judge_by() -> None:
    truth = np.array([True] * 40 + [False] * 40)
    patients = [f"a{k % 2}" for k in range(40)] + [f"b{k}" for k in range(40)]
    score = np.where(truth, 0.9, 0.1)
    found = judge(truth, patients, score, score)
    assert not found.accepted
    assert "the 40 positive frozen films are of 2 patients" in found.text


def test_a_model_that_gives_no_numbers_is_not_accepted_nor_compared_with() -> None:
    truth, patients, score, _ = films(100)
    broken = score.copy()
    broken[3] = np.nan
    broken[5] = np.inf
    assert judge(truth, patients, broken, score).text == (
        "the new model gives no number for 2 of 100 films"
    )
    other = judge(truth, patients, score, broken)
    assert not other.accepted and other.text.startswith("the champion gives no number")
    side = Side(score=score, threshold=float("nan"))
    same = Side(score=score, threshold=0.5)
    found = verdict.compare(truth, patients, side, same, MARGINS)
    assert (found.accepted, found.text) == (False, "the new model has no operating point")


def test_a_slice_in_which_the_new_model_fails_speaks_against_it_and_is_not_named_to_others() -> (
    None
):
    truth, patients, score, _ = films(2000)
    ward = np.arange(2000) < 100
    new = score.copy()
    # Nothing is known of these films any more; elsewhere it has become better.
    new[ward] = np.random.default_rng(0).permutation(score[ward])
    new[~ward] = np.where(truth[~ward], new[~ward] + 0.05, new[~ward] - 0.05)
    small = np.arange(2000) > 1990
    assert judge(truth, patients, new, score).accepted
    found = judge(truth, patients, new, score, slices={"tiny": small, "St. Mary": ward})
    assert not found.accepted
    assert "in St. Mary (100 films) the new model's AUROC is" in found.text
    assert (
        "St. Mary" not in found.shareable
        and "in a part of the films (100 films)" in found.shareable
    )
    assert found.figures["slices"]["tiny"] == {"films": 9, "judged": False}
    assert judge(truth, patients, score, score, slices={"St. Mary": ward}).accepted


def test_a_slice_that_is_worse_within_its_margin_or_by_chance_is_no_reason() -> None:
    truth = np.arange(2000) % 2 == 0
    patients = [str(k) for k in range(2000)]
    score = np.where(truth, 0.9, 0.1)
    # Of 1,000 positives: 40 missed of 900 beyond doubt, or 6 against 3 of 50, which may be chance.
    large, small = np.arange(2000) < 1800, np.arange(2000) >= 1900
    worse, chance, old = score.copy(), score.copy(), score.copy()
    worse[0:80:2] = 0.2
    chance[1900:1912:2], old[1920:1926:2] = 0.2, 0.2
    for new, champion, inside, missed in (
        (worse, score, large, 40 / 900),
        (chance, old, small, 3 / 50),
    ):
        found = judge(truth, patients, new, champion, slices={"one": inside})
        figures = found.figures["slices"]["one"]["sensitivity"]
        assert figures["difference"] == pytest.approx(-missed)
        assert (figures["high"] < 0) == (inside is large)
        assert " in one " not in found.text


def test_the_figures_are_json_and_the_margins_are_among_them() -> None:
    truth, patients, one, other = films(100)
    found = judge(truth, patients, one, other, slices={"all": np.ones(100, np.bool_)})
    again = json.loads(json.dumps(found.figures, allow_nan=False))
    assert again["margins"] == dataclasses.asdict(MARGINS)
    assert set(again["slices"]["all"]) == {"films", "judged", *verdict.NAMES}


def test_equal_scores_everywhere_are_compared_too() -> None:
    truth, patients, score, _ = films(100)
    same = np.full(100, 0.5)
    assert judge(truth, patients, same, same).figures["auroc"]["candidate"] == 0.5
    assert not judge(truth, patients, same, score).accepted


def test_ten_thousand_films_take_seconds() -> None:
    truth, patients, one, other = films(10_000, per_patient=2)
    begun = time.process_time()
    judge(truth, patients, one, other)
    assert time.process_time() - begun < 10
