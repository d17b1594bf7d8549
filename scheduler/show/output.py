"""Printing rows and facts: aligned text for people, JSON for programs.

Text is never cut off, whether a terminal or a pipe reads it. Control characters are shown, never
sent: a film's name must not steer somebody's terminal.
"""

from __future__ import annotations

import json
import math
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, timezone
from decimal import Decimal
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import click

#: Column name → value; rows of a database are such mappings too.
Row = Mapping[Any, Any]

F = TypeVar("F", bound=Callable[..., Any])

#: Column widths follow the first rows; later ones may stick out, and none waits for the last.
ROWS_MEASURED = 1000

#: Longer bytes are only counted in text.
BYTES_SHOWN = 16


def json_option(command: F) -> F:
    """The option `--json`, given to the command as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(
        command
    )


def emit(
    data: Row | Sequence[Row],
    *,
    as_json: bool,
    columns: Sequence[str] | None = None,
    nothing: str = "none",
) -> None:
    """Print facts (one mapping) or rows (many): as JSON, or as text with these columns.

    `nothing` is said on standard error where there are no rows to print as text.
    """
    if as_json:
        click.echo(to_json(data))
    elif isinstance(data, Mapping):
        facts(data)
    elif data:
        table(data, columns or list(data[0]))
    else:
        click.echo(nothing, err=True)


def to_json(data: Any) -> str:
    """Valid JSON: times are ISO 8601 with Z, bytes are hexadecimal, not-a-number is null."""
    return json.dumps(_plain(data), ensure_ascii=False, allow_nan=False, indent=2)


def to_json_line(row: Row) -> str:
    """The same, on one line."""
    return json.dumps(_plain(row), ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        if not value.is_finite():
            return None
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).hex()
    if isinstance(value, datetime):
        return instant(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Iterable):
        return [_plain(v) for v in value]
    return str(value)


def instant(value: datetime) -> str:
    """ISO 8601 in UTC, to the millisecond, as SQLite keeps it. A time without a zone is UTC."""
    if value.tzinfo is None:
        value = value.replace(tzinfo=timezone.utc)
    text = value.astimezone(timezone.utc).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def when(value: datetime | str | None) -> str:
    """A time for people: `2026-01-31 02:00:05Z`. Views give text on SQLite."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else instant(value)
    return text[:19].replace("T", " ") + "Z"


def seconds(value: float) -> str:
    """A duration for people: `12 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = round(value)
    if whole < 60:
        return f"{value:.1f} s" if value < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def size(n_bytes: int) -> str:
    """Bytes for a person: `12 kB`, `1.4 MB`."""
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes >= 1e6 else f"{max(1, round(n_bytes / 1e3))} kB"


def text(value: Any) -> str:
    """One cell: NULL is empty, numbers are short, long bytes are counted, control shows."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (bytes, bytearray, memoryview)):
        raw = bytes(value)
        return raw.hex() if len(raw) <= BYTES_SHOWN else f"<{len(raw)} bytes>"
    if isinstance(value, datetime):
        return when(value)
    if isinstance(value, (Mapping, list, tuple)):
        return json.dumps(_plain(value), ensure_ascii=False)
    if isinstance(value, Path):
        value = str(value)
    return printable(str(value))


def exact(value: Any) -> str:
    """One cell for programs: nothing is rounded, cut or escaped."""
    if isinstance(value, str):
        return value
    plain = _plain(value)
    if plain is None:
        return ""
    if isinstance(plain, (dict, list, bool)):
        return json.dumps(plain, ensure_ascii=False)
    return str(plain)


def printable(value: str) -> str:
    """The same text with what is not printable written as an escape: `\\n`, `\\x1b`."""
    if value.isprintable():
        return value
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in value)


def facts(values: Row) -> None:
    """Print names and values under each other; names without a value are left out."""
    shown = {name: value for name, value in values.items() if value is not None and value != ""}
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        click.echo(f"{click.style(f'{name:<{width}}', dim=True)}  {text(value)}")


def table(rows: Iterable[Row], columns: Sequence[str]) -> None:
    """Print rows as aligned columns under their names, as they come."""
    grid(columns, ([row[c] for c in columns] for row in rows))


def grid(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> int:
    """Print rows of cells under column names, as they come; returns how many there were."""
    stream = iter(rows)
    first = list(islice(stream, ROWS_MEASURED))
    right = [
        any(row[n] is not None for row in first)
        and all(row[n] is None or _is_number(row[n]) for row in first)
        for n in range(len(columns))
    ]
    cells = [[text(value) for value in row] for row in first]
    widths = [
        max([_width(name), *(_width(row[n]) for row in cells)]) for n, name in enumerate(columns)
    ]
    click.echo(click.style(_line(list(columns), widths, right), bold=True))
    count = 0
    for row in chain(cells, _texts(stream)):
        # Not click.echo, which flushes every line: there may be millions.
        sys.stdout.write(_line(row, widths, right) + "\n")
        count += 1
    return count


def _texts(rows: Iterator[Sequence[Any]]) -> Iterator[list[str]]:
    for row in rows:
        yield [text(value) for value in row]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, Decimal)) and not isinstance(value, bool)


def _line(cells: list[str], widths: list[int], right: list[bool]) -> str:
    padded = []
    for cell, width, is_right in zip(cells, widths, right, strict=True):
        space = " " * (width - _width(cell))
        padded.append(space + cell if is_right else cell + space)
    return "  ".join(padded).rstrip()


def _width(value: str) -> int:
    """Columns that a terminal gives to the text."""
    if value.isascii():
        return len(value)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in value
    )
