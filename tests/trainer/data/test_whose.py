"""Whose film it is: planted leaks, known layouts, tags, and what is said of what is not known."""

from __future__ import annotations

import random
from collections import defaultdict
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support import hostile
from tests.trainer import samples
from trainer.checking import checkup, division
from trainer.data import dataset, gathering, names, whose
from trainer.data.dataset import Dataset
from trainer.data.labelled import FIRST_NAMING, SECOND_NAMING
from trainer.data.names import Names
from trainer.data.whose import Whose
from trainer.errors import DatasetError

CLASSES = ("NORMAL", "PNEUMONIA")
PATIENTS = 60

OF_BEFORE = Whose(naming=FIRST_NAMING)
OF_SECOND = Whose(naming=SECOND_NAMING)


def uid(*numbers: int) -> str:
    return ".".join(map(str, (1, 2, 840, 113619, *numbers)))


def dicomdir(patient: int, n: int) -> str:
    return f"PA{patient:06}/ST{n // 2:06}/SE000000/IM{n % 2:06}.png"


def folder(patient: int, n: int) -> str:
    return f"{1700 + 13 * patient}/{'ab'[n // 2]}/film {n}.jpg"


def mimic(patient: int, n: int) -> str:
    number = 10_000_000 + patient
    return f"p10/p{number}/s{50_000_000 + 10 * patient + n // 2}/02aa{patient:04}-{n:08}.jpg"


def bids(patient: int, n: int) -> str:
    who, when = f"sub-{patient:03}", f"ses-{n // 2}"
    return f"{who}/{when}/{who}_{when}_run-{n}_cxr.png"


def uids(patient: int, n: int) -> str:
    return f"{uid(patient, n // 2)}/{uid(patient, n // 2, 1)}/{uid(patient, n // 2, 1, n)}"


