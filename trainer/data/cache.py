"""Cache: every film of a dataset decoded once, into one memory-mapped file.

Decoding is the slow half of an epoch on a small machine, and the films do not change; so each is
made into pixels by `trainer.film.rules` once, and every epoch (and the next run on the same films)
reads them from the file. Needs NumPy and Pillow, no torch.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.format import write_array_header_1_0
from numpy.typing import NDArray

from trainer import atomic
from trainer.data import dataset as datasets
from trainer.data.dataset import Dataset, Film, LeftOut
from trainer.data.patience import Patience
from trainer.errors import FilmError, Stopped
from trainer.film import content, rules

#: Films that wait decoded or undecoded at a time, per thread: enough to keep threads busy, few
#: enough that a large original does not fill a small board's memory.
IN_FLIGHT = 4

#: Earlier datasets' files in which films are looked for: the newest so many.
KEPT_FILES = 8

#: Changes where the files mean something else, or hold films that are left out by now.
LAYOUT = "4"

#: Seconds between two reports.
REPORT_EVERY_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """Decoded films, by content."""

    #: `uint8 [films, S, S]`, memory-mapped and read-only.
    planes: NDArray[np.uint8]
    #: Plane of each content hash.
    row: dict[str, int]
    size: int
    rule: str

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


class _Unread(FilmError):
    """A film could not be read, which says nothing about its content."""


def decode(
    dataset: Dataset,
    folder: Path,
    *,
    size: int,
    rule: str = rules.DEFAULT_RULE,
    workers: int = 2,
    report: Callable[[str], None] = lambda note: None,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[Dataset, Pixels]:
    """The train and val films as pixels, and the dataset without those that have none.

    Files are kept in `folder` under a name made of the films' contents, the rule, the size and the
    versions of what read them, so that a folder may be shared by all runs; films that another
    dataset's files there have are copied from them. What cannot be read is asked for again, left
    out of this run alone, and tried again by the next; what cannot be decoded is remembered.
    `workers` is a number of threads: Pillow decodes without the interpreter's lock. Raises
    DatasetError where too many films are unreadable, OSError where they find no room, and Stopped.
    """
    films = [f for f in dataset.films if f.split != datasets.TEST]
    unique = {f.sha256: f for f in films}
    order = sorted(unique)
    key = _name(rule, size, order)
    if not ((folder / f"{key}.npy").is_file() and (folder / f"{key}.json").is_file()):
        folder.mkdir(parents=True, exist_ok=True)
        key = _write(dataset.root, unique, folder, size, rule, workers, report, stop)
    planes = np.load(folder / f"{key}.npy", mmap_mode="r")
    broken = json.loads((folder / f"{key}.json").read_text())["broken"]
    left_out = [
        LeftOut(path=f.path, code=broken[f.sha256][0], reason=broken[f.sha256][1])
        for f in films
        if f.sha256 in broken
    ]
    row = {sha256: i for i, sha256 in enumerate(order) if sha256 not in broken}
    return dataset.without(left_out), Pixels(planes=planes, row=row, size=size, rule=rule)


def _name(rule: str, size: int, order: Sequence[str], unread: Sequence[str] = ()) -> str:
    """What the files of these films are called; where some could not be read, no run looks there
    that wants them all."""
    without = ["without", *unread] if unread else []
    readers = json.dumps(content.READERS, sort_keys=True)
    parts = (LAYOUT, rule, str(size), readers, *order, *without)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _write(
    root: Path,
    unique: dict[str, Film],
    folder: Path,
    size: int,
    rule: str,
    workers: int,
    report: Callable[[str], None],
    stop: Callable[[], bool],
) -> str:
    """Write the files of these films, by content; returns their name."""
    order = sorted(unique)
    kept = _kept(folder, rule, size)
    jobs = [(root / unique[sha256].path, sha256) for sha256 in order if sha256 not in kept]
    outcomes = _decoded(jobs, size, rule, workers)
    decoded = 0
    broken: dict[str, tuple[str, str]] = {}
    unread: list[str] = []
    started = reported = time.monotonic()
    written = folder / f"{uuid.uuid4().hex}.npy"
    try:
        # Written front to back and not through a map, where a full disk is a deadly signal.
        with (
            atomic.replacing(written, sync=True) as part,
            part.open("wb") as file,
        ):
            write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False,
                                          "shape": (len(order), size, size)})  # fmt: skip
            for done, sha256 in enumerate(order, 1):
                if sha256 in kept:
                    earlier, place = kept[sha256]
                    outcome: NDArray[np.uint8] | FilmError = earlier[place]
                else:
                    outcome = next(outcomes)
                    decoded += 1
                if isinstance(outcome, FilmError):
                    broken[sha256] = (outcome.code, str(outcome))
                    if isinstance(outcome, _Unread):
                        unread.append(sha256)
                    outcome = np.zeros((size, size), np.uint8)
                file.write(np.ascontiguousarray(outcome).data)
                if stop():
                    raise Stopped(f"stopped after decoding {done} of {len(order)} films")
                now = time.monotonic()
                if now - reported > REPORT_EVERY_S:
                    reported = now
                    report(
                        f"decoding films: {done} of {len(order)}, "
                        f"{decoded / (now - started):.0f} per second"
                    )
        name = _name(rule, size, order, unread)
        # The list of films first: the planes are looked at only when both are there.
        about = {"layout": LAYOUT, "rule": rule, "size": size, "readers": content.READERS,
                 "films": order, "broken": broken}  # fmt: skip
        atomic.replace(folder / f"{name}.json", json.dumps(about).encode())
        written.replace(folder / f"{name}.npy")
        return name
    except OSError as error:
        error.filename = error.filename or str(folder)  # a full disk: say which
        raise
    finally:
        outcomes.close()
        written.unlink(missing_ok=True)


def superfluous(folder: Path, older_than_s: float) -> list[Path]:
    """Files in `folder` that no run will read: of datasets beyond the newest, and of killed ones.

    All are older than `older_than_s` seconds. Not for while a run reads or writes there.
    """
    abouts = sorted(folder.glob("*.json"), key=_age_s)
    complete = [about for about in abouts if about.with_suffix(".npy").is_file()]
    kept = {about.stem for about in complete[:KEPT_FILES]}
    files = [*folder.glob("*.json"), *folder.glob("*.npy"), *folder.glob(".*")]
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


def _kept(folder: Path, rule: str, size: int) -> dict[str, tuple[NDArray[np.uint8], int]]:
    """Films that earlier datasets had decoded: content → planes (memory-mapped) and place there.

    A film that was broken is tried again.
    """
    found: dict[str, tuple[NDArray[np.uint8], int]] = {}
    newest = sorted(folder.glob("*.json"), key=lambda p: p.stat().st_mtime, reverse=True)
    for path in newest[:KEPT_FILES]:
        try:
            about = json.loads(path.read_text())
            if (about.get("layout"), about["rule"], about["size"]) != (LAYOUT, rule, size):
                continue
            # Of which kind a film is was not kept: all are decoded anew where one reader changed.
            if about["readers"] != content.READERS:
                continue
            planes = np.load(path.with_suffix(".npy"), mmap_mode="r")
        except (OSError, KeyError, TypeError, ValueError):
            continue  # unfinished, damaged, or another program's: decoding is only slower
        if planes.shape == (len(about["films"]), size, size):
            for place, sha256 in enumerate(about["films"]):
                if sha256 not in about["broken"]:
                    found.setdefault(sha256, (planes, place))
    return found


def _decoded(
    jobs: Sequence[tuple[Path, str]], size: int, rule: str, workers: int
) -> Generator[NDArray[np.uint8] | FilmError, None, None]:
    """What each job became, in order, a bounded number at a time."""
    patience = Patience()
    with ThreadPoolExecutor(max(1, workers), thread_name_prefix="decode") as pool:
        waiting: list[Future[NDArray[np.uint8] | FilmError]] = []
        try:
            for path, sha256 in jobs:
                waiting.append(pool.submit(_one, path, sha256, size, rule, patience))
                if len(waiting) >= IN_FLIGHT * max(1, workers):
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()


def _one(
    path: Path, sha256: str, size: int, rule: str, patience: Patience
) -> NDArray[np.uint8] | FilmError:
    try:
        data = patience.with_(path.read_bytes)
    except OSError as error:
        return _Unread("unreadable", f"the file cannot be opened: {error.strerror}")
    if hashlib.sha256(data).hexdigest() != sha256:
        return _Unread("changed", "the file changed while the folder was being read; run again")
    try:
        return rules.decode(data, size, rule)
    except FilmError as error:
        return error
