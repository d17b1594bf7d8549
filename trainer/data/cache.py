"""Cache: every film of a dataset decoded once, into one memory-mapped file.

Decoding is the slow half of an epoch on a small machine, and the films do not change; so each is
made into pixels by `trainer.film.rules` once, and every epoch (and the next run on the same films)
reads them from the file. A run that is interrupted while it decodes leaves a `journal`, with which
the next goes on. Needs NumPy and Pillow, no torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data import dataset as datasets
from trainer.data import decoding, journal
from trainer.data.dataset import Dataset, Film, LeftOut
from trainer.data.decoding import Decoder, Unread, Wanted
from trainer.data.journal import Journal
from trainer.errors import FilmError, Stopped
from trainer.film import content, rules

#: Earlier datasets' files in which films are looked for: the newest so many, as many journals, and
#: as many files of what was found in films.
KEPT_FILES = 8

#: Changes where the files mean something else, or hold films that are left out by now.
LAYOUT = "4"

#: What the names end in of files that keep what was found in films (`trainer.checking.kept`).
SEARCHED = ".searched"

#: What reading files raises that are unfinished, damaged, or another program's.
UNREADABLE = (OSError, EOFError, KeyError, TypeError, ValueError)

#: Planes whose checksums a thread takes at a time, and how many threads do.
PART, THREADS = 64, 2

#: Seconds between two reports.
REPORT_EVERY_S = 1.0

#: How often a journal that another process has is asked for, in seconds.
ASK_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """Decoded films, by content."""

    #: `uint8 [films, S, S]`, memory-mapped and read-only.
    planes: NDArray[np.uint8]
    #: Plane of each content hash.
    row: dict[str, int]
    size: int
    rule: str
    #: Where their file is; None where they are in memory only.
    folder: Path | None = None

    def rows(self, films: Sequence[Film]) -> NDArray[np.int64]:
        """Planes of these films, in their order."""
        return np.array([self.row[film.sha256] for film in films], dtype=np.int64)

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """A batch, `uint8 [N, 1, S, S]`, copied out of the file."""
        return self.planes[rows][:, None]

    def each(self, rows: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
        """These planes, `uint8 [1, S, S]` each, where they lie in the file."""
        planes = np.asarray(self.planes)
        return [planes[row][None] for row in rows]


def decode(
    dataset: Dataset,
    folder: Path,
    *,
    size: int,
    rule: str = rules.DEFAULT_RULE,
    decoder: Decoder | None = None,
    report: Callable[[str], None] = lambda note: None,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[Dataset, Pixels]:
    """The train and val films as pixels, and the dataset without those that have none.

    Files are kept in `folder` under a name made of the films' contents, the rule, the size and the
    versions of what read them, so that a folder may be shared by all runs; films that another
    dataset's files there have are copied from them, and what an interrupted run had decoded is not
    decoded again. What cannot be read is left out of this run alone, and tried again by the next;
    what cannot be decoded is remembered. `decoder` is two threads where none is given. Raises
    DatasetError where too many films are unreadable, OSError where they find no room, and Stopped.
    """
    films = [f for f in dataset.films if f.split != datasets.TEST]
    unique = {f.sha256: f for f in films}
    order = sorted(unique)
    name = _name(rule, size, order)
    if not _is_whole(folder / name, report):
        folder.mkdir(parents=True, exist_ok=True)
        files = [Wanted(file=dataset.root / unique[one].path, sha256=one) for one in order]
        name = _make(files, folder / name, size, rule, decoder or decoding.threads(2), report, stop)
    planes = np.load(folder / f"{name}.npy", mmap_mode="r")
    broken = json.loads((folder / f"{name}.json").read_text())["broken"]
    left_out = [
        LeftOut(path=f.path, code=broken[f.sha256][0], reason=broken[f.sha256][1])
        for f in films
        if f.sha256 in broken
    ]
    row = {sha256: i for i, sha256 in enumerate(order) if sha256 not in broken}
    pixels = Pixels(planes=planes, row=row, size=size, rule=rule, folder=folder)
    return dataset.without(left_out), pixels


def _is_whole(path: Path, report: Callable[[str], None]) -> bool:
    """Whether a cache is there, and every plane of it what was written."""
    if not (path.with_suffix(".npy").is_file() and path.with_suffix(".json").is_file()):
        return False
    damaged: Sequence[int] | None = None
    with contextlib.suppress(*UNREADABLE):
        about = json.loads(path.with_suffix(".json").read_text())
        planes = np.load(path.with_suffix(".npy"), mmap_mode="r")
        if planes.shape == (len(about["films"]), about["size"], about["size"]):
            # Files of release 0.2.0 have none.
            damaged = _damaged(planes, about.get("crcs") or ())
    if damaged is not None and not damaged:
        return True
    which = f"{len(damaged)} of {len(planes)} decoded films" if damaged else "the decoded films"
    report(f"{which} in the cache are damaged on the disk, and are decoded anew")
    return False


def _damaged(planes: NDArray[np.uint8], crcs: Sequence[int | None]) -> list[int]:
    """Places of the planes that are not what was written, uint8 [films, S, S]."""

    def part(start: int) -> list[int]:
        some = enumerate(crcs[start : start + PART], start)
        return [n for n, crc in some if crc is not None and zlib.crc32(planes[n].data) != crc]

    with ThreadPoolExecutor(THREADS, thread_name_prefix="checksum") as pool:
        return [n for some in pool.map(part, range(0, len(crcs), PART)) for n in some]


def _name(rule: str, size: int, order: Sequence[str], unread: Sequence[str] = ()) -> str:
    """What the files of these films are called; where some could not be read, no run looks there
    that wants them all."""
    without = ["without", *unread] if unread else []
    readers = json.dumps(content.READERS, sort_keys=True)
    parts = (LAYOUT, rule, str(size), readers, *order, *without)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _make(
    files: Sequence[Wanted],
    path: Path,
    size: int,
    rule: str,
    decoder: Decoder,
    report: Callable[[str], None],
    stop: Callable[[], bool],
) -> str:
    """Make the cache of these films, of which `path` is without a suffix; returns its name."""
    order = [film.sha256 for film in files]
    about = {
        "layout": LAYOUT, "rule": rule, "size": size, "readers": content.READERS, "films": order,
    }  # fmt: skip
    try:
        mine = _taken(path, about, report, stop)
        if mine is None:
            return path.name
        with mine:
            if mine.entries:
                report(
                    f"going on with {len(mine.entries)} of {len(order)} films, which an earlier "
                    "run decoded"
                )
            unread = _fill(mine, files, path.parent, size, rule, decoder, report, stop)
            broken = {e.sha256: (e.code, e.reason) for e in mine.entries.values() if e.crc is None}
            name = _name(rule, size, order, sorted(unread))
            mine.finish(path.with_name(name), {**broken, **unread})
            return name
    except OSError as error:
        error.filename = error.filename or str(path.parent)  # a full disk: say which
        raise


def _taken(
    path: Path, about: dict[str, Any], report: Callable[[str], None], stop: Callable[[], bool]
) -> Journal | None:
    """The journal of a cache; None where another process has made the cache meanwhile."""
    waits = False
    while True:
        stem = path.with_name(f".{path.name}")
        fd = journal.lock(stem)
        if fd is not None and not _is_whole(path, lambda note: None):
            return Journal(fd, stem, about)
        if fd is not None:
            journal.discard(stem)
            os.close(fd)
            return None
        if not waits:
            waits = True
            report("another process of this machine decodes the same films; waiting for it")
        if stop():
            raise Stopped("stopped while another process decoded the films")
        time.sleep(ASK_S)


def _fill(
    mine: Journal,
    files: Sequence[Wanted],
    folder: Path,
    size: int,
    rule: str,
    decoder: Decoder,
    report: Callable[[str], None],
    stop: Callable[[], bool],
) -> dict[str, tuple[str, str]]:
    """Add all films that are not there yet; of those that could not be read, code and reason."""
    todo = [place for place in range(len(files)) if place not in mine.entries]
    kept = _kept(folder, rule, size) if todo else {}
    unread: dict[str, tuple[str, str]] = {}
    started = reported = time.monotonic()
    decoded = 0

    def moment() -> None:
        nonlocal reported
        done = len(mine.entries) + len(unread)
        if stop():
            raise Stopped(f"stopped after decoding {done} of {len(files)} films")
        now = time.monotonic()
        if now - reported > REPORT_EVERY_S:
            reported = now
            report(
                f"decoding films: {done} of {len(files)}, "
                f"{decoded / (now - started):.0f} per second"
            )

    for place in todo:
        earlier = kept.get(files[place].sha256)
        plane = None if earlier is None else earlier.plane()
        if plane is not None:
            mine.add(place, plane)
            moment()
    todo = [place for place in todo if place not in mine.entries]
    wanted = (files[place] for place in todo)
    with contextlib.closing(decoder(wanted, size=size, rule=rule)) as through:
        for found in through:
            if found is not None:
                place, outcome = todo[found.number], found.outcome
                decoded += 1
                if isinstance(outcome, Unread):
                    unread[files[place].sha256] = (outcome.code, str(outcome))
                elif isinstance(outcome, FilmError):
                    mine.add_broken(place, outcome.code, str(outcome))
                else:
                    mine.add(place, outcome)
            moment()
    return unread


def superfluous(folder: Path, older_than_s: float) -> list[Path]:
    """Files in `folder` that no run will read: of datasets beyond the newest, and of killed ones.

    All are older than `older_than_s` seconds. Not for while a run reads or writes there.
    """
    abouts = sorted(folder.glob("*.json"), key=_age_s)
    complete = [about for about in abouts if about.with_suffix(".npy").is_file()]
    kept = {about.stem for about in complete[:KEPT_FILES]}
    kept |= {path.stem for path in sorted(folder.glob(f"*{SEARCHED}"), key=_age_s)[:KEPT_FILES]}
    files = [
        file for ends in ("*.json", "*.npy", f"*{SEARCHED}", ".*") for file in folder.glob(ends)
    ]
    return sorted(
        file
        for file in files
        if (file.name.startswith(".") or file.stem not in kept) and _age_s(file) > older_than_s
    )


def _age_s(file: Path) -> float:
    """Seconds since a file was written; of one that is gone meanwhile, none."""
    try:
        return time.time() - file.stat().st_mtime
    except OSError:
        return 0.0


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """A film in another dataset's files."""

    #: Memory-mapped.
    planes: NDArray[np.uint8]
    place: int
    #: CRC-32 of the plane, where it is known.
    crc: int | None = None

    def plane(self) -> NDArray[np.uint8] | None:
        """Its pixels, `uint8 [S, S]`; None where they are not what was written."""
        found = np.ascontiguousarray(self.planes[self.place])
        return found if self.crc is None or zlib.crc32(found.data) == self.crc else None


