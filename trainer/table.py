"""Tables as text: rows of cells between commas, semicolons or tabs, as spreadsheets save them.

Knows nothing of what the columns mean.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import TextIO

from trainer.errors import TableError

#: What may part cells; spreadsheets of half of Europe write semicolons.
SEPARATORS = ",;\t"

#: Characters of the longest cell: a longer one is a quote that was left open.
LONGEST_CELL = 1 << 16


def separator(line: str) -> str | None:
    """What parts the cells of a table's first line; None where nothing does."""
    found = max(SEPARATORS, key=line.count)
    return found if found in line else None


def rows(
    text: TextIO, parted_by: str | None = None, *, strict: bool = True
) -> Iterator[tuple[int, list[str]]]:
    """Number of its last line, and cells, of each row from the text's beginning; none of a blank.

    `parted_by` is found in the first line where it is not given. `text` is opened with `newline=""`
    and can be sought. `strict`: text after a closing quote is an error. Raises TableError.
    """
    if parted_by is None:
        first = text.readline()
        text.seek(0)
        parted_by = separator(first) or ","
    csv.field_size_limit(LONGEST_CELL)
    reader = csv.reader(text, delimiter=parted_by, strict=strict)
    try:
        for cells in reader:
            yield reader.line_num, cells
    except csv.Error as error:
        raise TableError(str(error), line=reader.line_num) from error
