"""What a checkup finds, and the verdict that follows."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.paths import SHARED
from tests.trainer import samples
from trainer.checking import checkup, division, findings
from trainer.checking.checkup import Checkup
from trainer.data import dataset
from trainer.errors import DatasetError

DATA = SHARED / "data"

#: Films of one X-ray unit in the public paediatric set.
UNIT = SHARED / "cases" / "unit" / "films.csv"


def fit(root: Path) -> Path:
    """A folder that nothing is wrong with."""
    samples.fill(root, patients=findings.FEW_PATIENTS, films=1)
    return root


def codes(found: Checkup, level: str) -> set[str]:
    return {finding.code for finding in found.findings if finding.level == level}


def text(found: Checkup, code: str) -> str:
    return next(finding.text for finding in found.findings if finding.code == code)


def resaved(path: Path, to: Path, side: int = 90, **options: Any) -> None:
    """The same picture in other bytes."""
    to.parent.mkdir(parents=True, exist_ok=True)
    Image.open(path).resize((side, side)).save(to, **options)


def test_a_folder_that_nothing_is_wrong_with_is_ready(tmp_path: Path) -> None:
    found = checkup.check([fit(tmp_path)])
    assert (found.verdict, codes(found, "doubt"), codes(found, "note")) == (
        "ready",
        set(),
        {"note"},
    )
    assert found.films == {"train": {"NORMAL": 50, "PNEUMONIA": 50}}
    assert found.patients == 100
    assert (found.sizes["NORMAL"].width, found.sizes["NORMAL"].height) == (64, 56)
    assert found.sizes["NORMAL"].kinds == {"JPEG": 50}


def test_files_that_cannot_be_decoded_are_named_each_with_why(tmp_path: Path) -> None:
    fit(tmp_path)
    (tmp_path / "NORMAL" / "page.jpeg").write_bytes(b"<!DOCTYPE html><html></html>")
    film = tmp_path / "NORMAL" / "patient0007_0.jpeg"
    film.write_bytes(film.read_bytes()[:300])
    found = checkup.check([tmp_path])
    assert found.verdict == "usable, but"
    assert {"truncated"} < codes(found, "doubt")
    assert "NORMAL/patient0007_0.jpeg" in text(found, "truncated")
    assert found.films == {"train": {"NORMAL": 49, "PNEUMONIA": 50}}, "what is left"
    assert found.patients == 99
    assert text(found, "few_patients").startswith("NORMAL has 49 patients")


def test_where_no_film_can_be_decoded_none_is_counted(tmp_path: Path) -> None:
    for name in ("NORMAL", "PNEUMONIA"):
        (tmp_path / name).mkdir()
        for number in range(4):
            (tmp_path / name / f"{number}.jpeg").write_bytes(b"\xff\xd8\xff%d" % number)
    found = checkup.check([tmp_path])
    assert found.verdict == "not usable"
    assert found.films == {"train": {"NORMAL": 0, "PNEUMONIA": 0}}


def test_more_broken_files_than_training_would_take_are_not_usable(tmp_path: Path) -> None:
    fit(tmp_path)
    for number in range(8):
        (tmp_path / "NORMAL" / f"broken{number}.jpeg").write_bytes(b"nothing %d" % number)
    found = checkup.check([tmp_path])
    assert found.verdict == "not usable"
    assert "8 of 108 films" in text(found, "unusable")


def test_copies_and_near_copies_across_classes_are_doubts(tmp_path: Path) -> None:
    fit(tmp_path)
    film = tmp_path / "NORMAL" / "patient0003_0.jpeg"
    (tmp_path / "PNEUMONIA" / "other.jpeg").write_bytes(film.read_bytes())
    near = tmp_path / "NORMAL" / "patient0004_0.jpeg"
    resaved(near, tmp_path / "PNEUMONIA" / "near.png")
    found = checkup.check([tmp_path])
    assert codes(found, "doubt") == {"copies_of_classes", "near_copies_of_classes"}
    assert "PNEUMONIA/near.png" in text(found, "near_copies_of_classes")


def test_the_same_picture_and_the_same_patient_across_splits_are_doubts(tmp_path: Path) -> None:
    fit(tmp_path / "train")
    source = tmp_path / "train" / "NORMAL"
    samples.write(tmp_path / "test", "PNEUMONIA/patient5003_9.jpeg", "NORMAL/new.jpeg")
    (tmp_path / "test" / "NORMAL" / "copy.jpeg").write_bytes(
        (source / "patient0001_0.jpeg").read_bytes()
    )
    resaved(source / "patient0002_0.jpeg", tmp_path / "test" / "NORMAL" / "near.jpeg", quality=60)
    found = checkup.check([tmp_path])
    assert codes(found, "doubt") == {
        "copies_of_splits",
        "near_copies_of_splits",
        "patients_in_train_and_test",
    }
    assert "patient5003" in text(found, "patients_in_train_and_test")


def test_one_picture_under_two_patients_is_a_doubt_that_a_division_ends(tmp_path: Path) -> None:
    films = tmp_path / "films"
    samples.fill(films, patients=70, films=1)
    for number in range(20):
        source = sorted((films / ("NORMAL", "PNEUMONIA")[number % 2]).iterdir())[number]
        resaved(source, source.with_name(f"patient{number + 9000:04}_0.jpeg"), quality=70)
    assert codes(checkup.check([films]), "doubt") == {"near_copies_of_patients"}
    divided = division.divide([films])
    assert divided.joined == 20
    division.write_manifest(divided.data, tmp_path / "divided.csv")
    again = checkup.check([tmp_path / "divided.csv"])
    assert (again.verdict, codes(again, "note")) == ("ready", {"near_copies", "note"})


def test_classes_that_are_small_or_rare_are_doubts(tmp_path: Path) -> None:
    samples.fill(tmp_path, patients=60, films=1)
    for path in sorted((tmp_path / "NORMAL").iterdir())[4:]:
        path.unlink()
    found = checkup.check([tmp_path])
    assert codes(found, "doubt") == {"few_patients", "rare_class"}
    assert "NORMAL has 4 films" in text(found, "rare_class")


def test_classes_that_their_files_give_away_are_doubts(tmp_path: Path) -> None:
    fit(tmp_path)
    for path in (tmp_path / "NORMAL").iterdir():
        resaved(path, path.with_suffix(".png"), side=200)
        path.unlink()
    found = checkup.check([tmp_path])
    differ = {"size_differs", "shape_differs", "formats_differ"}
    assert codes(found, "doubt") == {*differ, "acquired_alike"}
    assert "NORMAL PNG, PNEUMONIA JPEG" in text(found, "formats_differ")


@pytest.mark.parametrize("place", ["", "train"])
def test_a_label_file_that_disagrees_is_not_usable(tmp_path: Path, place: str) -> None:
    fit(tmp_path / "train")
    (tmp_path / place / "labels.txt").write_text("PNEUMONIA\nNORMAL\n")
    found = checkup.check([tmp_path])
    assert (found.verdict, codes(found, "bad")) == ("not usable", {"labels_txt"})
    with pytest.raises(DatasetError, match=r"labels\.txt"):
        dataset.read(tmp_path)


def test_a_manifest_beside_the_films_that_disagrees_is_a_doubt(tmp_path: Path) -> None:
    fit(tmp_path)
    dataset.read(tmp_path).write_csv(tmp_path / "manifest.csv")
    assert checkup.check([tmp_path]).verdict == "ready"
    moved = tmp_path / "NORMAL" / "patient0003_0.jpeg"
    text_of = (tmp_path / "manifest.csv").read_text()
    (tmp_path / "manifest.csv").write_text(
        text_of.replace("NORMAL/patient0003_0.jpeg,NORMAL", "NORMAL/patient0003_0.jpeg,PNEUMONIA")
    )
    found = checkup.check([tmp_path])
    assert codes(found, "doubt") == {"manifest"}
    assert f"NORMAL/{moved.name} is PNEUMONIA there" in text(found, "manifest")


def test_classes_that_differ_by_a_slip_are_a_doubt(tmp_path: Path) -> None:
    fit(tmp_path)
    samples.write(tmp_path, *(f"Normal/x{number}.png" for number in range(60)))
    assert "NORMAL, Normal differ only" in text(checkup.check([tmp_path]), "alike_classes")


def test_a_folder_that_is_laid_out_otherwise_is_not_usable(tmp_path: Path) -> None:
    found = checkup.check([tmp_path])
    assert (found.verdict, found.root, found.films) == ("not usable", None, {})
    assert "no class folders" in text(found, "unusable")


def test_each_film_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer.film import rules

    fit(tmp_path)
    calls = []
    decode = rules.decode
    monkeypatch.setattr(rules, "decode", lambda *a, **k: (calls.append(1), decode(*a, **k))[1])
    checkup.check([tmp_path])
    assert len(calls) == 100


def counted(work: Callable[[], object]) -> int:
    """Calls of functions that work takes, in this thread."""
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls


def test_reading_and_dividing_grow_as_the_number_of_films(tmp_path: Path) -> None:
    few, many = tmp_path / "few", tmp_path / "many"
    for root, n in ((few, 300), (many, 3_000)):
        for name in ("NORMAL", "PNEUMONIA"):
            (root / name).mkdir(parents=True)
            for number in range(n):
                # Two films per patient, every tenth content twice.
                content = b"%d" % (number - number % 10 if number % 10 == 1 else number)
                path = root / name / f"patient{number // 2:06}{name}_{number}.jpeg"
                path.write_bytes(name.encode() + content)
    steps = {root: counted(lambda root=root: dataset.read(root)) for root in (few, many)}
    assert steps[many] < 12 * steps[few]


@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data")
def test_the_public_paediatric_set_is_doubted_for_its_units_and_its_originals() -> None:
    found = checkup.check([DATA / "kermany_224"])
    assert codes(found, "doubt") == {"acquired_alike"}
    assert 1 <= len(found.groups) <= 5
    assert found.films["train"] == {"NORMAL": 1341, "PNEUMONIA": 3875}
    assert "50 films are copies" in text(found, "copies")
    originals = checkup.check([DATA / "originals"])
    assert {"size_differs", "shape_differs"} <= codes(originals, "doubt")


@pytest.mark.skipif(not UNIT.is_file(), reason="needs ../shared/data and ../shared/cases")
def test_the_unit_that_took_mostly_the_sick_is_found() -> None:
    listed, sure = set(), set()
    with UNIT.open(newline="") as file:
        for row in csv.DictReader(file):
            name = Path(row["path"]).name
            listed.add(name)
            if float(row["r_mark_ncc"]) > 0.7 or float(row["kv_stamp_ncc"]) > 0.6:
                sure.add(name)
    found = checkup.check([DATA / "kermany_224"])
    there = {film.name for film in (DATA / "kermany_224").rglob("*.jpeg")}
    units = [
        {Path(path).name for paths in group.films.values() for path in paths}
        for group in found.groups
    ]
    assert any(
        len(unit & sure) >= 0.8 * len(sure & there) and len(unit & listed) >= 0.6 * len(unit)
        for unit in units
    )


def test_a_film_that_is_a_photograph_is_no_film(tmp_path: Path) -> None:
    fit(tmp_path)
    photograph = Image.merge("RGB", [Image.linear_gradient("L").rotate(90 * n) for n in range(3)])
    photograph.save(tmp_path / "NORMAL" / "holiday.jpeg")
    found = checkup.check([tmp_path])
    assert "NORMAL/holiday.jpeg" in text(found, "colour")


@pytest.mark.parametrize(
    ("each", "verdict"), [(1, "usable, but"), (4, "usable, but"), (5, "ready")]
)
def test_a_validation_of_few_patients_is_doubted_and_noted(
    tmp_path: Path, each: int, verdict: str
) -> None:
    fit(tmp_path)
    manifest = tmp_path / "m.csv"
    with manifest.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "split"])
        for name in ("NORMAL", "PNEUMONIA"):
            for n, film in enumerate(sorted((tmp_path / name).iterdir())):
                place = film.relative_to(tmp_path)
                rows.writerow([place, name, "val" if n < each else "train"])
    found = checkup.check([manifest])
    assert found.verdict == verdict
    notes = [note for note in dataset.read(manifest).notes if "Too few patients" in note]
    if verdict == "ready":
        assert not notes
        return
    said = f"{each} of NORMAL, {each} of PNEUMONIA, fewer than 5"
    assert codes(found, "doubt") == {"few_held_out"}
    assert said in text(found, "few_held_out")
    assert notes == [text(found, "few_held_out")]
    assert notes[0] not in {f.text for f in found.findings if f.code == "note"}
