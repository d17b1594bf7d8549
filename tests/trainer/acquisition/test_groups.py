"""Which films look acquired alike, and which of these groups are named."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.support.acquired import Films, looked_at
from tests.trainer.acquisition import plants
from trainer.acquisition import groups, looks, one_sided
from trainer.acquisition.groups import Group
from trainer.acquisition.one_sided import OneSided

#: Films, and those of one unit among them, all of class 1.
ALL, UNIT = 400, 30


def two_classes(n: int) -> np.ndarray:
    return np.arange(n) % 2


def named(some: Films, labels: np.ndarray) -> list[OneSided]:
    patients = [f"p{i}" for i in range(len(some))]
    return one_sided.find(groups.find(looked_at(some)), labels, patients, 2)


@pytest.mark.parametrize("side", [64, 224])
@pytest.mark.parametrize("plant", plants.PLANTS.values(), ids=plants.PLANTS.keys())
def test_a_unit_whose_films_are_of_one_class_is_named_and_nothing_else(
    plant: Callable[[Films], Films], side: int
) -> None:
    some, labels = plants.films(ALL, side), two_classes(ALL)
    unit = np.flatnonzero(labels)[:UNIT]
    some[unit] = plant(some[unit])
    (found,) = named(some, labels)
    its = np.isin(found.group.films, unit)
    assert found.label == 1
    assert its.sum() >= 0.8 * UNIT
    assert its.mean() >= 0.8
    assert found.counts.sum() == found.patients == len(found.group.films)


def test_a_unit_with_films_of_both_classes_is_a_group_and_not_named() -> None:
    some, labels = plants.films(ALL, 64), two_classes(ALL)
    some[:60] = plants.framed(some[:60])
    found = groups.find(looked_at(some))
    (frame,) = (group for group in found if group.look == "frame")
    assert np.array_equal(frame.films, np.arange(60))
    assert named(some, labels) == []


def test_films_that_nothing_was_laid_on_are_in_no_group() -> None:
    assert groups.find(looked_at(plants.films(ALL, 224))) == []


def test_letters_that_wander_are_found_by_their_likeness() -> None:
    some, labels = plants.films(ALL, 224), two_classes(ALL)
    rng = np.random.default_rng(5)
    unit = np.flatnonzero(labels)[:UNIT]
    for row in unit:
        at = rng.uniform(0.02, 0.12, 2)
        some[row] = plants.lettered(some[row][None] // 2, "R", (at[0], at[1]))[0]
    (found,) = named(some, labels)
    assert np.isin(unit, found.group.films).mean() >= 0.8
    assert np.isin(found.group.films, unit).mean() >= 0.8


def test_where_a_mark_is_is_known_for_each_film() -> None:
    some, labels = plants.films(ALL, 224), two_classes(ALL)
    unit = np.flatnonzero(labels)[:UNIT]
    some[unit] = plants.covered(some[unit])
    (found,) = named(some, labels)
    assert found.group.boxes is not None
    top, left, height, width = np.median(found.group.boxes, axis=0)
    assert abs(top - 11) <= 1
    assert abs(left - 112) <= 1
    assert abs(height - 11) <= 1
    assert abs(width - 37) <= 1


def group(*films: int) -> Group:
    return Group(look="frame", what="a frame", films=np.array(films))


def test_a_patient_counts_once_however_many_films_there_are() -> None:
    labels = np.array([1] * 40 + [0] * 40 + [1] * 40)
    many = group(*range(40))
    each_its_own = [f"p{i}" for i in range(120)]
    assert one_sided.find([many], labels, each_its_own, 2)
    of_two = [f"q{i % 2}" for i in range(40)] + each_its_own[40:]
    assert one_sided.find([many], labels, of_two, 2) == []


def test_a_group_is_not_named_where_nearly_all_films_are_of_its_class() -> None:
    labels = np.array([1] * 970 + [0] * 30)
    patients = [f"p{i}" for i in range(1000)]
    assert one_sided.find([group(*range(60))], labels, patients, 2) == []


def test_groups_of_the_same_films_are_named_once() -> None:
    labels = np.array([1] * 60 + [0] * 140)
    patients = [f"p{i}" for i in range(200)]
    same = [group(*range(40)), group(*range(1, 42))]
    assert len(one_sided.find(same, labels, patients, 2)) == 1


def test_labels_exchanged_between_patients_name_nothing() -> None:
    some = plants.films(ALL, 64)
    some[:40] = plants.framed(some[:40])
    some[40:80] = plants.toned(some[40:80])
    some[80:120] = plants.covered(some[80:120])
    found = groups.find(looked_at(some))
    assert len(found) >= 3
    patients = [f"p{i // 2}" for i in range(ALL)]
    rng = np.random.default_rng(0)
    warned = 0
    for _ in range(200):
        of_patient = rng.permutation(np.arange(ALL // 2) % 2)
        warned += bool(one_sided.find(found, np.repeat(of_patient, 2), patients, 2))
    assert warned <= 3


@pytest.mark.parametrize(
    ("hits", "population", "marked", "drawn", "chance"),
    [(3, 10, 5, 3, 1 / 12), (0, 10, 5, 3, 1.0), (2, 10, 5, 2, 2 / 9), (4, 10, 5, 3, 0.0)],
)
def test_the_chance_is_that_of_drawing_without_putting_back(
    hits: int, population: int, marked: int, drawn: int, chance: float
) -> None:
    found = one_sided.upper_tail(hits, population, marked, drawn)
    assert found == pytest.approx(chance, abs=1e-12)


def test_many_films_are_grouped_as_a_part_of_them_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "LEARNED_FROM", 150)
    for name, plant in plants.PLANTS.items():
        some, labels = plants.films(ALL, 224), two_classes(ALL)
        unit = np.flatnonzero(labels)[::3]
        some[unit] = plant(some[unit])
        found = named(some, labels)
        assert [one.label for one in found] == [1], name
        assert np.isin(unit, found[0].group.films).mean() >= 0.8, name


def test_looks_of_films_are_those_of_each_part_of_them() -> None:
    some = plants.lettered(plants.films(40, 224))
    whole, parts = (
        looked_at(some),
        [looked_at(some[:20]), looked_at(some[20:])],
    )
    again = looks.joined(parts)
    assert len(whole) == len(again) == 40
    for one, other in zip(whole.ends, again.ends, strict=True):
        assert np.array_equal(one, other)
    assert np.array_equal(np.sort(whole.marks.film), np.sort(again.marks.film))
    assert np.array_equal(whole.sharpness, again.sharpness)
