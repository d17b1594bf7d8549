"""Whether a new model may take the champion's place, from what they say of the same films."""

from __future__ import annotations

import dataclasses
import json
import math
import time

import numpy as np
import pytest

from tests.bench.judging import gate as bench
from tests.support import soak
from trainer.judging import gate, verdict
from trainer.judging.gate import Anchor, Reason, Rules
from trainer.judging.margins import NAMES, Margins
from trainer.judging.verdict import Floats, Side, Verdict

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
    rules = Rules(margins=MARGINS, floors=options.pop("floors", {}))  # type: ignore[arg-type]
    return gate.judge(
        truth, patients, Side(score=new, threshold=0.5), Side(score=old, threshold=0.5),
        rules, **options,  # type: ignore[arg-type]
    )  # fmt: skip


def decisions(sick: int, well: int, *wrong: tuple[int, int]) -> list[Floats]:
    """Scores of models that each are wrong of the first so many positives and negatives."""
    truth = np.arange(sick + well) < sick
    made = []
    for missed, alarmed in wrong:
        score = np.where(truth, 0.9, 0.1)
        score[:missed] = 0.2
        score[sick : sick + alarmed] = 0.8
        made.append(score)
    return made


def decided(sick: int, well: int, *wrong: tuple[int, int], **options: object) -> Verdict:
    """Judge a model that is wrong so often beside a champion, and an anchor where a third is given.

    Those wrong of one model are among those of another that is wrong more often.
    """
    scores = decisions(sick, well, *wrong)
    truth = np.arange(sick + well) < sick
    if len(scores) == 3:
        options["anchor"] = Anchor(
            side=Side(score=scores[2], threshold=0.5), model=3,
            shift=options.pop("of_anchor", None),  # type: ignore[arg-type]
        )  # fmt: skip
    return judge(truth, [str(k) for k in range(sick + well)], scores[0], scores[1], **options)


def report(auroc: float) -> dict[str, object]:
    """A shift report whose worst dressing has this AUROC."""
    return {"worst": {"name": "group 4", "auroc": auroc}}


def test_a_model_beside_itself_is_accepted_where_there_are_films_enough_to_have_seen_a_loss() -> (
    None
):
    truth, patients, score, _ = films(1200)
    found = judge(truth, patients, score, score)
    assert found.accepted
    assert found.figures["auroc"]["difference"] == 0 > found.figures["auroc"]["low"]
    assert (found.figures["films"], found.figures["gate"]) == (1200, gate.VERSION)
    assert found.figures["positives"] == int(truth.sum())
    assert found.text.endswith(": within every margin")

    truth, patients, score, _ = films(60)
    few = judge(truth, patients, score, score)
    assert not few.accepted
    assert ": the same, which by chance may yet stand for 0." in few.text
    assert " lower (95 %), where 0.020 is allowed" in few.text


def test_a_better_model_is_accepted_and_the_worse_one_is_not() -> None:
    truth, patients, score, _ = films(600, apart=4.0)
    blurred = np.clip(score + np.random.default_rng(1).normal(0, 0.3, len(score)), 0, 1)
    assert judge(truth, patients, score, blurred).accepted
    refused = judge(truth, patients, blurred, score)
    assert not refused.accepted
    new, old = refused.figures["auroc"]["candidate"], refused.figures["auroc"]["champion"]
    assert refused.text.startswith("on 600 frozen films of 600 patients the new model's AUROC is ")
    assert (
        f"is {new:.3f}, the champion's {old:.3f}: {old - new:.3f} lower, where 0.010 is allowed; "
        in refused.text
    )
    assert refused.shareable == refused.text


def test_who_is_better_turns_with_the_sides() -> None:
    truth, patients, one, other = films(300, per_patient=2)
    first, second = Side(score=one, threshold=0.4), Side(score=other, threshold=0.6)
    there = verdict.differences(truth, patients, first, second)
    back = verdict.differences(truth, patients, second, first)
    for name in NAMES:
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


