"""The phantoms: the same for the same seed, varied, decodable, and not to be told by brightness."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from trainer import phantom
from trainer.film import rules

PATIENT = re.compile(r"^(?:patient|person|p)[-_]?(\d+)")


@pytest.fixture(scope="module")
def many() -> list[phantom.Phantom]:
    """About 370 films of 160 patients."""
    return list(phantom.films(160, seed=11))


def test_the_same_seed_gives_the_same_bytes() -> None:
    assert list(phantom.films(3, seed=4)) == list(phantom.films(3, seed=4))


def test_another_seed_gives_other_films() -> None:
    ours = {item.data for item in phantom.films(3, seed=4)}
    assert ours.isdisjoint(item.data for item in phantom.films(3, seed=5))


def test_a_patient_does_not_depend_on_how_many_are_asked_for() -> None:
    several = [item for item in phantom.films(5, seed=4) if item.patient >= "patient0003"]
    assert several == list(phantom.films(2, seed=4, first_patient=3))


def test_ranges_that_do_not_overlap_share_no_patient_and_no_film() -> None:
    first = list(phantom.films(4, seed=4))
    second = list(phantom.films(4, seed=4, first_patient=4))
    assert {item.patient for item in first}.isdisjoint(item.patient for item in second)
    assert {item.data for item in first}.isdisjoint(item.data for item in second)


def test_every_patient_has_one_class_and_one_to_four_films(many: list[phantom.Phantom]) -> None:
    patients: dict[str, list[phantom.Phantom]] = {}
    for item in many:
        patients.setdefault(item.patient, []).append(item)
    assert len(patients) == 160
    assert {len(items) for items in patients.values()} == {1, 2, 3, 4}
    assert all(len({item.label for item in items}) == 1 for items in patients.values())


def test_half_of_the_patients_are_sick(many: list[phantom.Phantom]) -> None:
    sick = {item.patient for item in many if item.label == "PNEUMONIA"}
    assert len(sick) == 80


def test_names_are_unique_and_carry_the_patients_number(many: list[phantom.Phantom]) -> None:
    assert len({item.name for item in many}) == len(many)
    for item in many:
        assert item.name.startswith(f"{item.patient}_")
        match = PATIENT.match(item.name)
        assert match is not None and f"patient{int(match[1]):04}" == item.patient


def test_sizes_aspects_modes_and_formats_vary(many: list[phantom.Phantom]) -> None:
    kinds, sizes = set(), []
    for item in many:
        with Image.open(io.BytesIO(item.data)) as image:
            kinds.add((image.format, image.mode, item.name.partition(".")[2]))
            sizes.append(image.size)
    assert kinds == {("JPEG", "L", "jpeg"), ("JPEG", "RGB", "jpeg"), ("PNG", "L", "png")}
    assert len(set(sizes)) > len(sizes) // 2
    assert all(500 <= max(size) <= 1400 for size in sizes)
    aspects = [width / height for width, height in sizes]
    assert min(aspects) < 0.9 and max(aspects) > 1.3


def test_every_film_passes_the_film_rule_with_contrast(many: list[phantom.Phantom]) -> None:
    for item in many:
        pixels = rules.decode(item.data, 64)
        assert pixels.std() > 25


def test_lungs_are_dark_and_the_heart_lies_on_the_viewers_right() -> None:
    pixels = np.mean(
        [phantom.render(np.random.default_rng([6, k]), k % 2 == 0, 300, 300) for k in range(8)], 0
    )
    left_lung, heart, right_of_spine = pixels[90:180, 60:100], pixels[175:195, 180:195], 105
    assert left_lung.mean() < heart.mean() - 60
    assert pixels[175:195, right_of_spine - 5 : right_of_spine + 5].mean() < heart.mean() - 40


def test_thumbnails_tell_little_about_the_disease(many: list[phantom.Phantom]) -> None:
    thumbnails = np.stack([rules.decode(item.data, 16).ravel() for item in many])
    truth = np.array([item.label == "PNEUMONIA" for item in many])
    learn = np.array([int(item.patient[-4:]) < 100 for item in many])
    for c in (0.003, 0.1):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=2000))
        model.fit(thumbnails[learn], truth[learn])
        scores = model.predict_proba(thumbnails[~learn])[:, 1]
        assert roc_auc_score(truth[~learn], scores) <= 0.75


def test_the_disease_is_texture_that_a_thumbnail_does_not_show() -> None:
    for k in range(6):
        sick, well = (
            Image.fromarray(phantom.render(np.random.default_rng([7, k]), positive, 448, 448))
            for positive in (True, False)
        )
        changes = {
            size: np.abs(_box(sick, size) - _box(well, size)).max() for size in (112, 16)
        }  # gray levels
        assert changes[112] > 20
        assert changes[16] < changes[112] / 2


def _box(image: Image.Image, size: int) -> NDArray[np.float32]:
    return np.asarray(image.resize((size, size), Image.Resampling.BOX), np.float32)


def test_a_labelled_folder_has_one_folder_for_each_class(tmp_path: Path) -> None:
    count = phantom.write_folder(tmp_path / "data", 4, seed=2, first_patient=12)
    files = sorted((tmp_path / "data").glob("*/*"))
    assert len(files) == count
    assert {path.parent.name for path in files} == set(phantom.LABELS)
    expected = {f"{item.label}/{item.name}": item.data for item in phantom.films(4, 2, 12)}
    assert {f"{p.parent.name}/{p.name}": p.read_bytes() for p in files} == expected


def test_an_archive_names_no_class_and_repeats_byte_for_byte(tmp_path: Path) -> None:
    first, second = tmp_path / "a.zip", tmp_path / "b.zip"
    count = phantom.write_zip(first, 4, seed=2)
    phantom.write_zip(second, 4, seed=2)
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        names = archive.namelist()
        assert archive.testzip() is None
    assert len(names) == count
    for name in names:
        assert re.fullmatch(r"ward_[a-d]/20\d\d/patient\d{4,}_\d\.(jpeg|png)", name)
