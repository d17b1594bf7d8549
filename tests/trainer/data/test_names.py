"""What is kept of names: hashes under a key where it is to be so, and always of DICOM."""

from __future__ import annotations

from pathlib import Path

from tests.support import hostile
from tests.trainer import samples
from trainer.data import dataset, gathering
from trainer.data.names import CLEAR, Names, is_hidden

KEY = b"a key of manifests"


def test_a_dicom_film_is_known_by_its_content_and_by_its_name(tmp_path: Path) -> None:
    samples.fill(tmp_path, patients=2)
    (tmp_path / "NORMAL" / "without_ending").write_bytes(hostile.dicom())
    (tmp_path / "NORMAL" / "page.DCM").write_bytes(b"<html></html>")
    films = gathering.gather([tmp_path]).films
    assert {Path(film.path).name for film in films if film.dicom} == {"without_ending", "page.DCM"}


def test_of_dicom_names_are_hidden_always_and_of_other_films_where_it_is_asked_for(
    tmp_path: Path,
) -> None:
    samples.fill(tmp_path, patients=4)
    (tmp_path / "NORMAL" / "person9_1.dcm").write_bytes(hostile.dicom())
    films = dataset.read(tmp_path).films
    some, all_of_them = Names(key=KEY), Names(key=KEY, everything=True)
    for film, kept in zip(films, some.of(films), strict=True):
        assert is_hidden(kept.path) == is_hidden(kept.patient) == film.dicom
        assert (kept.sha256, kept.split, kept.label) == (film.sha256, film.split, film.label)
        if not film.dicom:
            assert kept == film
    assert all(is_hidden(f.path) and is_hidden(f.patient) for f in all_of_them.of(films))
    assert all_of_them.made[all_of_them.of(films)[0].path] == films[0].path
    assert CLEAR.of(films) == films, "a manifest that a person asks for has names"


def test_a_patient_is_the_same_with_a_hidden_name_and_in_the_clear_under_one_key_only() -> None:
    names, again = Names(key=KEY), Names(key=KEY)
    hidden = names.patient("person7", dicom=True)
    assert names.same("person7") == again.same(hidden) == hidden
    assert Names(key=b"another").same("person7") != hidden
    assert names.path("person7", dicom=True) != hidden, "a path is no patient"
