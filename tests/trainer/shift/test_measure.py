"""What the shift report says of models that look at the unit, and of those that do not."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from tests.trainer.acquisition import plants
from trainer.errors import Stopped
from trainer.judging import metrics
from trainer.shift import measure, report, samples, units, words
from trainer.shift.measure import Scored
from trainer.shift.units import Films, Unit

#: Films, and the side at which they are; a unit stamps a third of the sick.
ALL, SIDE = 240, 64

SEED = 3


def patch(some: np.ndarray) -> np.ndarray:
    """How bright the middle is beside what is around it: the disease."""
    inner = some[:, 26:38, 26:38].mean(axis=(1, 2))
    around = some[:, 10:54, 10:54].mean(axis=(1, 2))
    return np.asarray((inner - around) / around.clip(1))


def sees_disease(some: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(4 - 10 * patch(some))))


def sees_stamp(some: np.ndarray) -> np.ndarray:
    """A model that takes the unit's stamp for the disease, and looks at the disease else."""
    stamp = (some[:, 3:6, 33:41] >= 250).mean(axis=(1, 2))
    return np.asarray(np.maximum(sees_disease(some), stamp))


@pytest.fixture(scope="module")
def films() -> Films:
    """Half are sick, with a soft bright spot; every third of those has a white bar at the top."""
    planes = plants.films(ALL, SIDE) // 2 + 40
    labels = np.arange(ALL) % 2
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    bright = (60 * np.exp(-(y**2 + x**2) / (2 * 8**2))).astype(np.uint8)
    planes[labels == 1] += bright
    stamped = np.flatnonzero(labels)[::3]
    planes[stamped] = plants.covered(planes[stamped])
    return Films(
        planes=planes,
        rows=np.arange(ALL),
        labels=labels,
        patients=[f"p{n // 4}" for n in range(ALL)],
        held_out=np.arange(ALL) >= ALL // 2,
        names=("NORMAL", "PNEUMONIA"),
        positive=1,
    )


@pytest.fixture(scope="module")
def found(films: Films) -> list[Unit]:
    each_its_own = dataclasses.replace(films, patients=[f"p{n}" for n in range(ALL)])
    return units.find(each_its_own, units.look(films))


def judged(films: Films, found: list[Unit], score: measure.Score, seed: int = SEED) -> dict:
    scored = measure.measure(films, found, score, seed=seed)
    assert scored is not None
    return report.of(films, found, scored, threshold=0.5, seed=seed)


def named(told: dict) -> dict[str, dict]:
    return {one["name"]: one for one in told["dressings"]}


def test_a_model_that_takes_the_stamp_for_the_disease_is_found_out(
    films: Films, found: list[Unit]
) -> None:
    told = judged(films, found, sees_stamp)
    unit = named(told)["group 1"]
    assert told["plain"]["value"] > 0.99
    assert unit["auroc"]["value"] < 0.8
    assert unit["flips"]["low"] > 0.8
    assert unit["mean_p"]["negative"]["before"] < 0.2
    assert unit["mean_p"]["negative"]["after"] > 0.9
    assert told["worst"]["name"].startswith("group 1")
    # Of what the unit does it is the mark.
    assert named(told)["group 1 marks"]["flips"]["value"] > 0.9
    assert named(told)["group 1 tone"]["flips"]["value"] < 0.1
    # What training never does makes a film of the unit, too.
    assert named(told)["group 1 spectrum"]["flips"]["value"] > 0.9


def test_a_model_that_looks_at_the_disease_keeps_its_decisions(
    films: Films, found: list[Unit]
) -> None:
    told = judged(films, found, sees_disease)
    unit = named(told)["group 1"]
    assert unit["auroc"]["value"] > 0.96
    assert unit["flips"]["high"] < 0.3
    assert named(told)["group 1 marks"]["flips"]["value"] == 0


def test_films_of_the_other_class_are_dressed_and_nobodys_donor_is_scored(
    films: Films, found: list[Unit]
) -> None:
    (unit,) = found
    scored = measure.measure(films, found, sees_stamp, seed=SEED)
    assert scored is not None
    assert not films.held_out[unit.donors].any()
    assert (films.labels[unit.donors] == 1).all()
    assert films.held_out[scored.films].all()
    one = next(one for one in scored.dressed if one.name == "group 1")
    assert not scored.truth[one.films].any()
    assert not np.isin(scored.films[one.films], unit.films).any()
    assert one.films.size == (~scored.truth).sum()