def test_each_model_is_judged_at_its_own_operating_point() -> None:
    truth, patients, score, _ = films(1200)
    halved = gate.judge(
        truth, patients, Side(score=score / 2, threshold=0.25), Side(score=score, threshold=0.5),
        Rules(margins=MARGINS),
    )  # fmt: skip
    assert halved.accepted
    moved = gate.judge(
        truth, patients, Side(score=score, threshold=0.8), Side(score=score, threshold=0.5),
        Rules(margins=MARGINS),
    )  # fmt: skip
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
    assert f"{1 / len(sick):.3f} higher, which by chance may yet stand for 0." in found.text


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
    found = gate.judge(truth, patients, side, same, Rules(margins=MARGINS))
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
    assert again["floors"] == {} and again["shift"] == {"judged": False}
    assert set(again["slices"]["all"]) == {"films", "judged", *NAMES}


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


def test_what_the_champion_has_lost_counts_beside_the_anchor() -> None:
    # 12 more false alarms than the champion, which has 30 more than the model of a person's choice.
    slid = decided(1000, 1000, (20, 52), (20, 40), (20, 10))
    assert not slid.accepted
    assert slid.text.startswith(
        "on 2,000 frozen films of 2,000 patients the new model's specificity is 0.948, that of "
        "model 3, the last that a person promoted, 0.990: 0.042 lower, which by chance may stand "
        "for 0.054 lower (95 %), where 0.050 is allowed. These films are "
        "enough to decide: on them a model that is as good passes each comparison 4 times of 5"
    )
    assert "the champion's" not in slid.text
    assert slid.figures["anchor"]["model"] == 3
    assert slid.figures["anchor"]["specificity"]["difference"] == pytest.approx(-0.042)
    equal = decided(1000, 1000, (20, 41), (20, 40), (20, 38))
    assert equal.accepted
    assert equal.text.endswith(
        ": within every margin, of the champion and of model 3, the last that a person promoted"
    )


def test_a_loss_beyond_the_margin_asks_for_no_more_films() -> None:
    found = decided(1000, 1000, (80, 20), (20, 20))
    assert found.text.endswith(
        "the new model's sensitivity is 0.920, the champion's 0.980: 0.060 lower, where 0.020 is "
        "allowed"
    )
    assert found.figures["enough"] == {}


def test_where_nothing_may_be_lost_no_number_of_films_is_named() -> None:
    strict = Margins(auroc=0.01, sensitivity=0.0, specificity=0.05)
    scores, truth = decisions(1000, 1000, (19, 20), (20, 20)), np.arange(2000) < 1000
    sides = [Side(score=score, threshold=0.5) for score in scores]
    found = gate.judge(
        truth, [str(k) for k in range(2000)], sides[0], sides[1], Rules(margins=strict)
    )
    assert not found.accepted
    assert found.text.endswith("0.003 lower (95 %), where 0.000 is allowed"), found.text
    assert found.figures["enough"] == {}


def test_where_all_may_be_lost_nothing_keeps_the_champion() -> None:
    # Hardly any patients: the bound is the worst there is.
    truth, patients = np.arange(60) < 30, ["a"] * 26 + ["b", "c", "d", "e"]
    patients += ["f"] * 26 + ["g", "h", "i", "j"]
    sides = [Side(score=np.where(truth, high, low), threshold=0.5) for high, low in
             ((0.2, 0.8), (0.8, 0.2))]  # fmt: skip
    free = Margins(auroc=1.0, sensitivity=1.0, specificity=1.0)
    found = gate.judge(truth, patients, sides[0], sides[1], Rules(margins=free))
    assert found.figures["sensitivity"]["low"] == -1.0
    assert found.accepted, found.text


def test_few_films_are_told_how_many_would_decide() -> None:
    found = decided(300, 2000, (9, 40), (9, 40))
    assert not found.accepted
    assert found.figures["enough"]["positives"] > 300
    wanted = found.figures["enough"]["positives"]
    assert found.text.endswith(
        f". It takes about {wanted:,} positive frozen films (300 now), of patients with as many "
        "films each, to decide: on them a model that is as good passes each comparison 4 times of 5"
    )
    again = decided(wanted, 2000, (9, 40), (9, 40))
    assert again.accepted, again.text


