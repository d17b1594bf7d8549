"""Cross-fitting: what is chosen on some patients is measured on others."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.bench.judging import figures as simulated
from trainer.judging import calibration, crossfit, figures, metrics

RULE = "sensitivity=0.95"

Drawn = tuple[NDArray[np.float64], NDArray[np.int64], list[str]]


def drawn(seed: int, n: int = 300, each: int = 1, shift: float = -2.0) -> Drawn:
    """Logits `[n, 2]`, true classes and patients of films of a source that is shifted."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n // each).repeat(each) % 2
    margin = rng.normal(0, 1.2, n) + np.where(labels == 1, 1.5, -1.5) + shift
    logits = np.stack([np.zeros(n), 3 * margin], axis=1)
    return logits, labels, [f"p{number}" for number in np.arange(n // each).repeat(each)]


def made(seed: int, **values: float) -> crossfit.CrossFitted:
    logits, labels, patients = drawn(seed, **values)  # type: ignore[arg-type]
    return crossfit.fit(logits, labels, patients, 1, RULE)


def test_the_sensitivity_that_was_asked_for_is_reached_on_films_that_chose_nothing() -> None:
    # What a threshold of a half does on the shifted source is far from it.
    logits, labels, _ = drawn(0)
    assert (calibration.softmax(logits)[labels == 1, 1] >= 0.5).mean() < 0.5
    fresh, truth, _ = drawn(99, n=20_000)
    inside = reached = 0
    for seed in range(10):
        found = made(seed)
        seen = found.figures(drawn(seed)[1] == 1, drawn(seed)[2])
        inside += seen["sensitivity_low"] <= 0.95 <= seen["sensitivity_high"]
        called = found.chosen.scores(fresh)[:, 1] >= found.chosen.threshold
        sensitivity = called[truth == 1].mean()
        reached += seen["sensitivity_low"] <= sensitivity <= seen["sensitivity_high"]
        assert 0.88 < sensitivity < 0.999
    assert inside >= 9
    assert reached >= 8


def test_probabilities_mean_what_they_say_on_films_that_chose_nothing() -> None:
    logits, labels, _ = drawn(1, n=2000)
    before = metrics.ece(calibration.softmax(logits)[:, 1], labels == 1)
    after = made(1, n=2000).figures(labels == 1, drawn(1, n=2000)[2])["ece"]
    assert before > 0.2
    assert after < 0.03


def test_no_film_has_a_part_in_what_is_said_of_it_nor_has_another_of_its_patient() -> None:
    logits, labels, patients = drawn(2, each=3)
    number, _ = crossfit.folds(labels == 1, patients)
    assert all(len(set(number[np.array(patients) == p])) == 1 for p in set(patients))
    before = crossfit.fit(logits, labels, patients, 1, RULE)
    inside = number == 0
    # Whatever else is said of one fold's films, their own decisions and probabilities stay.
    turned = np.where(inside, 1 - labels, labels)
    again, _ = crossfit.folds(turned == 1, patients)
    after = crossfit.fit(logits, turned, patients, 1, RULE)
    if (again == number).all():
        assert (after.probability[inside] == before.probability[inside]).all()
        assert (after.threshold[inside] == before.threshold[inside]).all()
    moved = logits + np.where(inside, 5.0, 0.0)[:, None] * np.array([0.0, 1.0])
    third = crossfit.fit(moved, labels, patients, 1, RULE)
    assert (third.threshold[inside] == before.threshold[inside]).all()
    assert (third.threshold[~inside] != before.threshold[~inside]).all()


def test_each_fold_has_its_share_of_both_classes() -> None:
    truth = np.arange(200) < 50
    number, _ = crossfit.folds(truth, [str(n) for n in range(200)])
    assert np.bincount(number[truth]).tolist() == [10] * crossfit.FOLDS
    assert np.bincount(number[~truth]).tolist() == [30] * crossfit.FOLDS


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
    seen = found.figures(truth, drawn(4)[2], known="unknown")
    assert seen["sensitivity"] == found.called[truth].mean()
    assert seen["specificity"] == (~found.called[~truth]).mean()
    assert seen["auroc"] == metrics.auroc(found.probability, truth)
    assert seen["true_positive"] == found.called[truth].sum()
    assert seen["patients_unknown"] == 1


def test_films_of_one_patient_make_intervals_wide() -> None:
    logits, labels, patients = drawn(5)
    truth = labels == 1
    found = crossfit.fit(logits, labels, patients, 1, RULE)
    alone = found.figures(truth, patients)
    # The same films three times over are no more films.
    again = figures.summary(
        found.probability.repeat(3), truth.repeat(3), found.threshold.repeat(3),
        [p for p in patients for _ in range(3)],
    )  # fmt: skip
    for name in ("sensitivity", "specificity", "auroc"):
        for end in ("low", "high"):
            assert again[f"{name}_{end}"] == pytest.approx(alone[f"{name}_{end}"], abs=0.01)


def test_patients_of_both_classes_leave_both_classes_to_the_other_folds() -> None:
    # One healthy film is of a patient of its own, the other of one who has a sick film too.
    truth = np.array([True] * 6 + [False, False])
    patients = [*"abcdef", "a", "z"]
    number, parts = crossfit.folds(truth, patients)
    assert parts == 2
    assert number[6] != number[7]
    for fold in range(parts):
        assert truth[number != fold].any()
        assert (~truth[number != fold]).any()


def test_patients_of_a_class_that_are_one_cannot_be_dealt_out_and_it_is_said() -> None:
    logits, labels, _ = drawn(0, n=40)
    found = crossfit.fit(logits, labels, ["a" if sick else "b" for sick in labels], 1, RULE)
    assert found.folds == 0
    assert (found.threshold == found.chosen.threshold).all()
    assert (found.probability == found.chosen.scores(logits)[:, 1]).all()
    assert found.basis().endswith("too good")
    assert made(0).basis("epoch") == (
        "cross-fitted over patients: of each of 5 parts the others chose epoch"
    )


def test_what_all_films_choose_is_what_they_choose_without_folds() -> None:
    logits, labels, patients = drawn(6)
    found = crossfit.fit(logits, labels, patients, 1, "youden").chosen
    temperature, bias = calibration.scaling(logits, labels)
    score = calibration.softmax(logits + bias, temperature)[:, 1]
    assert found.temperature == temperature
    assert found.threshold == calibration.operating_point(score, labels == 1, "youden")


def test_the_threshold_is_chosen_on_views_where_there_are_some() -> None:
    logits, labels, patients = drawn(7)
    views = logits[None] - np.array([0.0, 2.0])
    plain = crossfit.fit(logits, labels, patients, 1, RULE)
    found = crossfit.fit(logits, labels, patients, 1, RULE, views=views)
    assert found.chosen.temperature == plain.chosen.temperature
    assert found.chosen.threshold < plain.chosen.threshold
    assert found.threshold.max() < plain.threshold.min()


def test_films_dressed_as_others_look_have_a_part_in_temperature_and_threshold() -> None:
    logits, labels, patients = drawn(7)
    # Dressed, films of the healthy look sicker, and all of them say less.
    dressed = logits[None] / 3 + np.array([0.0, 1.0])
    plain = crossfit.fit(logits, labels, patients, 1, RULE)
    found = crossfit.fit(logits, labels, patients, 1, RULE, dressed=dressed)
    both = np.concatenate([logits, dressed[0]])
    temperature, bias = calibration.scaling(both, np.tile(labels, 2))
    assert found.chosen.temperature == pytest.approx(temperature)
    assert found.chosen.temperature > plain.chosen.temperature
    assert found.chosen.bias == pytest.approx(bias)
    score = calibration.softmax(both + bias, temperature)[:, 1]
    wanted = calibration.operating_point(score, np.tile(labels == 1, 2), RULE)
    assert found.chosen.threshold == pytest.approx(wanted)


def in_epochs(seed: int) -> tuple[list[NDArray[np.float64]], NDArray[np.int64], list[str]]:
    """Logits `[1, N, C]` after three epochs that are as good as each other."""
    logits, labels, patients = drawn(seed, n=120)
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 3, (3, *logits.shape))
    return [(logits + one)[None] for one in noise], labels, patients


def test_a_fold_is_scored_by_the_epoch_that_the_others_like_best() -> None:
    each, labels, patients = in_epochs(5)
    kept = crossfit.best_by(each, labels, 1)
    found = crossfit.fit(
        each[kept][0], labels, patients, 1, RULE,
        epochs=crossfit.Epochs(logits=each, kept=kept),
    )  # fmt: skip
    number, parts = crossfit.folds(labels == 1, patients)
    theirs = [
        crossfit.best_by([one[:, number != fold] for one in each], labels[number != fold], 1)
        for fold in range(parts)
    ]
    assert set(theirs) != {kept}
    for fold, place in enumerate(theirs):
        inside = number == fold
        temperature, bias = calibration.scaling(each[place][0, ~inside], labels[~inside])
        scores = calibration.softmax(each[place][0, inside] + bias, temperature)[:, 1]
        assert found.probability[inside] == pytest.approx(scores)


def test_the_threshold_of_another_epoch_calls_as_many_films_positive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(crossfit, "best_by", lambda logits, labels, positive: 1)
    each, labels, patients = in_epochs(4)
    kept, other = each[0][0], each[1]
    alone = crossfit.fit(kept, labels, patients, 1, RULE)
    found = crossfit.fit(
        kept, labels, patients, 1, RULE,
        epochs=crossfit.Epochs(logits=[kept[None], other], kept=0),
    )  # fmt: skip
    assert found.called.mean() == pytest.approx(alone.called.mean(), abs=0.05)
    # All that the logits of an epoch are multiplied by or moved by is calibrated away.
    moved = crossfit.fit(
        kept, labels, patients, 1, RULE,
        epochs=crossfit.Epochs(
            logits=[kept[None], 3 * kept[None] + 1], kept=0
        ),
    )  # fmt: skip
    assert (moved.called == alone.called).mean() > 0.98


def test_what_is_reported_is_what_new_films_show_and_not_what_the_choice_found() -> None:
    """A small part of `python -m tests.bench.judging.figures`, whose table is in docs."""
    found = simulated.optimism(60, auroc=0.95, rule="youden", times=40)["youden"]
    assert found.before - found.new > 0.03
    assert abs(found.after - found.new) < 0.02
