"""Tables are read as spreadsheets of any country save them."""

from __future__ import annotations

import io

import pytest

from trainer import table
from trainer.errors import TableError


@pytest.mark.parametrize("parted_by", [",", ";", "\t"])
def test_what_parts_the_cells_is_seen_in_the_first_line(parted_by: str) -> None:
    text = io.StringIO(f'a{parted_by}b\n"1,;\t"{parted_by}2\n\n3{parted_by}4\n', newline="")
    assert list(table.rows(text)) == [
        (1, ["a", "b"]),
        (2, ["1,;\t", "2"]),
        (3, []),
        (4, ["3", "4"]),
    ]


def test_a_line_without_any_separator_is_one_cell() -> None:
    assert table.separator("path") is None
    assert list(table.rows(io.StringIO("path\na;b\n"))) == [(1, ["path"]), (2, ["a;b"])]


def test_the_line_of_a_fault_is_named() -> None:
    text = io.StringIO('a,b\n1,2\n"3"x,4\n')
    with pytest.raises(TableError) as raised:
        list(table.rows(text))
    assert raised.value.line == 3
    text.seek(0)
    assert len(list(table.rows(text, strict=False))) == 3


def test_a_quote_that_was_left_open_is_found_before_all_is_read() -> None:
    text = io.StringIO('a,b\n"open,2\n' + "3,4\n" * table.LONGEST_CELL)
    with pytest.raises(TableError):
        list(table.rows(text, strict=False))
    assert text.tell() < 2 * table.LONGEST_CELL