def test_a_floor_is_reached_by_what_is_shown_and_not_by_what_is_seen() -> None:
    equal = ((40, 20), (40, 20))
    assert decided(1000, 1000, *equal, floors={"sensitivity": 0.94}).accepted
    chance = decided(1000, 1000, *equal, floors={"sensitivity": 0.955})
    assert not chance.accepted
    assert (
        "the new model's sensitivity is 0.960, which by chance may stand for one of 0.948 (95 %), "
        "and the floor is 0.955. It takes about " in chance.text
    )
    below = decided(1000, 1000, *equal, floors={"sensitivity": 0.97, "specificity": 0.5})
    assert below.text.endswith("the new model's sensitivity is 0.960, and the floor is 0.970")
    assert below.figures["floors"]["specificity"]["floor"] == 0.5


def test_a_model_that_looks_mislead_more_is_not_accepted() -> None:
    equal = ((20, 20), (20, 20))
    assert decided(1000, 1000, *equal, shift=(report(0.91), report(0.95))).accepted
    found = decided(1000, 1000, *equal, shift=(report(0.7), report(0.95)))
    assert not found.accepted
    assert (
        "the look of films misleads the new model more: under the dressing of its shift report "
        "that it does worst under its AUROC is 0.700, the champion's 0.950 under its own, where "
        "0.050 less is allowed" in found.text
    )
    for pair in (
        (None, report(0.95)),
        (report(0.1), None),
        ({"worst": None}, report(0.9)),
        ({"worst": {"name": "group 4", "auroc": None}}, report(0.9)),
        (report(math.nan), report(0.9)),
    ):
        not_judged = decided(1000, 1000, *equal, shift=pair)
        assert not_judged.accepted
        assert not_judged.figures["shift"] == {"judged": False}


def test_looks_that_mislead_a_little_more_each_night_are_stopped_by_the_anchor() -> None:
    equal = ((20, 20), (20, 20), (20, 20))
    nights = (report(0.86), report(0.9))
    assert decided(1000, 1000, *equal, shift=nights, of_anchor=report(0.9)).accepted
    slid = decided(1000, 1000, *equal, shift=nights, of_anchor=report(0.95))
    assert not slid.accepted
    assert (
        "its AUROC is 0.860, that of model 3, the last that a person promoted, 0.950" in slid.text
    )
    assert slid.figures["anchor"]["shift"]["champion"] == 0.95
    assert "the champion's" not in slid.text


def test_what_else_speaks_against_a_model_is_said_and_hooks_are_told_less() -> None:
    against = [Reason(text="ward 7 is new", shareable="a part is new"), Reason(text="so it is")]
    found = decided(1000, 1000, (20, 20), (20, 20), against=against)
    assert not found.accepted
    assert found.text == "on 2,000 frozen films of 2,000 patients ward 7 is new; so it is"
    assert found.shareable == "on 2,000 frozen films of 2,000 patients a part is new; so it is"


def test_an_anchor_without_numbers_is_not_compared_with() -> None:
    truth, patients, score, _ = films(100)
    silent = Anchor(side=Side(score=np.full(100, np.nan), threshold=0.5), model=3)
    found = judge(truth, patients, score, score, anchor=silent)
    assert found.text == "the anchor gives no number for 100 of 100 films"


@pytest.mark.soak
def test_an_equal_model_passes_on_a_thousand_films_of_each_class_with_everything_asked() -> None:
    """Four times of five is asked; in the long form it is nine of ten."""
    runs = soak.repetitions(60, 600)
    found = bench.equal_passes(np.random.default_rng(5), 1000, runs)
    assert found["all"] >= 0.8, found


@pytest.mark.soak
@pytest.mark.parametrize(("number", "per_patient"), [(100, 1), (400, 4), (1000, 1)])
def test_a_hundred_nights_of_losing_a_little_lose_no_more_than_one_and_a_half_margins(
    number: int, per_patient: int
) -> None:
    runs = soak.repetitions(40, 200)
    for persistent in (0.99, 0.5):
        share, promoted = bench.slide(
            np.random.default_rng(6), number, per_patient=per_patient, persistent=persistent,
            runs=runs,
        )  # fmt: skip
        assert np.mean(share >= 0.97 - 1.5 * MARGINS.specificity - 1e-9) >= 0.95
        assert promoted.mean() < 3
    alone, _ = bench.slide(
        np.random.default_rng(6), 1000, runs=10, nights=40, anchored=False
    )  # fmt: skip
    assert (alone < 0.9).all(), "so it goes without an anchor"