def test_films_of_the_sick_are_dressed_as_a_unit_of_the_healthy(
    films: Films, found: list[Unit]
) -> None:
    turned = dataclasses.replace(films, labels=1 - films.labels)
    units_of_it = [dataclasses.replace(unit, label=0) for unit in found]
    told = judged(turned, units_of_it, lambda some: 1 - sees_stamp(some))
    unit = named(told)["group 1"]
    assert unit["dressed"] == "positive"
    assert unit["mean_p"]["positive"]["after"] < 0.1 < unit["mean_p"]["positive"]["before"]


def test_each_film_is_dressed_as_several_donors_and_figures_are_means_of_all_draws(
    films: Films, found: list[Unit]
) -> None:
    # One donor in ten of the unit has the stamp: a single draw says how many of them it met.
    (unit,) = found
    few = dataclasses.replace(
        unit, boxes=[b if not n % 10 else b[:0] for n, b in enumerate(unit.boxes)]
    )
    scored = measure.measure(films, [few], sees_stamp, seed=SEED)
    assert scored is not None
    one = next(one for one in scored.dressed if one.name == "group 1 marks")
    assert one.score.shape == (measure.DRAWS, one.films.size)
    assert len({row.tobytes() for row in one.score}) == measure.DRAWS
    told = named(report.of(films, [few], scored, threshold=0.5, seed=SEED))["group 1 marks"]
    before = scored.score[one.films]
    flips = [((before >= 0.5) != (row >= 0.5)).mean() for row in one.score]
    assert told["draws"] == measure.DRAWS
    assert told["flips"]["value"] == pytest.approx(np.mean(flips))
    assert min(flips) < told["flips"]["value"] < max(flips)
    assert told["mean_p"]["negative"]["after"] == pytest.approx(one.score.mean())
    of_draw = [metrics.auroc(score, scored.truth) for score in scored.after(one)]
    assert told["auroc"]["value"] == pytest.approx(np.mean(of_draw))
    assert told["auroc"]["low"] < told["auroc"]["value"] < told["auroc"]["high"]
    # A change without a donor is the same one each time.
    (countered,) = (one for one in scored.dressed if one.name == "counter-shift full")
    assert len(countered.score) == 1


def test_the_same_seed_dresses_the_same_films_whatever_scores_them(
    films: Films, found: list[Unit]
) -> None:
    def mean(some: np.ndarray) -> np.ndarray:
        return np.asarray(some.mean(axis=(1, 2)) / 255)

    def scored(seed: int) -> Scored:
        made = measure.measure(films, found, mean, seed=seed)
        assert made is not None
        return made

    one, again, other = scored(1), scored(1), scored(2)
    for a, b in zip(one.dressed, again.dressed, strict=True):
        assert np.array_equal(a.score, b.score)
    assert not np.array_equal(one.dressed[0].score, other.dressed[0].score)
    # A unit's parts have the donors of the whole.
    names = {d.name: d for d in one.dressed}
    assert np.abs(names["group 1 tone"].score - names["group 1"].score).mean() < 0.02


def test_without_a_unit_of_one_class_that_is_said_and_classes_exchange_their_spectra(
    films: Films,
) -> None:
    told = judged(films, [], sees_disease)
    assert set(named(told)) == {
        "spectrum of PNEUMONIA", "spectrum of NORMAL", "counter-shift half", "counter-shift full",
    }  # fmt: skip
    assert told["groups"] == []
    assert "no group of films" in told["notes"][0]
    assert named(told)["spectrum of PNEUMONIA"]["dressed"] == "negative"
    assert named(told)["spectrum of PNEUMONIA"]["unseen"]
    assert set(named(told)["counter-shift full"]["mean_p"]) == {"negative", "positive"}


def test_no_more_films_are_scored_than_asked_for(films: Films, found: list[Unit]) -> None:
    count = 0

    def counted(some: np.ndarray) -> np.ndarray:
        nonlocal count
        count += len(some)
        return sees_disease(some)

    few = dataclasses.replace(films, held_out=np.ones(ALL, np.bool_))
    measure.measure(few, found, counted, seed=SEED)
    whole, count = count, 0
    scored = measure.measure(few, found, counted, seed=SEED, most=whole - 100)
    assert scored is not None
    assert count <= whole - 90
    assert scored.held_out == ALL > len(scored.films)
    assert scored.truth.sum() == (~scored.truth).sum()
    count = 0
    scored = measure.measure(few, found, counted, seed=SEED, most=1)
    assert scored is not None
    assert scored.truth.sum() == measure.LEAST


