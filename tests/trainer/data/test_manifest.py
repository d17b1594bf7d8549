"""Films from manifests, from several sources, and with corrected labels."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.trainer import samples
from trainer.data import dataset
from trainer.errors import DatasetError


def snapshot(folder: Path, patients: int = 6) -> tuple[dataset.Dataset, Path]:
    """A dataset, and its manifest among its films."""
    samples.fill(folder, patients=patients)
    data = dataset.read(folder)
    data.write_csv(folder / "manifest.csv")
    return data, folder / "manifest.csv"


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def split_of(data: dataset.Dataset) -> dict[str, str]:
    return {film.path: film.split for film in data.films}


def test_a_manifest_brings_back_the_dataset_that_wrote_it(tmp_path: Path) -> None:
    data, manifest = snapshot(tmp_path / "films")
    again = dataset.read(manifest, seed=99)
    assert again.hash == data.hash
    assert again.films == data.films
    assert (
        again.notes[-1]
        == f"The {len(data.of('val'))} films of the manifest choose the model, as they are."
    )


def test_a_manifest_may_name_films_anywhere(tmp_path: Path) -> None:
    data, _ = snapshot(tmp_path / "films")
    lines = ["path,label,split"]
    for film in data.films:
        path = tmp_path / "films" / film.path
        path = path if film.label else Path("../films") / film.path
        lines.append(f"{path},{data.labels[film.label]},{film.split}")
    (tmp_path / "lists").mkdir()
    again = dataset.read(write(tmp_path / "lists" / "mine.csv", *lines))
    assert sorted(f.sha256 for f in again.films) == sorted(f.sha256 for f in data.films)
    assert [f.patient for f in again.films if f.split == "val"] == [
        f.patient for f in data.films if f.split == "val"
    ]
    assert all((again.root / film.path).is_file() for film in again.films)


def test_a_film_that_is_not_what_its_manifest_says_is_an_error(tmp_path: Path) -> None:
    _, manifest = snapshot(tmp_path / "films")
    film = tmp_path / "films" / "NORMAL" / "patient0001_0.jpeg"
    before = film.read_bytes()
    film.write_bytes(samples.film(77))
    with pytest.raises(DatasetError, match=r"1 of 24 films are not what .*0001_0.jpeg changed"):
        dataset.read(manifest)
    film.unlink()
    with pytest.raises(DatasetError, match=r"0001_0.jpeg cannot be opened"):
        dataset.read(manifest)
    film.write_bytes(before)
    dataset.read(manifest)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["file,label"], "no column path"),
        (["path,label", "a.png"], "line 2: 1 fields where the header has 2"),
        (["path,label", "a.png,A", "a.png,B"], "names .*a.png twice"),
        (["path,label", "a.png,A", "b.png,A"], "only the class A"),
        (["path,label,split", "a.png,A,dev"], "the split 'dev' is none of"),
        (["path,label", ",A"], "the path is empty"),
        (["path,label", "a.png,"], "names no films"),
        (["path,label", '"a.png,A'], "is no CSV"),
    ],
)
def test_a_manifest_that_is_none_is_refused_by_line(
    tmp_path: Path, lines: list[str], message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        dataset.read(write(tmp_path / "m.csv", *lines))


def test_a_path_that_no_file_can_have_is_no_bug(tmp_path: Path) -> None:
    samples.fill(tmp_path / "films", patients=3)
    names = [p.relative_to(tmp_path) for p in tmp_path.glob("films/*/*.jpeg")]
    lines = ["path,label", "odd\0.jpeg,NORMAL", *(f"{n},{n.parent.name}" for n in names)]
    try:
        data = dataset.read(write(tmp_path / "m.csv", *lines))
    except DatasetError as error:
        assert "is no CSV" in str(error)  # Python 3.10
    else:
        assert [file.reason[-28:] for file in data.left_out] == ["no file can have such a name"]


def test_a_folder_may_be_named_like_a_manifest(tmp_path: Path) -> None:
    samples.fill(tmp_path / "films.csv", patients=3)
    assert len(dataset.read(tmp_path / "films.csv").films) == 12


def test_semicolons_of_a_spreadsheet_and_lines_without_a_label_are_understood(
    tmp_path: Path,
) -> None:
    samples.fill(tmp_path, patients=3)
    lines = ["path;label"] + [
        f"{p.relative_to(tmp_path)};{p.parent.name}" for p in tmp_path.glob("*/*.jpeg")
    ]
    lines[1] = lines[1].partition(";")[0] + ";"
    data = dataset.read(write(tmp_path / "m.csv", *lines))
    assert len(data.films) == 11
    assert data.notes[0] == "1 lines of a manifest have no label and are skipped."


def test_columns_that_are_not_read_are_named(tmp_path: Path) -> None:
    samples.fill(tmp_path, patients=3)
    films = [p.relative_to(tmp_path) for p in sorted(tmp_path.glob("*/*.jpeg"))]
    lines = [f"{film},{film.parent.name},7,test," for film in films]
    read = dataset.read(write(tmp_path / "m.csv", "path,label,patient_id,Dataset,slice", *lines))
    (said,) = [note for note in read.notes if "not read" in note]
    assert "patient_id, dataset; those that are read are called path, label, patient" in said
    read.write_csv(tmp_path / "again.csv")
    again = dataset.read(tmp_path / "again.csv")
    assert not [note for note in again.notes if "not read" in note]


def test_a_later_source_adds_films_and_corrects_those_that_are_there(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    samples.fill(old, patients=10)
    wrong = old / "NORMAL" / "patient0003_0.jpeg"
    (new / "PNEUMONIA").mkdir(parents=True)
    (new / "PNEUMONIA" / "reviewed.jpeg").write_bytes(wrong.read_bytes())
    (new / "PNEUMONIA" / "another.jpeg").write_bytes(samples.film(4711))
    data = dataset.read([old, new])
    labels = {film.path: data.labels[film.label] for film in data.films}
    assert data.root == tmp_path
    assert len(labels) == 41
    assert labels["old/NORMAL/patient0003_0.jpeg"] == "PNEUMONIA"
    assert labels["new/PNEUMONIA/another.jpeg"] == "PNEUMONIA"
    assert not data.left_out
    assert (
        data.notes[0]
        == "1 films of a later source are there already; 1 get the label that it gives them."
    )
    assert data.hash != dataset.read(old).hash


def test_a_source_that_contradicts_itself_corrects_nothing(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    samples.fill(old, patients=10)
    film = (old / "NORMAL" / "patient0003_0.jpeg").read_bytes()
    for name in ("NORMAL", "PNEUMONIA"):
        (new / name).mkdir(parents=True)
        (new / name / "x.jpeg").write_bytes(film)
    assert [f.code for f in dataset.read([old, new]).left_out] == 3 * ["two_labels"]


def test_added_films_go_to_the_side_where_their_patient_is(tmp_path: Path) -> None:
    data, manifest = snapshot(tmp_path / "films", patients=20)
    new = tmp_path / "new"
    for film in data.films:
        name = film.path.replace("_0.jpeg", "_7.jpeg")
        if name != film.path:
            samples.write(new, name)
    both = dataset.read([manifest, new])
    side = {film.patient: film.split for film in data.films}
    assert len(both.films) == 120
    assert all(film.split == side[film.patient] for film in both.films)


def test_a_class_that_the_first_source_lacks_is_refused(tmp_path: Path) -> None:
    samples.fill(tmp_path / "old", patients=3)
    samples.write(tmp_path / "new", "Normal/1.png")
    with pytest.raises(DatasetError, match="new has folders of no known class: Normal; give"):
        dataset.read([tmp_path / "old", tmp_path / "new"])
    listing = write(tmp_path / "m.csv", "path,label", "new/Normal/1.png,Normal")
    with pytest.raises(DatasetError, match="has labels of no known class: Normal; the classes are"):
        dataset.read([tmp_path / "old", listing])


def test_films_that_were_set_apart_are_no_class_and_said(tmp_path: Path) -> None:
    samples.fill(tmp_path, patients=3)
    samples.write(tmp_path, "_unusual/1.png")
    data = dataset.read(tmp_path)
    assert len(data.films) == 12
    assert data.notes[0] == "1 folders are skipped: their names begin with _."


def test_a_csv_corrects_labels_by_path_and_by_content(tmp_path: Path) -> None:
    films = tmp_path / "films"
    samples.fill(films, patients=10)
    before = {film.path: film for film in dataset.read(films).films}
    copy = films / "NORMAL" / "copy.jpeg"
    copy.write_bytes((films / "NORMAL" / "patient0001_0.jpeg").read_bytes())
    table = write(
        tmp_path / "fixed.csv",
        "path,sha256,label",
        "NORMAL/patient0001_0.jpeg,,PNEUMONIA",
        f",{before['NORMAL/patient0002_0.jpeg'].sha256.upper()},PNEUMONIA",
        f"{films}/PNEUMONIA/patient5001_0.jpeg,,NORMAL",
        "films/PNEUMONIA/patient5002_0.jpeg,,NORMAL",
        "NORMAL/patient0003_0.jpeg,,",
    )
    data = dataset.read(films, corrections=table)
    changed = {f.path for f in data.films if not f.path.startswith(data.labels[f.label])}
    assert changed == {
        "NORMAL/copy.jpeg",
        "NORMAL/patient0001_0.jpeg",
        "NORMAL/patient0002_0.jpeg",
        "PNEUMONIA/patient5001_0.jpeg",
        "PNEUMONIA/patient5002_0.jpeg",
    }
    assert data.notes[0] == "The corrections give 5 films another label."
    assert data.hash != dataset.read(films).hash


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("NORMAL/absent.jpeg,PNEUMONIA", "absent.jpeg is no film of"),
        ("NORMAL/patient0001_0.jpeg,TB", "'TB' is none of NORMAL, PNEUMONIA"),
        ("NORMAL/patient0001_0.jpeg,", "gives no film a label"),
        (",NORMAL", "give the film's path or its sha256"),
    ],
)
def test_a_correction_that_corrects_nothing_is_refused_by_line(
    tmp_path: Path, line: str, message: str
) -> None:
    samples.fill(tmp_path / "films", patients=3)
    table = write(tmp_path / "fixed.csv", "path,label", line)
    with pytest.raises(DatasetError, match=message):
        dataset.read(tmp_path / "films", corrections=table)


def test_two_corrections_of_one_film_must_agree(tmp_path: Path) -> None:
    samples.fill(tmp_path, patients=3)
    name = "NORMAL/patient0001_0.jpeg"
    table = write(tmp_path / "fixed.csv", "path,label", f"{name},PNEUMONIA", f"{name},NORMAL")
    with pytest.raises(DatasetError, match="line 3: the film has another label in line 2"):
        dataset.read(tmp_path, corrections=table)


def test_a_manifest_keeps_names_that_are_no_utf_8(tmp_path: Path) -> None:
    films = tmp_path / "films"
    samples.fill(films, patients=3)
    odd = films / "NORMAL" / b"caf\xe9, 1.jpeg".decode("utf-8", "surrogateescape")
    odd.write_bytes(samples.film(5))
    data = dataset.read(films)
    data.write_csv(films / "manifest.csv")
    assert dataset.read(films / "manifest.csv").hash == data.hash
    with (films / "manifest.csv").open(errors="surrogateescape", newline="") as file:
        assert len(list(csv.DictReader(file))) == 13
