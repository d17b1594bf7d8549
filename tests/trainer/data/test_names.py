"""What is kept of names: hashes under a key where it is to be so, and always of DICOM."""

from __future__ import annotations

from pathlib import Path

from tests.support import hostile
from tests.trainer import samples
from trainer.data import dataset, gathering
from trainer.data.names import CLEAR, Names, is_hidden

KEY = b"a key of manifests"


def test_a_film_is_dicom_by_its_content_by_its_name_and_where_neither_says_that_it_is_not(
    tmp_path: Path,
) -> None:
    samples.fill(tmp_path, patients=2)
    (tmp_path / "NORMAL" / "without_ending").write_bytes(hostile.dicom())
    (tmp_path / "NORMAL" / "page.DCM").write_bytes(b"<html></html>")
    (tmp_path / "NORMAL" / "IM0001").write_bytes(b"")
    (tmp_path / "NORMAL" / "cut.png").write_bytes(b"\x89PN")
    films = gathering.gather([tmp_path]).films
    hidden = {Path(film.path).name for film in films if film.dicom}
    assert hidden == {"without_ending", "page.DCM", "IM0001"}


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
