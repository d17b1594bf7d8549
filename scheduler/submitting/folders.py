"""Folders: a job's films copied into class folders, by what the model decided.

One part of the job is at hand at a time, so that a job of any size can be copied.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from db.queue import picks
from db.queue.picks import Pick
from scheduler import errors, session
from scheduler.submitting import uncertain
from trainer import atomic
from worker.machine import privacy
from worker.scoring import reread

#: Item numbers and reasons that are kept of films that could not be read.
NAMED = 10


@dataclass(kw_only=True)
class Copied:
    """What became of the films."""

    #: Class, or uncertain.UNUSUAL, → films copied.
    films: dict[str, int] = field(default_factory=dict)
    #: Films that could not be read, and the first few: item number and why.
    n_failed: int = 0
    failed: list[tuple[int, str]] = field(default_factory=list)


def write(engine: sa.Engine, job_id: int, folder: Path) -> Copied:
    """Copy every film that was scored into a new folder, below the class that it is called.

    Unusual ones lie apart. The folder is whole or not there. Raises Failure, ArchiveError.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise errors.Failure(f"{folder} is there and not empty; give a new folder")
    if not folder.absolute().parent.is_dir():
        raise errors.Failure(f"{folder}: there is no folder {folder.parent}; make it first")
    labels = picks.classes(engine, job_id)
    copied = Copied()
    with atomic.new_folder(folder) as part:
        for name in labels:  # also those that no film is called
            (part / name).mkdir()
        index = part / uncertain.INDEX
        with index.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(("item", "path", "label", "probability", "threshold", "ood"))
            for pick, path in _copies(engine, job_id, part, labels, copied):
                rows.writerow(
                    (pick.item_no, path, pick.label, pick.probability, pick.threshold, pick.ood)
                )
        if not copied.films:
            reason = f"; item {copied.failed[0][0]}: {copied.failed[0][1]}" if copied.failed else ""
            raise errors.Failure(f"no film of job {job_id} could be copied{reason}")
    return copied


def _copies(
    engine: sa.Engine, job_id: int, folder: Path, labels: list[str], copied: Copied
) -> Iterator[tuple[Pick, str]]:
    """Each film that is copied, and its path in the folder."""
    site = privacy.load(session.settings())
    for group in picks.by_shard(engine, job_id):
        of = {pick.item_no: pick for pick in group}
        items = [(pick.shard_no, pick.item_no) for pick in group]
        for film in reread.read(engine, job_id, items, site):
            pick = of[film.item_no]
            if film.reason:
                copied.n_failed += 1
                copied.failed += [(film.item_no, film.reason)][: NAMED - len(copied.failed)]
                continue
            kind = uncertain.UNUSUAL if pick.unusual else pick.label
            path = f"{kind}/{uncertain.name_of(film, pick.name, labels)}"
            place = folder / path
            if place.exists() or any(p.is_file() for p in place.parents if p != folder):
                path = f"{kind}/item-{film.item_no:07}/{uncertain.name_of(film, pick.name, labels)}"
                place = folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(film.data)
            copied.films[kind] = copied.films.get(kind, 0) + 1
            yield pick, path
