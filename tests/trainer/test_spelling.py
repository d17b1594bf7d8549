"""A name is known again however a spreadsheet, Windows or macOS writes it."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from trainer import spelling

MIXED = unicodedata.normalize("NFD", "größe") + "/" + unicodedata.normalize("NFC", "é.png")


def test_a_plain_name_has_one_spelling() -> None:
    assert spelling.spellings("ward 1/film.png") == ("ward 1/film.png",)


def test_as_it_is_written_a_name_counts_first() -> None:
    assert spelling.spellings(" a\\b.png ") == (" a\\b.png ", "a\\b.png", "a/b.png")


def test_a_name_that_was_kept_from_being_a_formula_is_known_with_and_without_its_mark() -> None:
    assert spelling.spellings("'=a.png") == ("'=a.png", "=a.png")
    assert spelling.spellings("'a.png") == ("'a.png",)
    assert spelling.found("'-a.png", lambda name: name == "-a.png") == "-a.png"


def test_letters_with_accents_are_known_composed_and_apart_in_each_part_of_a_path() -> None:
    written = unicodedata.normalize("NFC", MIXED)
    assert spelling.found(written, lambda name: name == MIXED) == MIXED
    assert spelling.found(f" {written}", lambda name: False) == written


def test_bytes_that_are_no_text_may_be_those_of_windows() -> None:
    written = "gr\udcf6\udcdfe.png"
    assert spelling.spellings(written)[0] == written
    assert spelling.found(written, lambda name: name == "größe.png") == "größe.png"
    assert spelling.of_windows("\udc81") == "\udc81"


def test_a_path_without_climbs_leads_to_the_same_place(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "other/deep").mkdir(parents=True)
    (tmp_path / "a/link").symlink_to(tmp_path / "other/deep")
    (tmp_path / "film").touch()

    def without(path: str) -> str:
        return str(spelling.without_climbs(tmp_path / path).relative_to(tmp_path))

    assert without("a/b/../b") == without("a/../a/b/../../a/b") == "a/b"
    # What a link leads to lies elsewhere; below it, and as a name, it stays.
    assert without("a/link/../x") == "other/x"
    assert without("a/b/../link/x") == "a/link/x"
    for leads_nowhere in ("film/../a", "a/*/../b", "gone/../a"):
        assert without(leads_nowhere) == leads_nowhere
    assert spelling.without_climbs(Path("/../..") / "tmp") == Path("/tmp")
    assert spelling.without_climbs(Path("../../x")) == Path("../../x")
