"""Tables as text: rows of cells between commas, semicolons or tabs, as spreadsheets save them.

The one reader of lists, manifests, labels and corrections. It takes UTF-8 and UTF-16 with and
without a byte order mark, and the line `sep=;` by which Excel says what parts the cells. Knows
nothing of what the columns mean.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

from trainer import regular
from trainer.errors import TableError

#: What may part cells; spreadsheets of half of Europe write semicolons.
SEPARATORS = ",;\t"

#: Characters of the longest cell: a longer one is a quote that was left open.
LONGEST_CELL = 1 << 16

#: Bytes by which the encoding is told.
_HEAD = 4096

#: What a separator in it does not part.
_QUOTED = re.compile(r'"[^"]*"')

_DECLARED = re.compile(r'"?sep=(.)"?[ ,;\t]*[\r\n]*', re.IGNORECASE)


@contextmanager
def opened(file: Path | int) -> Iterator[TextIO]:
    """The text of a file, from its beginning, in whatever encoding a spreadsheet saves.

    Of a file descriptor, which stays open, or of a path. Bytes that are no text become lone
    surrogates, as in names of files; of UTF-16 they raise UnicodeDecodeError where they are read,
    and TableError where rows are. Raises OSError, also for what is no file.
    """
    with open(file, "rb", closefd=isinstance(file, Path), opener=regular.opener) as binary:
        binary.seek(0)
        encoding = encoding_of(binary.read(_HEAD))
        binary.seek(0)
        text = _text(binary, encoding)
        try:
            yield text
        finally:
            text.detach()


def _text(binary: BinaryIO, encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(binary, encoding=encoding, errors="surrogateescape", newline="")


def encoding_of(head: bytes) -> str:
    """The encoding of a text by its first bytes: UTF-8 unless a mark or its zero bytes say other.

    Of UTF-16 without a mark every other byte of usual text is zero.
    """
    if head[:4] in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        return "utf-32"
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    even, odd = head[0::2].count(0), head[1::2].count(0)
    if not even and odd > len(head) // 4:
        return "utf-16-le"
    if not odd and even > len(head) // 4:
        return "utf-16-be"
    return "utf-8-sig"


def separator(line: str) -> str | None:
    """What parts the cells of a table's first line; None where nothing does."""
    bare = _QUOTED.sub("", line)
    found = max(SEPARATORS, key=bare.count)
    return found if found in bare else None


def declared(line: str) -> str | None:
    """What a first line such as `sep=;` says that parts the cells; None where it is none such."""
    match = _DECLARED.fullmatch(line)
    return match[1] if match else None


def rows(text: TextIO, parted_by: str | None = None) -> Iterator[tuple[int, list[str]]]:
    """Number of its last line, and cells, of each row from the text's beginning; none of a blank.

    `parted_by` is found in the first line that is not blank where it is not given; a line that says
    so counts before it, and is no row. `text` is opened with `newline=""` and can be sought. Raises
    TableError, also for text after a closing quote.
    """
    csv.field_size_limit(LONGEST_CELL)
    before = 0
    try:
        first = text.readline(LONGEST_CELL)
        said = declared(first.removeprefix("\ufeff"))
        if said is None:
            while first and not first.strip():
                first = text.readline(LONGEST_CELL)
            text.seek(0)
        else:
            before = 1
        delimiter = said or parted_by or separator(first) or ","
        reader = csv.reader(text, delimiter=delimiter, strict=True)
    except UnicodeError as error:
        raise _no_text(1) from error
    try:
        for cells in reader:
            yield before + reader.line_num, cells
    except csv.Error as error:
        raise TableError(str(error), line=before + reader.line_num) from error
    except UnicodeError as error:
        raise _no_text(before + reader.line_num + 1) from error


def headed(text: TextIO) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """The names of the columns, less blanks around them, and line number and cells of each row.

    Rows without anything in them are left out, and so is what is empty behind the last column that
    has a name: a spreadsheet writes both. None is named of an empty table. Raises TableError, also
    for a column that is there twice.
    """
    lines = rows(text)
    at, head = next(((n, cells) for n, cells in lines if any(map(str.strip, cells))), (1, []))
    columns = [name.strip().removeprefix("\ufeff").strip() for name in head]
    while columns and not columns[-1]:
        columns.pop()
    if again := twice(columns):
        raise TableError(again, line=at)

    def below() -> Iterator[tuple[int, list[str]]]:
        for line, cells in lines:
            if any(map(str.strip, cells)):
                while len(cells) > len(columns) and not cells[-1].strip():
                    cells.pop()
                yield line, cells

    return columns, below()


def twice(columns: Sequence[str]) -> str:
    """That two columns have one name but for capitals; empty where none has."""
    seen: dict[str, str] = {}
    for name in filter(None, columns):
        if (first := seen.get(name.lower())) is not None:
            return (
                f"the columns {first!r} and {name!r} have one name, and which counts is not known: "
                "remove or rename one of them"
            )
        seen[name.lower()] = name
    return ""


def _no_text(line: int) -> TableError:
    return TableError("the text is damaged or cut short; save it as UTF-8 again", line=line)
