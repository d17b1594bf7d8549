from __future__ import annotations

import csv
import random
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.support import films
from tests.support.paths import SHARED
from tests.trainer import samples
from trainer.data import dataset
from trainer.data.whose import Whose
from trainer.errors import DatasetError

KERMANY = SHARED / "data" / "kermany_224"


def patients_by_split(data: dataset.Dataset) -> dict[str, set[str]]:
    found = defaultdict(set)
    for film in data.films:
        found[film.split].add(film.patient)
    return found


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("person123_bacteria_456.jpeg", "person123"),
        ("person1_virus_6.jpeg", "person1"),
        ("IM-0115-0001.jpeg", "im0115"),
        ("NORMAL2-IM-0115-0001-0002.jpeg", "im0115"),
        ("patient0012_1.jpeg", "patient0012"),
        ("patient00007/study1/view1_frontal.jpg", "patient00007"),
        ("00000013_005.png", "00000013"),
        ("scan-7.png", "scan-7"),
        ("him-7-1.png", "him-7-1"),
    ],
)
def test_a_film_belongs_to_the_patient_that_its_name_says(
    tmp_path: Path, name: str, patient: str
) -> None:
    samples.write(tmp_path, f"NORMAL/{name}", "NORMAL/z.png", "SICK/x.png", "SICK/y.png")
    films = dataset.read(tmp_path).films
    assert next(f for f in films if f.path == f"NORMAL/{name}").patient == patient


@pytest.mark.parametrize("pattern", [r"_(\d+)_", r"_(?P<patient>\d+)_", r"(?<=_)\d+(?=_)"])
def test_a_pattern_of_the_callers_finds_the_patient(tmp_path: Path, pattern: str) -> None:
    samples.write(tmp_path, "A/a_17_1.png", "A/a_18_1.png", "B/b_17_1.png", "B/b_19_1.png")
    data = dataset.read(tmp_path, said=Whose(pattern=pattern), positive="B")
    assert [film.patient for film in data.films] == ["17", "18", "17", "19"]


def test_a_pattern_that_is_no_regular_expression_is_named() -> None:
    with pytest.raises(DatasetError, match="no regular expression"):
        Whose(pattern="(")


def test_classes_are_numbered_in_the_order_of_their_names(tmp_path: Path) -> None:
    samples.write(tmp_path, "b/1.png", "b/2.png", "Z/3.png", "Z/4.png", "a/5.png", "a/6.png")
    data = dataset.read(tmp_path, positive="a")
    assert data.labels == ("Z", "a", "b")
    assert (data.positive, data.positive_index) == ("a", 1)
    assert {film.path[0]: film.label for film in data.films} == {"Z": 0, "a": 1, "b": 2}