def test_of_many_films_patients_are_drawn() -> None:
    patients = [f"p{n // 4}" for n in range(400)]
    kept = units.drawn(patients, 40, seed=0)
    assert kept.size == 40
    assert (np.diff(kept) > 0).all()
    assert len({patients[row] for row in kept}) == 10
    assert not np.array_equal(kept, units.drawn(patients, 40, seed=1))
    assert np.array_equal(units.drawn(patients, 400, seed=0), np.arange(400))


def test_films_of_one_class_are_not_judged_and_a_stop_is_heard(
    films: Films, found: list[Unit]
) -> None:
    sick = dataclasses.replace(films, held_out=films.truth)
    assert measure.measure(sick, found, sees_disease) is None
    with pytest.raises(Stopped):
        measure.measure(films, found, sees_disease, stop=lambda: True)
    with pytest.raises(Stopped):
        units.look(films, lambda: True)


def test_a_report_is_json_and_says_itself_in_two_sentences_and_few_rows(
    films: Films, found: list[Unit]
) -> None:
    told = json.loads(json.dumps(judged(films, found, sees_stamp), allow_nan=False))
    first, second = words.sentences(told)
    assert "at worst: NORMAL films" in first
    assert "group 1 (PNEUMONIA, the same" in first
    assert "of decisions change there" in second
    rows = words.rows(told)
    assert [row[0] for row in rows] == [
        "as they are", "dressed as group 1", "group 1 marks", "group 1 tone", "group 1 spectrum",
        "counter-shift half", "counter-shift full",
    ]  # fmt: skip
    assert {len(row) for row in rows} == {len(words.HEAD)}
    assert any(note.startswith("group 1: ") for note in words.notes(told))
    # Each dressing can be told.
    for one in told["dressings"]:
        assert words.described(told, one)
    without = judged(films, [], sees_disease)
    assert all(words.described(without, one) for one in without["dressings"])
    assert len(words.rows(without)) == 4


def test_samples_are_held_out_films_with_what_the_model_says_of_them_before_and_after(
    films: Films, found: list[Unit]
) -> None:
    drawn = samples.draw(films, found, sees_stamp, seed=SEED)
    assert [one.name for one in drawn] == ["group 1", "counter-shift full"]
    as_unit = drawn[0]
    assert (as_unit.unit, len(as_unit.pairs)) == (1, 2)
    for sample in drawn:
        for pair in sample.pairs:
            assert films.held_out[pair.film]
            assert np.array_equal(pair.plane, films.take(np.array([pair.film]))[0])
            both = sees_stamp(np.stack([pair.plane, pair.dressed]))
            assert [pair.before, pair.after] == both.tolist()
            assert not np.array_equal(pair.plane, pair.dressed)
    # A healthy film has the stamp after, and not before.
    assert not films.truth[[pair.film for pair in as_unit.pairs]].any()
    assert all(pair.before < 0.5 < pair.after for pair in as_unit.pairs)
    # The first of each changes most of all that were tried.
    for sample in drawn:
        changes = [abs(pair.after - pair.before) for pair in sample.pairs]
        assert changes == sorted(changes, reverse=True)
    assert as_unit.tried == samples.TRIED


def test_samples_are_the_same_each_time_and_as_many_as_are_asked_for(
    films: Films, found: list[Unit]
) -> None:
    def which(drawn: list[samples.Sample]) -> list[list[int]]:
        return [[pair.film for pair in sample.pairs] for sample in drawn]

    two = which(samples.draw(films, found, sees_stamp, seed=SEED))
    assert which(samples.draw(films, found, sees_stamp, seed=SEED)) == two
    assert which(samples.draw(films, found, sees_stamp, seed=SEED, most=1)) == [
        pairs[:1] for pairs in two
    ]
    with pytest.raises(Stopped):
        samples.draw(films, found, sees_stamp, stop=lambda: True)


def test_without_a_unit_samples_have_the_spectra_of_the_other_class(films: Films) -> None:
    drawn = samples.draw(films, [], sees_disease, seed=SEED)
    assert [one.name for one in drawn] == [
        "spectrum of PNEUMONIA", "spectrum of NORMAL", "counter-shift full",
    ]  # fmt: skip
    sick = [films.truth[one.pairs[0].film] for one in drawn[:2]]
    assert sick == [False, True]


def test_films_that_were_all_learned_are_no_samples(films: Films, found: list[Unit]) -> None:
    learned = dataclasses.replace(films, held_out=np.zeros(ALL, np.bool_))
    assert samples.draw(learned, found, sees_stamp) == []
