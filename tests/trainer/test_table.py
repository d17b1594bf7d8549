"""Tables are read as spreadsheets of any country save them."""

from __future__ import annotations

import io
from pathlib import Path

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


def test_a_quote_that_was_left_open_is_found_before_all_is_read() -> None:
    text = io.StringIO('a,b\n"open,2\n' + "3,4\n" * table.LONGEST_CELL)
    with pytest.raises(TableError):
        list(table.rows(text))
    assert text.tell() < 2 * table.LONGEST_CELL


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("first", ["", "sep=;\r\n", '"sep=;"\r\n'])
def test_what_excel_and_windows_save_is_read(tmp_path: Path, encoding: str, first: str) -> None:
    file = tmp_path / "table.csv"
    file.write_bytes(f"{first} name ;label;\r\nGröße 1.png;NORMAL;\r\n;;\r\n".encode(encoding))
    with table.opened(file) as text:
        head, below = table.headed(text)
        line = 3 if first else 2
        assert (head, list(below)) == (
            ["name", "label"],
            [(line, ["Größe 1.png", "NORMAL"])],
        )


def test_a_text_that_is_cut_short_is_an_error_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    file.write_bytes("name,label\na,b\n".encode("utf-16")[:-1])
    with pytest.raises(TableError, match="cut short"), table.opened(file) as text:
        list(table.headed(text)[1])


def test_a_separator_within_quotes_parts_nothing_and_blank_lines_may_come_first() -> None:
    text = io.StringIO('\r\n \r\n"name, first, last";label\r\na;b\r\n', newline="")
    assert table.headed(text)[0] == ["name, first, last", "label"]


@pytest.mark.parametrize("head", ["path,label, Label", "path,label,label", "path,,LABEL,label,"])
def test_a_column_that_is_there_twice_is_an_error_that_names_both(head: str) -> None:
    with pytest.raises(TableError, match="remove or rename one") as raised:
        table.headed(io.StringIO(f"\n{head}\na,N,P\n", newline=""))
    assert raised.value.line == 2
    first, second = (name.strip() for name in head.split(",") if "label" in name.lower())
    assert all(repr(name) in str(raised.value) for name in (first, second))


def test_columns_without_a_name_are_no_column_twice() -> None:
    assert table.headed(io.StringIO("path,,,label\na,,,N\n"))[0] == ["path", "", "", "label"]
