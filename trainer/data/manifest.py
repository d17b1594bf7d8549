"""Manifest: a CSV that says which films a dataset has, and what each must still be.

`path,label,patient,sha256,split`, one line per film, as `Dataset.write_csv` writes it. A path is
relative to the folder that the manifest lies in, or absolute. Only path and label are needed; a
line without a label is skipped. A column `slice` names parts of the films that models are
compared on one by one. A file of corrections has the same form: a path or a sha256,
and the label that the film should have.
"""

from __future__ import annotations

import csv
import os
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path, PurePath

from trainer import atomic, spelling, table
from trainer.data.labelled import TEST, TRAIN, VAL, Entry, Film, Source, listed, stem_of
from trainer.errors import DatasetError, TableError

COLUMNS = ("path", "label", "patient", "sha256", "split")

#: One more, which `write` does not write.
SLICE = "slice"

#: Columns that are not read, of which so many are named.
_NAMED = 8

#: A path that ends so is that of a manifest.
SUFFIX = ".csv"


def is_one(path: Path) -> bool:
    """Whether a path that a person gave is that of a manifest, not of a folder."""
    return path.suffix.lower() == SUFFIX and not path.is_dir()


def read(path: Path, *, known: Sequence[str] = ()) -> Source:
    """The films that a manifest names. Raises DatasetError; no film is opened.

    `known` are the classes where another source, or a model, has said which there are.
    """
    entries: list[Entry] = []
    blank = 0
    unread: list[str] = []
    #: Class by its composed letters: as it was written first counts.
    called = {unicodedata.normalize("NFC", name): name for name in reversed(known)}
    for number, row in _rows(path, ("path", "label")):
        unread = unread or [name for name in row if name and name not in (*COLUMNS, SLICE)]
        if not row["label"]:
            blank += 1
            continue
        split = row.get("split") or TRAIN
        if split not in (TRAIN, VAL, TEST):
            raise DatasetError(
                f"{path}, line {number}: the split {split!r} is none of train, val, test"
            )
        label = spelling.of_windows(row["label"])
        name = called.setdefault(unicodedata.normalize("NFC", label), label)
        given = Path(spelling.found(row["path"], lambda p: os.path.lexists(path.parent / p)))
        entries.append(
            Entry(
                file=spelling.without_climbs(path.parent / given),
                name=name,
                split=split,
                stem=below_class(stem_of(given), (name,)),
                patient=row.get("patient", ""),
                sha256=row.get("sha256", "").lower(),
                slice=row.get(SLICE, ""),
            )
        )
    labels = tuple(sorted({entry.name for entry in entries}))
    if not entries:
        raise DatasetError(f"{path} names no films; each line needs a path and a label")
    if known and (unknown := set(labels) - set(known)):
        raise DatasetError(
            f"{path} has labels of no known class: {listed(unknown)}; the classes are "
            f"{listed(known)}"
        )
    if not known and len(labels) < 2:
        raise DatasetError(f"{path} has only the class {labels[0]}; two or more are needed")
    _check_once(path, entries)
    notes = [f"{blank} lines of a manifest have no label and are skipped."] if blank else []
    if unread:
        more = f" and {len(unread) - _NAMED} more" if len(unread) > _NAMED else ""
        notes.append(
            f"Columns of a manifest that are not read: {', '.join(unread[:_NAMED])}{more}; those "
            f"that are read are called {', '.join(COLUMNS)} and {SLICE}."
        )
    return Source(
        root=path.parent,
        path=path,
        labels=labels,
        entries=tuple(sorted(entries, key=lambda e: str(e.file))),
        settled=any(entry.split == VAL for entry in entries),
        notes=tuple(notes),
    )


def corrections(path: Path) -> list[tuple[int, str, str, str]]:
    """(line, path, sha256, label) of each line with a label; path or sha256 may be empty."""
    found = []
    for number, row in _rows(path, ("label",)):
        film, sha256 = row.get("path", ""), row.get("sha256", "").lower()
        if not film and not sha256:
            raise DatasetError(f"{path}, line {number}: give the film's path or its sha256")
        if row["label"]:
            found.append((number, film, sha256, row["label"]))
    if not found:
        raise DatasetError(f"{path} gives no film a label; each line needs a path and a label")
    return found


def write(path: Path, films: Iterable[Film], labels: Sequence[str]) -> None:
    """Write a manifest, replaced in one step."""
    with (
        atomic.replacing(path) as part,
        part.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        for film in films:
            rows.writerow((film.path, labels[film.label], film.patient, film.sha256, film.split))


def _rows(path: Path, needed: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and the cells that there are, stripped, by column in lower case."""
    try:
        with table.opened(path) as file:
            columns, rows = table.headed(file)
            header = [name.lower() for name in columns]
            missing = [name for name in needed if name not in header]
            if missing:
                raise DatasetError(
                    f"{path} has no column {listed(missing)}; its first line must be like "
                    f"{','.join(COLUMNS)}"
                )
            for line, cells in rows:
                if len(cells) != len(header):
                    raise DatasetError(
                        f"{path}, line {line}: {len(cells)} fields where the header "
                        f"has {len(header)}"
                    )
                values = {
                    name: cell if name == "path" else cell.strip()
                    for name, cell in zip(header, cells, strict=True)
                }
                if "path" in needed and not values["path"].strip():
                    raise DatasetError(f"{path}, line {line}: the path is empty")
                yield line, values
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}; check the path") from error
    except TableError as error:
        raise DatasetError(f"{path} is no CSV: {error}") from error


def below_class(path: PurePath, labels: Collection[str]) -> str:
    """The path below the innermost folder that is named like a class; where none is, all of it.

    Of an absolute path without such a folder, the name.
    """
    folders = path.parts[:-1]
    start = max((n + 1 for n, part in enumerate(folders) if part in labels), default=None)
    if start is None:
        return path.name if path.is_absolute() else path.as_posix()
    return "/".join(path.parts[start:])


def _check_once(path: Path, entries: Iterable[Entry]) -> None:
    seen: set[Path] = set()
    for entry in entries:
        if entry.file in seen:
            raise DatasetError(
                f"{path} names {entry.file} twice; remove one of the lines",
                shareable=f"{path} names a film twice; remove one of the lines",
            )
        seen.add(entry.file)
