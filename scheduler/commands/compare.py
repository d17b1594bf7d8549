"""`pneumoq labels compare`: how far two readers of the same films agree, and where they do not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click

from scheduler import errors
from scheduler.show import output
from trainer import spelling, table
from trainer.errors import TableError

#: By what films of two files are told to be the same, the surest first.
KEYS = ("sha256", "item_no", "item", "name", "path", "file", "filename", "image", "film")

#: Headers of labels, in lower case.
LABELS = ("label", "class", "truth", "target", "finding")

#: Films that differ which are printed; --json has all.
PRINTED = 50


class _File(NamedTuple):
    """One reader's labels."""

    path: Path
    #: Columns in lower case.
    columns: list[str]
    #: Cells of each row that has a label, by column, and the row's number.
    rows: list[tuple[int, dict[str, str]]]
    #: The column of the labels.
    label: str


@click.command("compare")
@click.argument("first", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("second", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@output.json_option
def command(first: Path, second: Path, as_json: bool) -> None:
    """Compare two readers' labels: Cohen's kappa with its 95 % interval, and films that differ.

    FIRST and SECOND are CSVs as `pneumoq review` pages save them, or as `labels import` takes them.
    Films are the same where they have the same sha256, item_no or name, whichever column both files
    have first; films that only one of them labelled are counted. Nothing is stored.

    \b
    Example:
      pneumoq labels compare kim.csv robin.csv
    """
    from trainer.judging import agreement

    readers = [_read(first), _read(second)]
    key = _key(readers)
    said = [_labels(reader, key) for reader in readers]
    both = [film for film in said[0] if film in said[1]]
    if not both:
        raise errors.Failure(
            f"{first} and {second} label no film in common: by {key}, the first names "
            f"{_example(said[0])}, the second {_example(said[1])}"
        )
    classes = sorted({labels[film][0] for labels in said for film in both})
    number = {name: n for n, name in enumerate(classes)}
    first_said, second_said = ([number[s[film][0]] for film in both] for s in said)
    found = agreement.cohen(first_said, second_said, len(classes))
    differ = [
        {"film": said[0][film][1], key: film, "first": said[0][film][0],
         "second": said[1][film][0]}
        for film in both
        if said[0][film][0] != said[1][film][0]
    ]  # fmt: skip
    only = [sum(film not in said[1 - n] for film in said[n]) for n in (0, 1)]
    if as_json:
        output.emit(
            {
                "films": found.films, "agreement": found.observed, "kappa": found.kappa,
                "kappa_low": found.low, "kappa_high": found.high, "expected": found.expected,
                "by": key, "only_first": only[0], "only_second": only[1], "classes": classes,
                "table": found.table.tolist(), "differ": differ,
            },
            as_json=True,
        )  # fmt: skip
        return
    click.echo(
        f"{found.films:,} films that both labelled, told by {key}; {only[0]:,} only in the first, "
        f"{only[1]:,} only in the second"
    )
    click.echo(f"agreement      {100 * found.observed:.1f} % ({len(differ):,} films differ)")
    if math.isnan(found.kappa):
        click.echo("Cohen's kappa  none: both gave one and the same label to all films")
    else:
        click.echo(
            f"Cohen's kappa  {found.kappa:.3f} (95 % interval {found.low:.3f} to {found.high:.3f})"
        )
    click.echo()
    output.grid(
        ["first \\ second", *classes],
        [(name, *map(int, found.table[n])) for n, name in enumerate(classes)],
    )
    if differ:
        click.echo()
        output.table(differ[:PRINTED], ["film", "first", "second"])
        if len(differ) > PRINTED:
            click.echo(f"and {len(differ) - PRINTED:,} more; --json has all", err=True)


def _read(path: Path) -> _File:
    rows = []
    try:
        with table.opened(path) as text:
            head, below = table.headed(text)
            columns = [name.lower() for name in head]
            label = next((name for name in LABELS if name in columns), None)
            if label is None:
                raise errors.Failure(
                    f"{path}: no column holds the labels; its first line must name one of them "
                    f"{' or '.join(LABELS)}"
                )
            for line, cells in below:
                row = dict(zip(columns, cells, strict=False))
                row[label] = spelling.of_windows(row.get(label, "").strip())
                if row[label]:
                    rows.append((line, row))
    except TableError as error:
        raise errors.Failure(f"{path}, line {error.line} is no CSV: {error}") from error
    return _File(path, columns, rows, label)


def _key(readers: Sequence[_File]) -> str:
    """The column by which films are told to be the same."""
    for key in KEYS:
        if not all(key in reader.columns for reader in readers):
            continue
        if key.startswith("item") and len(_jobs(readers)) > 1:
            continue  # the same number is another film in another job
        if all(row.get(key, "").strip() for reader in readers for _, row in reader.rows):
            return key
    raise errors.Failure(
        f"{readers[0].path} and {readers[1].path} have no filled column in common that names the "
        f"films: one of {', '.join(KEYS)}"
    )


def _jobs(readers: Sequence[_File]) -> set[str]:
    return {row["job_id"] for reader in readers for _, row in reader.rows if row.get("job_id")}


def _labels(reader: _File, key: str) -> dict[str, tuple[str, str]]:
    """Film → its label, and its name for a person."""
    found: dict[str, tuple[str, str]] = {}
    for line, row in reader.rows:
        film, label = row[key].strip(), row[reader.label]
        if found.setdefault(film, (label, row.get("film_name") or film))[0] != label:
            raise errors.Failure(
                f"{reader.path}, line {line}: {output.printable(film)} has two labels, "
                f"{found[film][0]!r} and {label!r}; remove one of the lines"
            )
    return found


def _example(labels: dict[str, tuple[str, str]]) -> str:
    return repr(next(iter(labels))) if labels else "none"
