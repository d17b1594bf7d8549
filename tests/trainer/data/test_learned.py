"""A training begins from a model: patients whom that has learned are held out last, and it is said
where held-out films are of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.support import hostile
from tests.trainer import samples
from trainer.data import dataset, gathering, layout
from trainer.data.gathering import Gathered
from trainer.data.labelled import TRAIN, VAL, Film
from trainer.data.learned import Learned
from trainer.data.names import Names
from trainer.data.whose import Whose

KEY = b"k" * 32


def settled(
    gathered: Gathered, seed: int = 0, start: Learned | None = None, val_fraction: float = 0.2
) -> dataset.Dataset:
    more = {} if start is None else {"start": start}
    return dataset.settle(gathered, val_fraction=val_fraction, seed=seed, **more)


def patients(films: tuple[Film, ...]) -> set[str]:
    return {film.patient for film in films}


@pytest.fixture
def gathered(tmp_path: Path) -> Gathered:
    """Forty patients with two films each."""
    samples.fill(tmp_path, patients=20)
    return gathering.gather([tmp_path])


def of_train(data: dataset.Dataset, names: Names | None = None) -> Learned:
    """What a model has learned that was trained on this."""
    films = data.of(TRAIN)
    return Learned.of(films) if names is None else Learned.of(names.of(films), names=names)


@pytest.mark.parametrize("seed", range(1, 5))
def test_patients_whom_the_start_has_not_learned_are_held_out_first(
    gathered: Gathered, seed: int
) -> None:
    first = settled(gathered)
    start = of_train(first)
    assert patients(settled(gathered, seed).of(VAL)) & patients(first.of(TRAIN)), "else no test"
    second = settled(gathered, seed, start)
    assert patients(second.of(VAL)) == patients(first.of(VAL))
    assert second.doubt == ""


def test_the_split_is_what_it_was_where_nothing_was_learned(gathered: Gathered) -> None:
    strangers = Learned(films=frozenset({"f" * 64}), patients=frozenset({"patient7777"}))
    for seed in range(4):
        was = settled(gathered, seed)
        for start in (Learned(), strangers):
            now = settled(gathered, seed, start)
            assert (now.films, now.hash, now.notes, now.doubt) == (
                was.films,
                was.hash,
                was.notes,
                "",
            )


def test_too_few_patients_whom_the_start_has_not_learned_are_told_by_their_number(
    gathered: Gathered,
) -> None:
    start = of_train(settled(gathered, val_fraction=0.1))
    second = settled(gathered, 1, start, val_fraction=0.25)
    held_out = second.of(VAL)
    learned = [film for film in held_out if film.sha256 in start.films]
    assert 0 < len(learned) < len(held_out)
    assert second.doubt.startswith(
        f"{len(learned)} of {len(held_out)} held-out films were learned by the model that this one "
        "began from"
    )
    assert second.doubt.endswith("figures of them are too good")
    assert not any("learned" in note for note in second.notes), "the films are others' too"
    # Of what is left where films cannot be read.
    gone = tuple(
        dataset.LeftOut(path=film.path, code="truncated", reason="cut") for film in learned[:1]
    )
    assert second.without(gone).doubt.startswith(f"{len(learned) - 1} of {len(held_out) - 1} ")


def test_films_that_are_given_to_choose_stay_and_those_that_the_start_learned_are_told(
    tmp_path: Path,
) -> None:
    samples.fill(tmp_path / "train", patients=20)
    for name, patient in (("NORMAL", "patient8"), ("PNEUMONIA", "patient9")):
        samples.write(tmp_path / "val", *(f"{name}/{patient}{n:03}_0.jpeg" for n in range(60)))
    found = gathering.gather([tmp_path])
    chosen = settled(found).of(VAL)
    second = settled(found, start=Learned.of(chosen[:7]))
    assert second.of(VAL) == chosen
    assert second.doubt.startswith(f"7 of {len(chosen)} held-out films were learned by")


def test_other_films_of_a_learned_patient_count_and_hidden_names_are_compared_with_plain_ones(
    gathered: Gathered,
) -> None:
    names = Names(key=KEY, everything=True)
    start = of_train(settled(gathered), names)
    assert all(name.startswith("#") for name in start.patients)
    # The same patients, of whom other films lie there by now.
    others = dataclasses.replace(
        gathered,
        films=tuple(dataclasses.replace(film, sha256=film.sha256[::-1]) for film in gathered.films),
    )
    assert patients(settled(others, 1, start).of(VAL)) == patients(settled(gathered).of(VAL))


def test_equal_names_of_films_that_say_nothing_of_a_patient_are_no_learned_patient(
    tmp_path: Path,
) -> None:
    samples.write(tmp_path, *(f"{c}/{c[0]}{n}.png" for c in ("NORMAL", "SICK") for n in range(9)))
    films = gathering.gather([tmp_path]).films
    start = Learned(films=frozenset({"f" * 64}), patients=frozenset(f.patient for f in films))
    assert start.known(films) == [False] * len(films)


def test_of_weights_from_elsewhere_it_is_said_that_nobody_knows_what_they_learned(
    gathered: Gathered,
) -> None:
    data = settled(gathered, start=Learned(complete=False))
    assert data.films == settled(gathered).films
    assert data.doubt.startswith("it is not known here what the weights ")


def test_what_was_learned_is_written_down_and_read_again(tmp_path: Path) -> None:
    learned = Learned(films=frozenset("ab"), patients=frozenset({"é\udcff"}), complete=False)
    path = tmp_path / "learned.json"
    path.write_text(learned.to_json(), encoding="ascii")
    assert Learned.read(path) == learned


def test_a_follow_up_in_another_folder_is_known_by_its_patient_id(tmp_path: Path) -> None:
    said = Whose(key=lambda: KEY)
    for n in range(6):
        for folder, view in (("before", 1), ("after", 2)):
            path = tmp_path / folder / ("NORMAL", "PNEUMONIA")[n % 2] / f"f{n}{view}.dcm"
            path.parent.mkdir(parents=True, exist_ok=True)
            uid = f"1.2.3.{n}.{view}"
            path.write_bytes(hostile.dicom(PatientID=f"MRN {n}", StudyInstanceUID=uid))
    names = Names(key=KEY)
    before = gathering.gather([tmp_path / "before"], said=said).films
    learned = Learned.of(names.of(before)[:2], names=names)
    after = gathering.of_entries(layout.read(tmp_path / "after").entries, said)
    assert len(after) == 6
    assert sum(learned.known(after)) == 2
    other = gathering.of_entries(layout.read(tmp_path / "after").entries, Whose())
    assert not any(learned.known(other)), "under another key"