def _kept(folder: Path, rule: str, size: int) -> dict[str, _Kept]:
    """Films that earlier datasets had decoded, by content. One that was broken is tried again."""
    found: dict[str, _Kept] = {}
    for about, planes, films in (*_finished(folder), *_unfinished(folder)):
        try:
            if (about.get("layout"), about["rule"], about["size"]) != (LAYOUT, rule, size):
                continue
            # Of which kind a film is was not kept: all are decoded anew where one reader changed.
            if about["readers"] != content.READERS:
                continue
            if planes.shape == (len(about["films"]), size, size):
                for sha256, place, crc in films:
                    found.setdefault(sha256, _Kept(planes=planes, place=place, crc=crc))
        except (KeyError, TypeError, ValueError):
            continue  # another program's
    return found


#: What files say of themselves, their planes, and content, place and CRC-32 of each of their films.
_Files = tuple[dict[str, Any], NDArray[np.uint8], list[tuple[str, int, "int | None"]]]


def _finished(folder: Path) -> Iterator[_Files]:
    for path in sorted(folder.glob("*.json"), key=_age_s)[:KEPT_FILES]:
        try:
            about = json.loads(path.read_text())
            planes = np.load(path.with_suffix(".npy"), mmap_mode="r")
            order = about["films"]
            crcs = about.get("crcs") or [None] * len(order)
            films: list[tuple[str, int, int | None]] = [
                (sha256, n, crc)
                for n, (sha256, crc) in enumerate(zip(order, crcs, strict=True))
                if sha256 not in about["broken"]
            ]
        except UNREADABLE:
            continue  # unfinished, damaged, or another program's: decoding is only slower
        yield about, planes, films


def _unfinished(folder: Path) -> Iterator[_Files]:
    for path in sorted(folder.glob(f".*{journal.ENTRIES}"), key=_age_s)[:KEPT_FILES]:
        try:
            about, planes, entries = journal.read(path)
        except UNREADABLE:
            continue
        yield about, planes, [(e.sha256, e.place, e.crc) for e in entries if e.crc is not None]