def instances(patient: int, n: int) -> str:
    return uid(patient, n // 2, 1, n) + ".dcm"


def plant(root: Path, layout: Any, patients: int = PATIENTS, films: int = 4) -> dict[str, str]:
    """Films of these patients, of which a third changed class: path → patient."""
    draw = random.Random(str(root))
    truth = {}
    for patient in range(patients):
        for n in range(films):
            name = CLASSES[(patient + (patient % 3 == 0) * (n // 2)) % 2]
            path = root / name / layout(patient, n)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(draw.randbytes(40))
            truth[path.relative_to(root).as_posix()] = str(patient)
    return truth


def on_both_sides(data: Dataset, truth: dict[str, str]) -> int:
    """Patients of whom films are trained on, and others held out."""
    sides = defaultdict(set)
    for film in data.films:
        sides[truth[film.path]].add(film.split)
    return sum(len(splits) > 1 for splits in sides.values())


def split(root: Path, said: Whose = whose.BY_THEMSELVES) -> Dataset:
    gathered = gathering.gather([root], said=said)
    dataset.check_patients(gathered)
    return dataset.settle(gathered, val_fraction=0.25, seed=0, positive="PNEUMONIA")


@pytest.mark.parametrize("layout", [dicomdir, folder, mimic, bids])
def test_no_patient_of_a_known_layout_is_on_both_sides(tmp_path: Path, layout: Any) -> None:
    truth = plant(tmp_path, layout)
    assert on_both_sides(split(tmp_path, OF_BEFORE), truth) > PATIENTS / 4, "it leaks without"
    data = split(tmp_path)
    assert on_both_sides(data, truth) == 0
    assert len({film.patient for film in data.films}) == PATIENTS
    assert data.patients == ("folders" if layout is folder else "known")
    said = [note for note in data.notes if "Each folder below a class is taken for a" in note]
    assert len(said) == (layout is folder)


@pytest.mark.parametrize("layout", [uids, instances, dicomdir])
def test_training_stops_where_names_prove_that_patients_are_not_known(
    tmp_path: Path, layout: Any
) -> None:
    def without_patient(patient: int, n: int) -> str:
        path = layout(patient, n)
        return path if layout is not dicomdir else f"{path.partition('/')[2]}.{patient}x"

    truth = plant(tmp_path, without_patient)
    assert on_both_sides(split(tmp_path, OF_BEFORE), truth) > 0
    for ask in (dataset.read, lambda root: division.divide([root])):
        with pytest.raises(
            DatasetError, match=r"whose they are is not known of 240 films that are"
        ):
            ask(tmp_path)
    found = checkup.check([tmp_path])
    assert {"patients_unknown"} <= {one.code for one in found.findings if one.level == "bad"}
    # What the message offers ends it.
    assert split(tmp_path, Whose(pattern=".+")).patients == "known"


def test_a_uid_s_last_number_is_no_suffix(tmp_path: Path) -> None:
    samples.write(tmp_path, *(f"NORMAL/{uid(n, 7)}" for n in (1, 2)), f"NORMAL/{uid(3, 7)}.dcm")
    samples.write(tmp_path, "PNEUMONIA/a.b.png", "PNEUMONIA/c.png")
    said = Whose(pattern=r"(?P<patient>\d+\.7|\w+\.?b?)$")
    found = {film.patient for film in gathering.gather([tmp_path], said=said).films}
    assert found == {"1.7", "2.7", "3.7", "a.b", "c"}
    found = {film.patient for film in gathering.gather([tmp_path], said=OF_BEFORE).films}
    assert found == {uid(1), uid(2), uid(3, 7), "a.b", "c"}, "as it was"


def test_folders_that_lie_under_several_classes_and_are_too_large_for_a_patient_are_asked_about(
    tmp_path: Path,
) -> None:
    for name in CLASSES:
        for ward in ("north", "south", "east", "west", "mill", "hill"):
            (tmp_path / name / ward).mkdir(parents=True)
            for n in range(35):
                (tmp_path / name / ward / f"{n}.png").write_bytes(f"{name}{ward}{n}".encode())
    with pytest.raises(DatasetError, match="in folders of the same names under several classes"):
        split(tmp_path)
    assert split(tmp_path, Whose(pattern=".+")).patients == "known"


@pytest.mark.parametrize("inside", ["", "frontal/", "2021-03-04/", "images_001/"])
def test_a_plain_folder_of_one_film_per_patient_trains_as_before_and_it_is_said(
    tmp_path: Path, inside: str
) -> None:
    plant(tmp_path, lambda patient, n: f"{inside}scan {patient}.png", films=1)
    before, data = split(tmp_path, OF_BEFORE), split(tmp_path)
    assert [(f.path, f.patient, f.split) for f in data.films] == [
        (f.path, f.patient, f.split) for f in before.films
    ]
    assert (before.patients, data.patients) == ("", "unknown")
    (said,) = [note for note in data.notes if note.startswith("patients: unknown, ")]
    assert "nothing says whose 60 of 60 films are: " in said
    assert "intervals too narrow" in said
    assert "--patient-pattern REGEX" in said
    assert not any("patients: unknown" in note for note in before.notes)


def test_check_doubts_films_of_whom_nothing_is_known_and_a_division_does_not_hide_it(
    tmp_path: Path,
) -> None:
    samples.write(tmp_path / "films", *(f"{c}/scan {n}.jpeg" for n in range(60) for c in CLASSES))
    found = checkup.check([tmp_path / "films"])
    assert found.patients_are == "unknown"
    assert [f.level for f in found.findings if "patients: unknown" in f.text] == ["doubt"]
    divided = division.divide([tmp_path / "films"]).data
    division.write_manifest(divided, tmp_path / "divided.csv")
    again = dataset.read(tmp_path / "divided.csv")
    assert again.patients == "unknown"
    assert {(f.sha256, f.split) for f in again.films} == {
        (f.sha256, f.split) for f in divided.films
    }


def test_what_a_known_layout_s_patient_is(tmp_path: Path) -> None:
    for name, patient in (
        ("cd7/PA000003/ST000000/SE000001/IM000002", "cd7/PA000003"),
        ("DICOM/PA3/ST0/SE1/IM2.png", "DICOM/PA3"),
        ("sub-S03047_ses-E07910_run-1_bp-chest_vp-pa_cr.png", "sub-S03047"),
        ("p10/p10000032/s50414267/02aa804e-bde0afdd.jpg", "p10000032"),
        ("p10000032_s50414267_02aa804e.jpg", "p10000032"),
        ("patient00007/study1/view1_frontal.jpg", "patient00007"),
        ("Case 12/view 1.png", "case12"),
        ("person123_bacteria_456.jpeg", "person123"),
        ("IM-0115-0001.jpeg", "im0115"),
        ("NORMAL2-IM-0115-0001-0002.jpeg", "im0115"),
        ("images/IM-0115-0001.jpeg", "im0115"),
        ("00000013_005.png", "00000013"),
        ("CHNCXR_0327_1.png", "CHNCXR_0327"),
        ("MCUCXR_0001_0.png", "MCUCXR_0001"),
    ):
        samples.write(tmp_path / name.replace("/", "_"), f"NORMAL/{name}", "SICK/z.png")
        films = gathering.gather([tmp_path / name.replace("/", "_")]).films
        film = next(film for film in films if film.path.startswith("NORMAL"))
        assert (film.patient, film.known_by) == (patient, whose.NAME), name


@pytest.mark.parametrize(
    "name",
    [
        "0a0c32c9e08cc2ea76a71649de56be6d.png",  # VinDr-CXR
        "216840111366964012558082906712009327122220177_00-102-064.png",  # PadChest
        "0004cfab-14fd-4e49-80ba-63a80b6bddd6.png",  # RSNA
        "IM000012.txt.png", "him-7-1.png", "film 00000013_005 copy.png", "normality.png",
    ],
)  # fmt: skip
def test_a_name_that_says_no_patient_is_taken_for_none(tmp_path: Path, name: str) -> None:
    samples.write(tmp_path, f"NORMAL/{name}", "SICK/z.png")
    film = next(f for f in gathering.gather([tmp_path]).films if f.path.startswith("NORMAL"))
    assert (film.patient, film.known_by) == (Path(name).stem, "")


def test_a_pattern_that_matches_no_film_is_an_error_that_shows_one(tmp_path: Path) -> None:
    samples.write(tmp_path, "A/ward_17.png", "A/x_18.png", "B/x_17_1.png", "B/b_19_1.png")
    with pytest.raises(DatasetError, match=r"matches none of 4 films.*example in ward_17") as error:
        dataset.read(tmp_path, said=Whose(pattern=r"mrn(\d+)"), positive="B")
    assert "ward" not in error.value.shareable
    some = dataset.read(tmp_path, said=Whose(pattern=r"_(\d+)_"), positive="B")
    assert some.patients == "unknown"
    assert any("whose 2 of 4 films" in note for note in some.notes)
    assert dataset.read(tmp_path, said=Whose(naming=1, pattern=r"mrn(\d+)"), positive="B")


def test_the_same_patient_in_test_and_in_training_is_said(tmp_path: Path) -> None:
    for part, first in (("train", 0), ("test", 20)):
        plant(tmp_path / part, lambda p, n, first=first: mimic(first + p, n), patients=30)
    said = [note for note in dataset.read(tmp_path).notes if "10 patients have films both" in note]
    assert len(said) == 1
    assert "do not judge a model by test/" in said[0]


def test_a_viewer_s_names_in_folders_of_patients_are_no_patients(tmp_path: Path) -> None:
    truth = plant(tmp_path, lambda patient, n: f"smith{patient}/IM-0001-000{n}.jpg")
    data = split(tmp_path)
    assert (data.patients, on_both_sides(data, truth)) == ("folders", 0)
    assert len({film.patient for film in data.films}) == PATIENTS


def by_day(shape: str, first: date = date(2023, 11, 6)) -> Any:
    """Names by the day of a film and its number on that day; patients come again."""

    def name(patient: int, n: int) -> str:
        day = first + timedelta(days=patient // 3 + 40 * n)
        return shape.format(day=f"{day:%Y%m%d}", n=patient % 3 + 1)

    return name


@pytest.mark.parametrize(
    "shape",
    [
        "{day}_{n:03}.png", "p{day}_{n}.png", "case_{day}-{n}.png", "sub-{day}_{n}.png",
        "{n}/PA{day}/ST000000/IM{n:06}.dcm", "IM-{day}-{n:04}.jpeg", "on {day}/{n}.png",
    ],
)  # fmt: skip
def test_a_name_by_the_day_of_a_film_says_no_patient(tmp_path: Path, shape: str) -> None:
    truth = plant(tmp_path, by_day(shape))
    before = split(tmp_path, OF_SECOND)
    assert before.patients in ("known", "folders"), "as it was"
    assert on_both_sides(before, truth) > 0
    found = gathering.gather([tmp_path]).films
    assert not {film.known_by for film in found} & whose.KNOWN
    assert whose.state(found) == "unknown"


@pytest.mark.parametrize("shape", ["{:08}_{:03}.png", "p{:08}_s{}.png", "case {:08} {}.png"])
def test_numbers_of_which_some_could_be_days_are_patients(tmp_path: Path, shape: str) -> None:
    truth = plant(tmp_path, lambda patient, n: shape.format(19980101 + 4 * patient, n))
    data = split(tmp_path)
    assert (data.patients, on_both_sides(data, truth)) == ("known", 0)


def listing(root: Path, patient_of: dict[str, str]) -> Path:
    """A manifest of the films of some paths, with these patients."""
    lines = [f"{path},{path.split('/')[0]},{who}" for path, who in patient_of.items()]
    (root / "m.csv").write_text("\n".join(["path,label,patient", *lines]))
    return root / "m.csv"


@pytest.mark.parametrize("word", ["NA", "n/a", "nan", "Unknown", "-", "anonymous", ""])
def test_a_word_that_stands_for_nobody_is_no_patient_in_a_manifest(
    tmp_path: Path, word: str
) -> None:
    truth = plant(tmp_path, lambda patient, n: f"scan {patient} {n}.png")
    said = {path: word if int(who) % 3 else f"A{who}" for path, who in truth.items()}
    found = gathering.gather([listing(tmp_path, said)])
    assert {f.known_by for f in found.films if said[f.path] == word} == {""}
    data = split(listing(tmp_path, said))
    assert data.patients == "unknown"
    assert any("whose 160 of 240 films are" in note for note in data.notes)
    before = split(listing(tmp_path, said), OF_SECOND)
    assert before.patients == ("known" if word else "unknown"), "as it was"


def test_of_a_word_for_nobody_the_name_says_whose_a_film_is(tmp_path: Path) -> None:
    truth = plant(tmp_path, mimic)
    data = split(listing(tmp_path, dict.fromkeys(truth, "NA")))
    assert (data.patients, on_both_sides(data, truth)) == ("known", 0)


def test_patients_who_are_counted_from_0_or_called_anonymous_by_number_are_patients(
    tmp_path: Path,
) -> None:
    truth = plant(tmp_path, lambda patient, n: f"scan {patient} {n}.png")
    for called in ("{}", "anon{}", "anonymous {:03}"):
        said = {path: called.format(int(who)) for path, who in truth.items()}
        data = split(listing(tmp_path, said))
        assert (data.patients, on_both_sides(data, truth)) == ("known", 0)


@pytest.mark.parametrize("pattern", [r"^([^/]+)/", None])
def test_a_word_for_nobody_is_no_patient_as_a_pattern_s_group_or_a_folder(
    tmp_path: Path, pattern: str | None
) -> None:
    def wards(patient: int, n: int) -> str:
        return f"{f'mrn{patient}x' if patient % 3 else 'unknown'}/film {patient} {n}.png"

    plant(tmp_path, wards, patients=PATIENTS // 2, films=2)
    data = split(tmp_path, Whose(pattern=pattern))
    nobody = [film for film in data.films if "/unknown/" in film.path]
    assert {film.known_by for film in nobody} == {""}
    assert len({film.patient for film in nobody}) == len(nobody) == 20
    assert data.patients == "unknown"
    before = split(tmp_path, Whose(pattern=pattern, naming=SECOND_NAMING))
    assert len({film.patient for film in before.films if "/unknown/" in film.path}) == 1


def test_a_pattern_that_matches_no_film_of_a_manifest_of_nobody_shows_one(tmp_path: Path) -> None:
    truth = plant(tmp_path, mimic, patients=4)
    manifest = listing(tmp_path, dict.fromkeys(truth, "NA"))
    with pytest.raises(DatasetError, match="for example in p10/p10000000/"):
        split(manifest, Whose(pattern=r"mrn(\d+)"))


# DICOM's tags.


def film(root: Path, name: str, **tags: Any) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(hostile.dicom(**tags))


def keyed(key: bytes, **changes: Any) -> Whose:
    return Whose(key=lambda: key, **changes)


def test_dicom_s_patient_id_says_whose_a_film_is_and_stands_nowhere(tmp_path: Path) -> None:
    for n in range(24):
        who = {"PatientID": f"MRN {n // 4}", "IssuerOfPatientID": "ward"}
        film(tmp_path, f"{CLASSES[n // 4 % 2]}/{uid(n)}", **who, StudyInstanceUID=uid(n, 1))
    data = split(tmp_path, keyed(b"a key"))
    assert data.patients == "known"
    assert len({film.patient for film in data.films}) == 6
    sides = defaultdict(set)
    for one in data.films:
        assert names.is_hidden(one.patient)
        sides[one.patient].add(one.split)
    assert all(len(splits) == 1 for splits in sides.values())
    expected = names.hashed(b"a key", "patient", "MRN 0\\ward")
    assert {film.patient for film in data.films} > {expected}
    # As it is kept it stays, and there is nothing that could be kept of what it stands for.
    kept = Names(key=b"a key")
    assert {film.patient for film in kept.of(data.films)} == {film.patient for film in data.films}
    assert not any("MRN" in name for name in kept.made.values())
    other = split(tmp_path, keyed(b"another"))
    assert not {film.patient for film in other.films} & {film.patient for film in data.films}


def test_films_of_one_patient_id_or_study_are_one_patient_s_whatever_else_is_said(
    tmp_path: Path,
) -> None:
    film(tmp_path, "NORMAL/a1.dcm", PatientID="7", StudyInstanceUID=uid(1))
    film(tmp_path, "NORMAL/b1.dcm", PatientID="7", StudyInstanceUID=uid(2))
    film(tmp_path, "NORMAL/c1.dcm", PatientID="", StudyInstanceUID=uid(3))
    film(tmp_path, "PNEUMONIA/d1.dcm", PatientID="ANONYMOUS", StudyInstanceUID=uid(3))
    film(tmp_path, "PNEUMONIA/e1.dcm", PatientID="8", StudyInstanceUID=uid(4))
    for said in (keyed(b"k"), keyed(b"k", pattern=r"^(\w)")):
        found = gathering.gather([tmp_path], said=said).films
        a, b, c, d, e = (film.patient for film in sorted(found, key=lambda f: f.path[-6:]))
        assert a == b != c == d != e != a


def test_one_identifier_that_most_films_have_is_nobody_s(tmp_path: Path) -> None:
    for n in range(24):
        who = "HOSPITAL" if n % 2 or n < 4 else f"MRN{n}"
        film(tmp_path, f"{CLASSES[n % 3 % 2]}/f{n}.dcm", PatientID=who, StudyInstanceUID=uid(n))
    data = split(tmp_path)
    assert len({film.patient for film in data.films}) == 24
    assert data.patients == "unknown"
    assert any("which 14 films have, is taken for nobody's" in note for note in data.notes)


def test_tags_that_cannot_be_read_are_none_and_are_no_trouble(tmp_path: Path) -> None:
    whole = hostile.dicom(PatientID="7")
    for n, data in enumerate((whole[:400], whole[:200] + b"\xff" * 300, whole[:132])):
        path = tmp_path / CLASSES[n % 2] / f"cut {n}.dcm"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    found = gathering.gather([tmp_path]).films
    assert [film.dicom for film in found] == [True] * 3
    assert {film.known_by for film in found} <= {"", whose.TAG}


def test_films_read_by_other_rules_are_another_dataset(tmp_path: Path) -> None:
    plant(tmp_path, mimic)
    pattern = Whose(pattern=r"s(\d{8})")  # by study
    manifests = [gathering.gather([tmp_path], said=said) for said in (Whose(), pattern, OF_BEFORE)]
    # The same split of the same films, of other patients.
    kept = [
        Dataset(root=tmp_path, labels=CLASSES, positive="PNEUMONIA", films=found.films)
        for found in manifests
    ]
    assert len({data.hash for data in kept}) == 3


def two_forms(root: Path, people: int, called: Any, tags: Any, also: str = "jpeg") -> None:
    """A DICOM film and another of each of some people."""
    for n in range(people):
        name = CLASSES[n % 2]
        film(root, f"{name}/{called(n)}_2.dcm", PatientID=tags(n), StudyInstanceUID=uid(n))
        samples.write(root, f"{name}/{called(n)}_1.{also}")


@pytest.mark.parametrize("key", [b"", b"a key"])
@pytest.mark.parametrize("called", ["person{}/x", "person{}", "Smith, {}/film"])
@pytest.mark.parametrize("tag", ["person{}", "MRN {}"])
def test_one_person_as_dicom_and_as_another_file_is_one_patient(
    tmp_path: Path, called: str, tag: str, key: bytes
) -> None:
    two_forms(tmp_path, 24, called.format, tag.format)
    before = gathering.gather([tmp_path], said=keyed(key, naming=SECOND_NAMING)).films
    assert len({film.patient for film in before}) == 48, "as it was"
    found = gathering.gather([tmp_path], said=keyed(key)).films
    people: dict[str, set[bool]] = {film.patient: set() for film in found}
    for one in found:
        people[one.patient].add(one.dicom)
    assert list(people.values()) == [{True, False}] * 24
    assert all(names.is_hidden(who) for who in people)
    assert not whose.several(found)


def test_a_patient_id_that_another_source_s_names_or_manifest_have_is_one_patient(
    tmp_path: Path,
) -> None:
    truth = plant(tmp_path / "png", lambda patient, n: f"scan {patient} {n}.png", patients=12)
    manifest = listing(tmp_path / "png", {path: f"MRN-{who}" for path, who in truth.items()})
    samples.write(tmp_path / "b", *(f"{CLASSES[n % 2]}/person{n}_1.png" for n in range(12)))
    for n in range(12):
        film(
            tmp_path / "b",
            f"{CLASSES[n % 2]}/scan {n}.dcm",
            PatientID=f"MRN-{n}",
            StudyInstanceUID=uid(n),
        )
        film(
            tmp_path / "b",
            f"{CLASSES[n % 2]}/other {n}.dcm",
            PatientID=f"person{n}",
            StudyInstanceUID=uid(n, 1),
        )
    for said, patients in ((keyed(b"k"), 24), (keyed(b"k", naming=SECOND_NAMING), 48)):
        found = gathering.gather([manifest, tmp_path / "b"], said=said).films
        assert len({film.patient for film in found}) == patients


def test_a_name_of_films_of_several_patient_ids_joins_none_and_is_doubted(tmp_path: Path) -> None:
    for n in range(120):
        film(
            tmp_path,
            f"{CLASSES[n % 2]}/IM-0001-{n:04}.dcm",
            PatientID=f"MRN {n}",
            StudyInstanceUID=uid(n),
        )
    samples.write(tmp_path, "NORMAL/IM-0001-0900.jpeg", "PNEUMONIA/IM-0777-0901.jpeg")
    data = split(tmp_path)
    assert (len({film.patient for film in data.films}), data.patients) == (122, "known")
    (doubt,) = [f for f in checkup.check([tmp_path]).findings if f.code == "patients_of_one_name"]
    assert (doubt.level, doubt.paths) == ("doubt", ("NORMAL/IM-0001-0900.jpeg",))
    assert doubt.text.startswith("1 films without a PatientID have the name")
    assert doubt.text in data.notes
    assert not [note for note in split(tmp_path, OF_SECOND).notes if "of several" in note]
