"""Uncertain: the films that a person should label next, copied into class folders.

What comes back, films moved to the right folder or a corrected index, is training data.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import sqlalchemy as sa

from db.queue import picks
from db.queue.picks import Pick
from scheduler import errors, session
from trainer import atomic, clutter
from trainer.data import layout, manifest
from trainer.film import content
from worker import archive
from worker.machine import privacy
from worker.scoring import reread
from worker.scoring.reread import Reread

#: The folder of films that are unlike the training films. It is no class.
UNUSUAL = f"{layout.APART}unusual"

#: The list of what was copied: a manifest, once its labels were corrected.
INDEX = "index.csv"
COLUMNS = ("item", "path", "label", "probability", "threshold", "ood", "sha256")

#: Longest part of a path that is kept, in bytes; most file systems take 255.
LONGEST_NAME = 200

#: Format → ending of a film whose name is not known.
_ENDINGS = {"JPEG": ".jpeg", "DICOM": ".dcm", "PNG": ".png", "TIFF": ".tiff"}


@dataclass(kw_only=True)
class Copied:
    """What became of the films that were picked."""

    #: Class, or UNUSUAL, → films copied.
    films: dict[str, int] = field(default_factory=dict)
    #: Films that another one is a copy of.
    copies: int = 0
    #: Item number and why it could not be read.
    failed: list[tuple[int, str]] = field(default_factory=list)
    #: Item numbers of the films that were copied.
    items: list[int] = field(default_factory=list)


def write(engine: sa.Engine, job_id: int, most: int, folder: Path) -> Copied:
    """Copy up to `most` films near the threshold, and as many unusual ones, into a new folder.

    The folder is whole or not there. Raises Failure, ArchiveError.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise errors.Failure(f"{folder} is there and not empty; give a new folder")
    if not folder.absolute().parent.is_dir():
        raise errors.Failure(f"{folder}: there is no folder {folder.parent}; make it first")
    picked = {
        row.item_no: row
        for why in ("nearest", "unusual")
        for row in picks.films(engine, job_id, why, most, unlabelled=True)
    }
    if not picked:
        raise errors.Failure(
            f"job {job_id} has no prediction without a true label: nothing is left to be labelled"
        )
    with atomic.new_folder(folder) as part:
        return _copy(engine, job_id, picked, part)


def _copy(engine: sa.Engine, job_id: int, picked: dict[int, Pick], folder: Path) -> Copied:
    copied = Copied()
    labels = picks.classes(engine, job_id)
    for name in labels:  # also those that no film is called: one may belong there
        (folder / name).mkdir()
    rows: dict[int, tuple[Any, ...]] = {}
    contents: set[str] = set()
    taken = _Taken()
    items = [(row.shard_no, item_no) for item_no, row in picked.items()]
    for film in reread.read(engine, job_id, items, privacy.load(session.settings())):
        row = picked[film.item_no]
        if film.reason:
            copied.failed.append((film.item_no, film.reason))
            continue
        sha256 = hashlib.sha256(film.data).hexdigest()
        if sha256 in contents:
            copied.copies += 1
            continue
        contents.add(sha256)
        group = UNUSUAL if row.unusual else row.label
        path = taken.path(group, name_of(film, row.name, labels), film.item_no)
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(film.data)
        copied.items.append(film.item_no)
        copied.films[group] = copied.films.get(group, 0) + 1
        label = "" if row.unusual else row.label
        rows[film.item_no] = (
            film.item_no, path, label, row.probability, row.threshold, row.ood, sha256,
        )  # fmt: skip
    if not rows:
        number, reason = copied.failed[0]
        raise errors.Failure(
            f"none of {len(picked)} films could be read; the first is item {number}: {reason}"
        )
    with (folder / INDEX).open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        # As they were picked: the first is the one to label first.
        writer.writerows(rows[item_no] for item_no in picked if item_no in rows)
    return copied


def name_of(film: Reread, stored: str, labels: Collection[str]) -> str:
    """A film's own name, as far as the patient may be read from it; its number where that is odd.

    What the database hides stays hidden.
    """
    name = manifest.below_class(Path(film.name), labels)
    parts = PurePosixPath(name).parts
    odd = any(
        part in ("..", "/") or _is_clutter(part) or len(os.fsencode(part)) > LONGEST_NAME
        for part in parts
    )
    if stored == archive.display(film.name) and parts and not odd:
        return name
    return f"item-{film.item_no:07}{_ENDINGS.get(content.kind(film.data), '')}"


def _is_clutter(part: str) -> bool:
    return clutter.of_file(part) is not None or clutter.of_folder(part) is not None


class _Taken:
    """Paths that are in use, as files or as folders."""

    def __init__(self) -> None:
        self._files: set[str] = set()
        self._folders: set[str] = set()

    def path(self, group: str, name: str, item_no: int) -> str:
        """A free path in the group's folder; in a folder of its own where the name is taken."""
        path = f"{group}/{name}"
        parents = {str(parent) for parent in PurePosixPath(path).parents}
        if path in self._files or path in self._folders or parents & self._files:
            path = f"{group}/item-{item_no:07}/{name}"
            parents = {str(parent) for parent in PurePosixPath(path).parents}
        self._files.add(path)
        self._folders |= parents
        return path
