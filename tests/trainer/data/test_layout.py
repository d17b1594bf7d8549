"""Where labelled films are found: in folders as archives unpack, and as people and systems leave
them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support.paths import SHARED
from tests.trainer import samples
from trainer import clutter
from trainer.checking import checkup
from trainer.data import dataset, gathering, layout
from trainer.errors import DatasetError

KAGGLE = SHARED / "cases" / "train" / "kaggle"


def unpacked(root: Path) -> Path:
    """A dataset as Kaggle's archive of it unpacks: once more in itself, and with what macOS leaves.

    Of 24 films to train on, 16 to validate and 6 to test.
    """
    chest = root / "chest_xray"
    samples.fill(chest / "train", 6)
    samples.write(chest / "val", *(f"NORMAL/v{n}.png" for n in range(8)))
    samples.write(chest / "val", *(f"PNEUMONIA/v{n}.png" for n in range(8)))
    samples.write(chest / "test", *(f"NORMAL/t{n}.png" for n in range(3)))
    samples.write(chest / "test", *(f"PNEUMONIA/t{n}.png" for n in range(3)))
    shutil.copytree(chest, root / "again")
    (root / "again").rename(chest / "chest_xray")
    for folder in (chest, chest / "chest_xray", chest / "chest_xray" / "train" / "NORMAL"):
        (folder / ".DS_Store").write_bytes(b"Bud1")
    for film in sorted((chest / "train").rglob("*.jpeg")):
        aside = chest / "__MACOSX" / film.relative_to(root).with_name(f"._{film.name}")
        aside.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(b"\0\5\x16\7")
    return root


@pytest.mark.parametrize("place", ["", "chest_xray", "chest_xray/chest_xray"])
def test_the_archive_of_kaggle_is_found_as_it_unpacks_and_each_film_counted_once(
    tmp_path: Path, place: str
) -> None:
    root = unpacked(tmp_path / "archive")
    data = dataset.read(root / place)
    assert len(data.films) == 46
    assert {film.path.partition("/")[0] for film in data.films} == {"train", "val", "test"}
    assert sum(data.count("test").values()) == 6
    notes = " ".join(data.notes)
    assert "val/ does not choose the model because it has 16 films, fewer than 100" in notes
    assert ("46 files lie in a copy of the folders" in notes) == (place != "chest_xray/chest_xray")
    found = checkup.check([root / place])
    assert found.verdict == "usable, but"
    assert found.films == {
        "train": {"NORMAL": 12, "PNEUMONIA": 12},
        "val": {"NORMAL": 8, "PNEUMONIA": 8},
        "test": {"NORMAL": 3, "PNEUMONIA": 3},
    }
    assert not {"copies", "unusable"} & {finding.code for finding in found.findings}
    assert dataset.read(root).hash == data.hash, "wherever it is given from"


def test_a_folder_beside_the_splits_with_other_films_is_no_copy_and_refused(
    tmp_path: Path,
) -> None:
    root = unpacked(tmp_path / "archive")
    inner = root / "chest_xray" / "chest_xray"
    (inner / "train" / "NORMAL" / "patient0003_0.jpeg").unlink()
    assert len(dataset.read(root).films) == 46, "what a copy lacks is there"
    samples.write(inner, "train/NORMAL/new.png")
    with pytest.raises(DatasetError, match=r"which is no copy: 1 films are only there.*new\.png"):
        dataset.read(root)
    (inner / "train" / "NORMAL" / "new.png").unlink()
    film = inner / "train" / "NORMAL" / "patient0002_0.jpeg"
    film.rename(inner / "train" / "PNEUMONIA" / film.name)
    with pytest.raises(DatasetError, match=r"or of another class.*patient0002_0") as caught:
        dataset.read(root)
    assert "patient" not in str(caught.value.shareable)


def test_folders_of_one_split_are_read_as_one_and_this_is_said(tmp_path: Path) -> None:
    samples.fill(tmp_path / "train", 6)
    samples.write(tmp_path / "val", "NORMAL/a.png", "PNEUMONIA/a.png")
    samples.write(tmp_path / "validation", "NORMAL/b.png", "PNEUMONIA/b.png")
    samples.write(tmp_path / "Test", "NORMAL/c.png")
    samples.write(tmp_path / "test", "PNEUMONIA/c.png")
    gathered = gathering.gather([tmp_path])
    assert len(gathered.films) == 24 + 4 + 2
    assert [film.path for film in gathered.films if film.split == "val"] == [
        "val/NORMAL/a.png",
        "val/PNEUMONIA/a.png",
        "validation/NORMAL/b.png",
        "validation/PNEUMONIA/b.png",
    ]
    assert "The folders val/, validation/ are read as one, val/." in gathered.notes
    assert "The folders Test/, test/ are read as one, test/." in gathered.notes


def test_linked_folders_in_a_class_are_counted_and_lead_in_no_circle(tmp_path: Path) -> None:
    root = tmp_path / "films"
    samples.fill(root, 6)
    samples.fill(tmp_path / "elsewhere", 2)
    (root / "NORMAL" / "more").symlink_to(tmp_path / "elsewhere" / "NORMAL")
    (root / "NORMAL" / "loop").symlink_to(root)
    (root / "PNEUMONIA" / "deep").mkdir()
    (root / "PNEUMONIA" / "deep" / "up").symlink_to("..")
    (root / "itself").symlink_to(root)
    (root / "parent").symlink_to("..")
    gathered = gathering.gather([root])
    assert gathered.labels == ("NORMAL", "PNEUMONIA")
    assert len(gathered.films) == 24
    (note,) = gathered.notes
    assert note.startswith("3 linked folders in the folders of classes are not entered")
    found = checkup.check([root])
    assert any("3 linked folders" in finding.text for finding in found.findings)


def test_a_class_that_is_a_link_to_a_folder_is_read(tmp_path: Path) -> None:
    samples.fill(tmp_path / "elsewhere", 6)
    (tmp_path / "films").mkdir()
    for name in ("NORMAL", "PNEUMONIA"):
        (tmp_path / "films" / name).symlink_to(tmp_path / "elsewhere" / name)
    assert len(dataset.read(tmp_path / "films").films) == 24


def test_leavings_are_what_is_skipped_and_was_not_before(tmp_path: Path) -> None:
    samples.fill(tmp_path, 2)
    samples.write(tmp_path, "#recycle/NORMAL/a.png", "NORMAL/@eaDir/x/b.png", "NORMAL/.old/c.png")
    found = sorted(file.relative_to(tmp_path).as_posix() for file in layout.leavings(tmp_path))
    assert found == ["#recycle/NORMAL/a.png", "NORMAL/@eaDir/x/b.png"]
    assert all(clutter.reason(name) for name in found)


@pytest.mark.skipif(not KAGGLE.is_dir(), reason="needs ../shared/cases")
@pytest.mark.parametrize("place", ["", "chest_xray"])
def test_films_of_kaggle_as_they_unpack_are_usable(place: str) -> None:
    data = dataset.read(KAGGLE / place)
    once = [
        file
        for split in ("train", "val", "test")
        for file in (KAGGLE / "chest_xray" / split).rglob("[!.]*.jpeg")
    ]
    assert len(data.films) == len(once)
    found = checkup.check([KAGGLE / place])
    assert found.verdict != "not usable"
    assert sum(n for split in found.films.values() for n in split.values()) == len(once)


def test_a_folder_that_cannot_be_listed_is_an_error_that_names_it(tmp_path: Path) -> None:
    samples.fill(tmp_path, 2)
    (tmp_path / "NORMAL" / "closed").mkdir(mode=0)
    if os.access(tmp_path / "NORMAL" / "closed", os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(DatasetError, match="closed cannot be listed"):
        dataset.read(tmp_path)
