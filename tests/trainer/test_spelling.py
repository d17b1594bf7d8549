"""A name is known again however a spreadsheet, Windows or macOS writes it."""

from __future__ import annotations

import unicodedata

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
