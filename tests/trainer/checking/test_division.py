"""Dividing films by patient: what goes where, and that the originals stay."""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from pathlib import Path

import pytest

from tests.trainer import samples
from trainer.checking import division
from trainer.data import dataset
from trainer.errors import DatasetError


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """Forty patients of each class, with one film under several splits."""
    samples.fill(tmp_path / "films" / "train", patients=40)
    samples.write(tmp_path / "films" / "val", "NORMAL/patient0001_8.jpeg")
    samples.write(tmp_path / "films" / "test", "PNEUMONIA/patient5001_8.jpeg")
    return tmp_path / "films"


def sides(data: dataset.Dataset) -> dict[str, set[str]]:
    found = defaultdict(set)
    for film in data.films:
        found[film.patient].add(film.split)
    return found


def test_eight_tenths_are_trained_on_and_no_patient_is_on_two_sides(films: Path) -> None:
    data = division.divide([films]).data
    assert len(data.films) == 162
    assert all(len(splits) == 1 for splits in sides(data).values())
    for name in data.labels:
        assert data.count("val")[name] in range(8, 11)
        assert data.count("test")[name] in range(8, 11)


def test_a_seed_gives_one_division_wherever_the_films_lie(films: Path, tmp_path: Path) -> None:
    first, again, other = (division.divide([films], seed=seed).data for seed in (1, 1, 2))
    assert first.hash == again.hash != other.hash
    moved = films.rename(tmp_path / "elsewhere")
    assert division.divide([moved], seed=1).data.hash == first.hash


def test_shares_can_be_chosen(films: Path) -> None:
    data = division.divide([films], val=0.25, test=0).data
    assert data.of("test") == ()
    assert 38 <= len(data.of("val")) <= 44
    for val, test in ((0.5, 0.5), (0, 0.1)):
        with pytest.raises(DatasetError, match="leave nothing to train on"):
            division.divide([films], val=val, test=test)


def test_a_folder_of_links_takes_no_room_and_moves_nothing(films: Path, tmp_path: Path) -> None:
    before = {p: p.stat().st_ino for p in films.rglob("*.jpeg")}
    data = division.divide([films]).data
    out = tmp_path / "out"
    division.write_folder(data, out)
    after = {p: p.stat().st_ino for p in films.rglob("*.jpeg")}
    assert after == before
    linked = [p.stat().st_ino for p in out.rglob("*.jpeg")]
    assert sorted(linked) == sorted(before.values())
    assert sorted(p.name for p in out.iterdir()) == [
        "labels.txt", "manifest.csv", "test", "train", "val",
    ]  # fmt: skip
    read = dataset.read(out / "manifest.csv")
    assert {f.sha256: (f.split, f.label, f.patient) for f in read.films} == {
        f.sha256: (f.split, f.label, f.patient) for f in data.films
    }
    # The folder by itself says the same of every film.
    by_folder = dataset.read(out)
    assert {f.path for f in by_folder.of("test")} == {f.path for f in read.of("test")}


def test_copies_are_files_of_their_own(films: Path, tmp_path: Path) -> None:
    division.write_folder(division.divide([films]).data, tmp_path / "out", copy=True)
    inodes = {p.stat().st_ino for p in films.rglob("*.jpeg")}
    copies = list((tmp_path / "out").rglob("*.jpeg"))
    assert len(copies) == 162
    assert not inodes & {p.stat().st_ino for p in copies}


def test_films_of_one_name_from_two_folders_both_find_a_place(tmp_path: Path) -> None:
    samples.fill(tmp_path / "films" / "train", patients=10)
    film = tmp_path / "films" / "val" / "NORMAL" / "patient0003_0.jpeg"
    film.parent.mkdir(parents=True)
    film.write_bytes(samples.film(999))
    division.write_folder(division.divide([tmp_path / "films"]).data, tmp_path / "out")
    both = sorted(p for p in (tmp_path / "out").rglob("patient0003_0.jpeg"))
    assert [p.parent.name for p in both] == ["2", "NORMAL"]
    assert len(list((tmp_path / "out").rglob("*.jpeg"))) == 41


def test_a_folder_that_is_not_empty_is_refused_and_left_alone(films: Path, tmp_path: Path) -> None:
    data = division.divide([films]).data
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious").write_text("x")
    with pytest.raises(DatasetError, match="not empty"):
        division.write_folder(data, out)
    assert [p.name for p in out.iterdir()] == ["precious"]
    (out / "precious").unlink()
    division.write_folder(data, out)
    with pytest.raises(DatasetError, match="no folder"):
        division.write_folder(data, tmp_path / "absent" / "out")
    with pytest.raises(DatasetError, match="is a file"):
        division.write_folder(data, out / "labels.txt")
    with pytest.raises(DatasetError, match="there already"):
        division.write_manifest(data, out / "manifest.csv")


@pytest.mark.skipif(not os.path.ismount("/dev/shm"), reason="needs a second file system")
def test_another_file_system_is_refused_with_what_to_do_and_nothing_is_left(
    films: Path,
) -> None:
    out = Path("/dev/shm") / f"division-{os.getpid()}"
    data = division.divide([films]).data
    before = sorted(out.parent.iterdir())
    with pytest.raises(DatasetError, match=r"--manifest FILE\.csv, or --copy"):
        division.write_folder(data, out)
    assert sorted(out.parent.iterdir()) == before


def test_a_manifest_beside_the_films_is_relative_to_them(films: Path) -> None:
    division.write_manifest(division.divide([films]).data, films / "divided.csv")
    with (films / "divided.csv").open(newline="") as file:
        paths = [row["path"] for row in csv.DictReader(file)]
    assert "test/PNEUMONIA/patient5001_8.jpeg" in paths
    assert all((films / path).is_file() for path in paths)


def test_too_few_patients_are_said_to_be_so(tmp_path: Path) -> None:
    samples.fill(tmp_path, patients=2)
    with pytest.raises(DatasetError, match="cannot be split"):
        division.divide([tmp_path])