@pytest.mark.parametrize("seed", range(5))
def test_a_patient_never_sits_on_both_sides(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    names = [
        f"{draw.choice(['NORMAL', 'PNEUMONIA'])}/person{draw.randrange(60)}_x_{i}.jpeg"
        for i in range(200)
    ]
    samples.write(tmp_path, *names)
    data = dataset.read(tmp_path, seed=seed)
    sides = patients_by_split(data)
    assert not sides["train"] & sides["val"]
    assert all(data.count(split)[name] for split in sides for name in data.labels)
    for name in data.labels:
        share = data.count("val")[name] / sum(name in film.path for film in data.films)
        assert 0.08 < share < 0.35


def test_films_of_equal_content_share_a_patient_whatever_their_names(tmp_path: Path) -> None:
    samples.fill(tmp_path, patients=20)
    for number in range(19):  # each patient's second film again, as a film of the next one
        theirs = tmp_path / "NORMAL" / f"patient{number:04}_1.jpeg"
        (tmp_path / "NORMAL" / f"patient{number + 1:04}_9.jpeg").write_bytes(theirs.read_bytes())
    samples.write(tmp_path, "NORMAL/other1.png", "NORMAL/other2.png")
    data = dataset.read(tmp_path)
    normal = {film.patient for film in data.films if "NORMAL/patient" in film.path}
    assert normal == {"patient0000"}
    sides = patients_by_split(data)
    assert not sides["train"] & sides["val"]


def test_a_growing_folder_keeps_its_patients_where_they_were(tmp_path: Path) -> None:
    samples.fill(tmp_path, patients=100, films=1)
    before = patients_by_split(dataset.read(tmp_path))
    for number in range(10):
        samples.write(tmp_path, f"NORMAL/new{number}.png", f"PNEUMONIA/also{number}.png")
    after = patients_by_split(dataset.read(tmp_path))
    assert len(before["val"] - after["val"]) <= 2
    assert len(before["train"] - after["train"]) <= 4


def test_another_seed_holds_out_other_patients(tmp_path: Path) -> None:
    samples.fill(tmp_path, patients=40, films=1)
    held_out = [patients_by_split(dataset.read(tmp_path, seed=seed))["val"] for seed in (0, 0, 1)]
    assert held_out[0] == held_out[1] != held_out[2]


def test_a_small_val_folder_does_not_choose_the_model(tmp_path: Path) -> None:
    samples.fill(tmp_path / "train", patients=30)
    samples.write(tmp_path / "val", "NORMAL/a.png", "PNEUMONIA/b.png")
    data = dataset.read(tmp_path)
    assert "val/ does not choose the model because it has 2 films, fewer than 100" in data.notes[1]
    assert sum(data.count("val").values()) >= 12
    assert sum(film.path.startswith("val/") for film in data.films) == 2


def test_a_large_val_folder_of_other_patients_chooses_the_model_as_it_is(tmp_path: Path) -> None:
    samples.fill(tmp_path / "train", patients=10)
    for number in range(60):
        samples.write(tmp_path / "val", f"NORMAL/n{number}.png", f"PNEUMONIA/p{number}.png")
    data = dataset.read(tmp_path)
    assert {film.path.split("/")[0] for film in data.of("val")} == {"val"}
    assert data.count("val") == {"NORMAL": 60, "PNEUMONIA": 60}

    shared = tmp_path / "train" / "NORMAL" / "again.jpeg"
    shared.write_bytes((tmp_path / "val" / "NORMAL" / "n0.png").read_bytes())
    data = dataset.read(tmp_path)
    assert "1 of its patients are in train/ too" in data.notes[0]
    sides = patients_by_split(data)
    assert not sides["train"] & sides["val"]


def test_a_lopsided_val_folder_does_not_choose_the_model(tmp_path: Path) -> None:
    samples.fill(tmp_path / "train", patients=10)
    samples.write(tmp_path / "val", *(f"PNEUMONIA/p{n}.png" for n in range(100)))
    assert "0 films of NORMAL, fewer than 20" in dataset.read(tmp_path).notes[1]


def test_test_films_are_listed_and_never_trained_on(tmp_path: Path) -> None:
    samples.fill(tmp_path / "train", patients=10)
    samples.write(tmp_path / "test", "NORMAL/t1.png", "PNEUMONIA/t2.png")
    leaked = tmp_path / "test" / "NORMAL" / "leak.jpeg"
    leaked.write_bytes((tmp_path / "train" / "NORMAL" / "patient0003_0.jpeg").read_bytes())
    data = dataset.read(tmp_path)
    assert [film.path for film in data.of("test")] == [
        "test/NORMAL/leak.jpeg",
        "test/NORMAL/t1.png",
        "test/PNEUMONIA/t2.png",
    ]
    assert any("1 films of test/ are in the training folders too" in note for note in data.notes)


def test_content_that_lies_in_two_classes_is_left_out(tmp_path: Path) -> None:
    samples.fill(tmp_path, patients=5)
    twice = samples.film(1)
    (tmp_path / "NORMAL" / "twice.jpeg").write_bytes(twice)
    (tmp_path / "PNEUMONIA" / "twice.jpeg").write_bytes(twice)
    data = dataset.read(tmp_path)
    gone = ["NORMAL/patient0000_1.jpeg", "NORMAL/twice.jpeg", "PNEUMONIA/twice.jpeg"]
    assert [(f.path, f.code) for f in data.left_out] == [(path, "two_labels") for path in gone]
    assert not {film.path for film in data.films} & set(gone)
    assert "same content lies in two classes" in data.notes[0]


def test_clutter_of_desktop_systems_is_no_film(tmp_path: Path) -> None:
    samples.fill(tmp_path, patients=3)
    for name in ("NORMAL/.DS_Store", "NORMAL/Thumbs.db", "__MACOSX/x.jpeg", ".git/config"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert len(dataset.read(tmp_path).films) == 12


def test_the_hash_follows_content_names_labels_and_split_but_not_the_place(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    samples.fill(here, patients=6)
    samples.fill(there, patients=6)
    data = dataset.read(here)
    assert dataset.read(there).hash == data.hash
    assert dataset.read(here, seed=1).hash != data.hash
    film = there / "NORMAL" / "patient0003_0.jpeg"
    film.rename(film.with_name("patient0003_7.jpeg"))
    assert dataset.read(there).hash != data.hash
    (here / "NORMAL" / "patient0003_0.jpeg").write_bytes(samples.film(99))
    assert dataset.read(here).hash != data.hash


def test_the_manifest_is_a_csv_of_every_film(tmp_path: Path) -> None:
    samples.fill(tmp_path / "films", patients=3)
    data = dataset.read(tmp_path / "films")
    data.write_csv(tmp_path / "manifest.csv")
    with (tmp_path / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [film.path for film in data.films]
    assert rows[0] == {
        "path": "NORMAL/patient0000_0.jpeg",
        "label": "NORMAL",
        "patient": "patient0000",
        "sha256": data.films[0].sha256,
        "split": data.films[0].split,
    }
    assert sorted(p.name for p in tmp_path.iterdir()) == ["films", "manifest.csv"]


def test_labels_txt_may_say_what_the_folders_say(tmp_path: Path) -> None:
    samples.fill(tmp_path, patients=3)
    (tmp_path / "labels.txt").write_bytes(b"NORMAL\r\nPNEUMONIA\r\n\r\n")
    assert dataset.read(tmp_path).labels == ("NORMAL", "PNEUMONIA")


@pytest.mark.parametrize("lines", ["PNEUMONIA\nNORMAL\n", "NORMAL\n", "NORMAL\nPNEUMONIA\nTB\n"])
def test_labels_txt_that_disagrees_with_the_folders_is_refused(tmp_path: Path, lines: str) -> None:
    samples.fill(tmp_path, patients=3)
    (tmp_path / "labels.txt").write_text(lines)
    with pytest.raises(DatasetError, match=r"correct labels\.txt or remove it"):
        dataset.read(tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no class folders"),
        (["NORMAL/1.png", "NORMAL/2.png"], "only the class NORMAL"),
        (["A/1.png", "A/2.png", "B/patient3_1.png", "B/patient3_2.png"], "of one patient"),
        (["A/1.png", "A/2.png", "B/.hidden"], "class B .* has no readable films"),
        (["A/.hidden", "B/.hidden"], "holds no films"),
        (["chest/train/A/1.png", "chest/train/B/1.png", "other/1.png"], "did you mean .*chest"),
        (["val/A/1.png", "val/B/1.png"], "no train/"),
        (["train/A/1.png", "train/B/1.png", "C/1.png"], "both train/ and C"),
        (["train/A/1.png", "train/B/1.png", "val/a/1.png"], "has folders that train/ lacks: a"),
        (
            ["A/p1_.png", "A/p2_.png", "B/p2_.png", "B/p3_.png", "C/p3_.png", "C/p1_.png"],
            "cannot be split",
        ),
    ],
)
def test_a_folder_that_cannot_be_trained_on_is_refused_by_name(
    tmp_path: Path, names: list[str], message: str
) -> None:
    samples.write(tmp_path, *names)
    with pytest.raises(DatasetError, match=message):
        dataset.read(tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="not a folder"):
        dataset.read(tmp_path / "nowhere")


def test_nothing_that_reads_films_or_judges_scores_imports_torch() -> None:
    modules = "trainer.card, trainer.data.dataset, trainer.data.cache, trainer.judging.metrics"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_real_films_of_twenty_patients_are_divided_by_patient() -> None:
    data = dataset.read(films.FOLDER)
    sides = patients_by_split(data)
    assert data.labels == ("NORMAL", "PNEUMONIA")
    assert len(data.films) == 20
    assert len(sides["train"] | sides["val"]) == 20
    assert not sides["train"] & sides["val"]
    assert {"person14", "im0402"} <= sides["train"] | sides["val"]


@pytest.mark.skipif(not KERMANY.is_dir(), reason="needs ../shared/data/kermany_224")
def test_the_public_paediatric_set_is_split_by_patient() -> None:
    data = dataset.read(KERMANY)
    sides = patients_by_split(data)
    assert data.labels == ("NORMAL", "PNEUMONIA")
    assert len(data.films) == 5232
    assert "it has 16 films" in data.notes[0]
    assert not sides["train"] & sides["val"]
    for name, n in data.count("val").items():
        assert 0.1 < n / (n + data.count("train")[name]) < 0.15
