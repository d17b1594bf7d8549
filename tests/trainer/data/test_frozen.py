"""The films that models are compared on: chosen once, kept by content, never trained on."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from trainer.data import dataset, frozen, gathering
from trainer.data.frozen import Judged
from trainer.data.labelled import TEST, TRAIN, VAL
from trainer.data.whose import Whose
from trainer.errors import DatasetError


def fill(
    root: Path, *, patients: int = 40, films: int = 2, first: int = 0, below: str = ""
) -> Path:
    """NORMAL/ and PNEUMONIA/, each of so many patients; no film is a picture, none is opened."""
    for name in ("NORMAL", "PNEUMONIA"):
        folder = root / below / name
        folder.mkdir(parents=True, exist_ok=True)
        for patient in range(first, first + patients):
            number = 2 * patient + (name == "NORMAL")
            for view in range(films):
                place = folder / f"patient{number:04}_{view}.png"
                place.write_text(f"{root.name} {number} {view}")
    return root


def gather(*paths: Path) -> gathering.Gathered:
    return gathering.gather(paths)


def per_class(films: tuple[Judged, ...]) -> dict[str, int]:
    return {name: sum(f.name == name for f in films) for name in ("NORMAL", "PNEUMONIA")}


def test_some_patients_of_each_class_are_chosen_with_all_their_films(tmp_path: Path) -> None:
    chosen = frozen.choose(gather(fill(tmp_path, patients=200)))
    assert per_class(chosen) == {"NORMAL": 100, "PNEUMONIA": 100}
    assert len({film.patient for film in chosen}) == 100
    assert all(film.file.is_file() and film.file.is_absolute() for film in chosen)


def test_the_same_films_are_chosen_each_time_and_others_with_another_seed(tmp_path: Path) -> None:
    found = gather(fill(tmp_path, patients=100))
    assert frozen.choose(found) == frozen.choose(gather(tmp_path))
    assert set(frozen.choose(found)) != set(frozen.choose(found, seed=1))


def test_of_a_small_folder_a_larger_share_is_chosen_and_never_most_of_it(tmp_path: Path) -> None:
    assert per_class(frozen.choose(gather(fill(tmp_path / "a", patients=60)))) == {
        "NORMAL": 48,
        "PNEUMONIA": 48,
    }
    small = frozen.choose(gather(fill(tmp_path / "b", patients=10)))
    assert per_class(small) == {"NORMAL": 8, "PNEUMONIA": 8}


def test_a_test_split_is_what_is_chosen_where_it_has_enough_of_each_class(tmp_path: Path) -> None:
    fill(tmp_path, below="train")
    fill(tmp_path, patients=10, first=500, below="test")
    chosen = frozen.choose(gather(tmp_path))
    assert {film.file.parent.parent.name for film in chosen} == {"test"}
    assert per_class(chosen) == {"NORMAL": 20, "PNEUMONIA": 20}
    for film in list((tmp_path / "test" / "NORMAL").iterdir())[:1]:
        film.unlink()
    assert {film.file.parent.parent.name for film in frozen.choose(gather(tmp_path))} >= {"train"}


def test_copies_do_not_make_a_test_split_large(tmp_path: Path) -> None:
    fill(tmp_path, below="train")
    fill(tmp_path, patients=2, first=500, below="test")
    for film in list((tmp_path / "test").rglob("*.png")):
        for number in range(9):
            shutil.copy(film, film.with_name(f"{film.stem}_again{number}.png"))
    assert {film.file.parent.parent.name for film in frozen.choose(gather(tmp_path))} >= {"train"}


def test_films_that_the_champion_has_not_learned_are_what_is_chosen(tmp_path: Path) -> None:
    found = gather(fill(tmp_path, patients=100))
    data = dataset.settle(found, val_fraction=0.12, seed=0)
    learned = {film.sha256 for film in data.of(TRAIN)}
    validated = {film.sha256 for film in data.of(VAL)}
    assert {film.sha256 for film in frozen.choose(found, learned=learned)} == validated
    # Of many films that it has not learned, no more than of any others.
    some = set(sorted(learned)[:10])
    chosen = frozen.choose(found, learned=some)
    assert not {film.sha256 for film in chosen} & some
    assert len(frozen.choose(found)) * 0.9 < len(chosen) < len(frozen.choose(found)) * 1.1
    # Of too few, none: others are as good.
    all_but_a_few = {film.sha256 for film in found.films} - set(sorted(validated)[:6])
    assert frozen.choose(found, learned=all_but_a_few) == frozen.choose(found)


def test_content_in_two_classes_and_content_twice_is_not_frozen_twice(tmp_path: Path) -> None:
    fill(tmp_path, below="train")
    fill(tmp_path, patients=15, first=500, below="test")
    inside = tmp_path / "test" / "NORMAL"
    one, other = sorted(inside.iterdir())[:2]
    shutil.copy(one, tmp_path / "test" / "PNEUMONIA" / "patient9999_0.png")
    shutil.copy(other, inside / "patient9998_0.png")
    chosen = frozen.choose(gather(tmp_path))
    assert per_class(chosen) == {"NORMAL": 29, "PNEUMONIA": 30}
    assert len({film.sha256 for film in chosen}) == 59


def test_a_folder_of_too_few_patients_says_that_they_are_too_few(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="add patients"):
        frozen.choose(gather(fill(tmp_path, patients=1)))


def test_of_a_source_the_test_split_counts_or_all_where_there_is_none(tmp_path: Path) -> None:
    assert len(frozen.of_source(fill(tmp_path / "plain", patients=3))) == 12
    divided = fill(tmp_path / "divided", patients=3, below="train")
    fill(divided, patients=2, first=500, below="test")
    assert {film.file.parent.parent.name for film in frozen.of_source(divided)} == {"test"}
    assert len(frozen.of_source(divided, labels=("NORMAL", "PNEUMONIA", "other"))) == 8


def test_a_source_with_classes_that_the_models_do_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="PNEUMONIA, which the models do not know"):
        frozen.of_source(fill(tmp_path, patients=2), labels=("NORMAL", "TB"))


def test_the_patient_pattern_says_whose_films_they_are(tmp_path: Path) -> None:
    films = frozen.of_source(fill(tmp_path, patients=3), Whose(pattern=r"(\d)_\d$"))
    assert {film.patient for film in films} == set("012345")


def test_a_manifest_s_column_names_the_slices(tmp_path: Path) -> None:
    fill(tmp_path, patients=2, films=1)
    lines = ["path,label,slice"]
    for number, film in enumerate(sorted(tmp_path.rglob("*.png"))):
        ward = "ward b" if number % 2 else ""
        lines.append(f"{film.relative_to(tmp_path)},{film.parent.name},{ward}")
    (tmp_path / "films.csv").write_text("\n".join(lines) + "\n")
    assert [film.slice for film in frozen.of_source(tmp_path / "films.csv")] == ["", "ward b"] * 2


def test_films_of_several_sources_are_slices_by_the_source_s_name(tmp_path: Path) -> None:
    first, other = fill(tmp_path / "mary.2024"), fill(tmp_path / "anne", first=500)
    assert {f.slice for f in frozen.choose(gather(first, other))} == {"mary.2024", "anne"}
    assert {f.slice for f in frozen.choose(gather(first))} == {""}


def test_two_sources_of_one_name_are_two_slices(tmp_path: Path) -> None:
    first, other = fill(tmp_path / "mary" / "films"), fill(tmp_path / "anne" / "films", first=500)
    chosen = frozen.choose(gather(first, other))
    assert {film.slice for film in chosen} == {"mary/films", "anne/films"}


def test_frozen_films_and_all_films_of_their_patients_are_never_trained_on(tmp_path: Path) -> None:
    found = gather(fill(tmp_path))
    chosen = frozen.choose(found)
    # Since then: a further film of a frozen patient, and a copy of a frozen film elsewhere.
    kept = chosen[0]
    (kept.file.parent / f"{kept.patient}_9.png").write_text("a further film")
    shutil.copy(kept.file, kept.file.with_name("patient7777_0.png"))
    (kept.file.parent / "patient7777_1.png").write_text("the copy's patient is the same one")
    apart, notes = frozen.set_apart(gather(tmp_path), chosen)
    theirs = {film.patient for film in chosen}
    for film in apart.films:
        is_theirs = film.patient in {*theirs, "patient7777"}
        assert (film.split == TEST) == is_theirs
    assert notes == (
        f"{len(chosen) + 1} films are set apart to compare models on and not trained on.",
        "2 films are not trained on either, being of the same patients as those that models are "
        "compared on.",
    )
    assert apart.notes[-2:] == notes
    data = dataset.settle(apart, val_fraction=0.12, seed=0)
    learned = {f.sha256 for f in data.films if f.split in (TRAIN, VAL)}
    assert not learned & {film.sha256 for film in chosen}
    assert not theirs & {film.patient for film in data.films if film.split != TEST}


def test_the_films_of_later_sources_stay_apart_too(tmp_path: Path) -> None:
    first, other = fill(tmp_path / "a"), fill(tmp_path / "b", patients=45)
    chosen = frozen.choose(gather(first))
    apart, _ = frozen.set_apart(gather(first, other), chosen)
    data = dataset.settle(apart, val_fraction=0.12, seed=0)
    theirs = {film.patient for film in chosen}
    there = {film.patient for film in data.films if film.split == TEST}
    assert there == theirs
    assert {film.patient for film in data.films if film.split != TEST}.isdisjoint(theirs)


def test_a_patient_stays_apart_when_the_film_that_told_who_they_are_is_gone(
    tmp_path: Path,
) -> None:
    """A copy made one patient of two names; the names alone keep both apart later."""
    fill(tmp_path, below="train")
    fill(tmp_path, patients=15, first=500, below="test")
    chosen = frozen.choose(gather(tmp_path))
    name = chosen[0].patient
    for film in chosen:
        if film.patient == name:
            film.file.unlink()
    # A film that is not frozen joins the name with one that sorts before it.
    further = tmp_path / "train" / chosen[0].name / f"{name}_7.png"
    further.write_text("a further film")
    shutil.copy(further, further.with_name("patient0000_7.png"))
    apart, _ = frozen.set_apart(gather(tmp_path), chosen)
    data = dataset.settle(apart, val_fraction=0.12, seed=0)
    paths = {film.path for film in data.films if film.split != TEST}
    assert not {path for path in paths if name in path or "patient0000" in path}


def test_setting_nothing_apart_changes_nothing(tmp_path: Path) -> None:
    found = gather(fill(tmp_path, patients=3))
    assert frozen.set_apart(found, ()) == (found, ())
    elsewhere = Judged(file=Path("/x.png"), sha256="0" * 64, name="NORMAL", patient="nobody")
    assert frozen.set_apart(found, (elsewhere,)) == (found, ())


def test_a_frozen_film_is_found_where_it_is_now_and_missing_where_it_was_changed(
    tmp_path: Path,
) -> None:
    chosen = frozen.choose(gather(fill(tmp_path)))
    moved, changed, gone, *rest = chosen
    place = moved.file.with_name("elsewhere_1.png")
    moved.file.rename(place)
    changed.file.write_text("other content")
    gone.file.unlink()
    found, missing = frozen.present(chosen, gather(tmp_path))
    assert set(missing) == {changed, gone}
    assert found == (dataclasses.replace(moved, file=place), *rest)


def test_frozen_films_of_another_folder_are_looked_for_there(tmp_path: Path) -> None:
    here, there = fill(tmp_path / "here"), fill(tmp_path / "there", first=500)
    films = frozen.of_source(there)
    films[0].file.unlink()
    films[1].file.write_text("other content")
    found, missing = frozen.present(films, gather(here))
    assert (found, missing) == (films[2:], films[:2])


def relabel(film: Judged) -> None:
    """Move a film into the folder of the other class."""
    other = {"NORMAL": "PNEUMONIA", "PNEUMONIA": "NORMAL"}[film.name]
    film.file.rename(film.file.parent.with_name(other) / f"corrected_{film.file.name}")


def test_a_frozen_film_whose_label_was_corrected_has_the_new_one(tmp_path: Path) -> None:
    chosen = frozen.choose(gather(fill(tmp_path)))
    for film in chosen[:3]:
        relabel(film)
    found, missing = frozen.present(chosen, gather(tmp_path))
    assert not missing
    assert [film.name for film in chosen[:3]] == ["NORMAL"] * 3
    assert [film.name for film in found] == ["PNEUMONIA"] * 3 + [film.name for film in chosen[3:]]
    assert frozen.relabelled(chosen, found) == 3


def test_a_frozen_film_of_another_folder_has_the_label_that_this_one_says_now(
    tmp_path: Path,
) -> None:
    here, there = fill(tmp_path / "here"), fill(tmp_path / "there", first=500)
    films = frozen.of_source(there)
    relabel(films[0])
    found, missing = frozen.present(films, gather(here), there)
    assert not missing
    assert (found[0].name, frozen.relabelled(films, found)) == ("PNEUMONIA", 1)
    (there / "PNEUMONIA").rename(there / "SICK")
    with pytest.raises(DatasetError, match="has the classes SICK, which the models do not know"):
        frozen.present(films, gather(here), there)


def test_a_frozen_film_that_lies_in_two_classes_now_keeps_its_label(tmp_path: Path) -> None:
    chosen = frozen.choose(gather(fill(tmp_path)))
    shutil.copy(chosen[0].file, chosen[-1].file.with_name("copy_1.png"))
    found, _ = frozen.present(chosen, gather(tmp_path))
    assert frozen.relabelled(chosen, found) == 0


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    odd = [
        Judged(
            file=tmp_path / name, sha256=f"{n:064x}", name="NORMAL", patient=f"p,{n}", slice='a "b"'
        )
        for n, name in enumerate(("plain.png", "with, comma.png", "new\nline.png", "\udcff.png"))
    ]
    text = frozen.to_csv(odd)
    assert frozen.from_csv(text) == tuple(odd)
    assert text.splitlines()[0] == "path,sha256,label,patient,slice,known_by"
    assert frozen.from_csv(frozen.to_csv(())) == ()


def test_the_digest_is_of_what_films_are_not_of_where_they_lie(tmp_path: Path) -> None:
    films = frozen.choose(gather(fill(tmp_path)))
    moved = [dataclasses.replace(film, file=Path("/elsewhere.png")) for film in films]
    assert frozen.digest(films) == frozen.digest(reversed(moved))
    for changed in ({"name": "x"}, {"patient": "x"}, {"slice": "x"}, {"sha256": "x"}):
        other = [dataclasses.replace(films[0], **changed), *films[1:]]
        assert frozen.digest(other) != frozen.digest(films)
    assert frozen.digest(films[1:]) != frozen.digest(films)
