"""Pixels: every film of a dataset decoded once, into one memory-mapped file.

Decoding is the slow half of an epoch on a small machine, and the films do not change; so each is
made into pixels by `trainer.film` once, and every epoch (and the next run on the same films) reads
them from the file. Needs NumPy and Pillow, no torch.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from trainer import dataset as datasets
from trainer import film
from trainer.dataset import Dataset, Film, LeftOut
from trainer.errors import FilmError, Stopped

#: Films that wait decoded or undecoded at a time, per thread: enough to keep threads busy, few
#: enough that a large original does not fill a small board's memory.
IN_FLIGHT = 4

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


def decode(
    dataset: Dataset,
    folder: Path,
    *,
    size: int,
    rule: str = film.DEFAULT_RULE,
    workers: int = 2,
    report: Callable[[str], None] = lambda note: None,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[Dataset, Pixels]:
    """The train and val films as pixels, and the dataset without those that have none.

    Files are kept in `folder` under a name made of the films' contents, the rule and the size, so
    that a folder may be shared by all runs. `workers` is a number of threads: Pillow decodes
    without the interpreter's lock. Raises DatasetError where too many films are unreadable, and
    Stopped.
    """
    films = [f for f in dataset.films if f.split != datasets.TEST]
    unique = {f.sha256: f for f in films}
    order = sorted(unique)
    key = hashlib.sha256("\n".join((rule, str(size), *order)).encode()).hexdigest()[:32]
    planes_path, broken_path = folder / f"{key}.npy", folder / f"{key}.json"

    if not (planes_path.is_file() and broken_path.is_file()):
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f".{key}.{uuid.uuid4().hex}"
        try:
            planes = open_memmap(part, mode="w+", dtype=np.uint8, shape=(len(order), size, size))
            broken: dict[str, tuple[str, str]] = {}
            started = heard = time.monotonic()
            jobs = [(dataset.root / unique[sha256].path, sha256) for sha256 in order]
            for done, outcome in enumerate(_decoded(jobs, size, rule, workers), 1):
                if isinstance(outcome, FilmError):
                    broken[order[done - 1]] = (outcome.code, str(outcome))
                else:
                    planes[done - 1] = outcome
                if stop():
                    raise Stopped(f"stopped after decoding {done} of {len(order)} films")
                now = time.monotonic()
                if now - heard > REPORT_EVERY_S:
                    heard = now
                    report(
                        f"decoding films: {done} of {len(order)}, {done / (now - started):.0f} per "
                        "second"
                    )
            planes.flush()
            # The list of broken films first: the planes are looked at only when both are there.
            _write(broken_path, json.dumps(broken, sort_keys=True))
            part.replace(planes_path)
        finally:
            part.unlink(missing_ok=True)

    planes = np.load(planes_path, mmap_mode="r")
    broken = json.loads(broken_path.read_text())
    left_out = [
        LeftOut(path=f.path, code=broken[f.sha256][0], reason=broken[f.sha256][1])
        for f in films
        if f.sha256 in broken
    ]
    row = {sha256: i for i, sha256 in enumerate(order) if sha256 not in broken}
    return dataset.without(left_out), Pixels(planes=planes, row=row, size=size, rule=rule)


def _decoded(
    jobs: Sequence[tuple[Path, str]], size: int, rule: str, workers: int
) -> Iterator[NDArray[np.uint8] | FilmError]:
    """What each job became, in order, a bounded number at a time."""
    with ThreadPoolExecutor(max(1, workers), thread_name_prefix="decode") as pool:
        waiting: list[Future[NDArray[np.uint8] | FilmError]] = []
        try:
            for path, sha256 in jobs:
                waiting.append(pool.submit(_one, path, sha256, size, rule))
                if len(waiting) >= IN_FLIGHT * max(1, workers):
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()


def _one(path: Path, sha256: str, size: int, rule: str) -> NDArray[np.uint8] | FilmError:
    try:
        data = path.read_bytes()
    except OSError as error:
        return FilmError("unreadable", f"the file cannot be opened: {error.strerror}")
    if hashlib.sha256(data).hexdigest() != sha256:
        return FilmError("changed", "the file changed while the folder was being read; run again")
    try:
        return film.decode(data, size, rule)
    except FilmError as error:
        return error


def _write(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        part.write_text(text)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
