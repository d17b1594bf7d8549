"""Preview: every film of a dataset decoded once, small: whether it can be, and what it shows."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from trainer.acquisition import looks as acquired
from trainer.acquisition import marks, measures
from trainer.acquisition.looks import Looks
from trainer.data import duplicates
from trainer.data.labelled import Film, LeftOut
from trainer.data.patience import Patience
from trainer.errors import FilmError, Stopped
from trainer.film import content, rules

#: Films that a thread looks at together, and how many such parts wait for the threads at a time.
PART, WAITING = 16, 16


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What a decoded film is like."""

    #: For `duplicates.groups`.
    print: duplicates.Print
    #: Sides as stored, in pixels.
    width: int
    height: int
    #: JPEG, PNG, DICOM, …
    kind: str


def at(
    root: Path,
    films: Sequence[Film],
    *,
    workers: int = 2,
    report: Callable[[int, int], None] = lambda done, total: None,
    stop: Callable[[], bool] = lambda: False,
    looks: list[Looks] | None = None,
) -> tuple[dict[str, Preview], list[LeftOut]]:
    """Previews by content, and the films that cannot be decoded. Raises Stopped.

    `workers` is a number of threads; `report` gets how many contents were seen, of how many. Where
    `looks` is given, those of the films that can be decoded are added to it, in the order of the
    previews.
    """
    unique = {f.sha256: f for f in films}
    seen: dict[str, Preview] = {}
    broken: dict[str, FilmError] = {}
    for part, its in _seen(root, list(unique.values()), max(1, workers), looks is not None):
        for sha256, found in part:
            if isinstance(found, FilmError):
                broken[sha256] = found
            else:
                seen[sha256] = found
        if its is not None and looks is not None:
            looks.append(its)
        if stop():
            raise Stopped("stopped while films were looked at")
        report(len(seen) + len(broken), len(unique))
    left_out = [
        LeftOut(path=f.path, code=broken[f.sha256].code, reason=str(broken[f.sha256]))
        for f in films
        if f.sha256 in broken
    ]
    return seen, left_out


def same_pictures(seen: dict[str, Preview]) -> list[list[str]]:
    """Contents that show one picture, two or more in each group."""
    if not seen:
        return []
    contents = sorted(seen)
    rows = duplicates.groups(np.stack([seen[sha256].print for sha256 in contents]))
    return [[contents[row] for row in group] for group in rows]


_Part = tuple[list[tuple[str, Preview | FilmError]], Looks | None]


def _seen(root: Path, films: Sequence[Film], workers: int, look: bool) -> Iterator[_Part]:
    patience = Patience()

    def part(some: Sequence[Film]) -> _Part:
        found: list[tuple[str, Preview | FilmError]] = []
        grays: list[tuple[Image.Image, Preview]] = []
        for film in some:
            try:
                gray, preview = _look(patience.with_((root / film.path).read_bytes), look)
                found.append((film.sha256, preview))
                grays.append((gray, preview))
            except FilmError as error:
                found.append((film.sha256, error))
            except OSError as error:
                why = f"the file cannot be opened: {error.strerror}"
                found.append((film.sha256, FilmError("unreadable", why)))
        return found, _looks(grays) if look and grays else None

    waiting = iter(films)
    with ThreadPoolExecutor(workers, thread_name_prefix="preview") as pool:
        while batch := list(islice(waiting, PART * WAITING)):
            yield from pool.map(part, (batch[n : n + PART] for n in range(0, len(batch), PART)))


def _look(data: bytes, large: bool) -> tuple[Image.Image, Preview]:
    gray = rules.gray(data, size=marks.SIDE if large else duplicates.SIDE)
    pixels = rules.stretched(gray, duplicates.SIDE)
    kind = content.kind(data)
    width, height = _size(data, kind)
    preview = Preview(print=duplicates.fingerprint(pixels), width=width, height=height, kind=kind)
    return gray, preview


def _looks(grays: Sequence[tuple[Image.Image, Preview]]) -> Looks:
    return acquired.of(
        np.stack([rules.stretched(gray, marks.SIDE) for gray, _ in grays]),
        np.stack([rules.stretched(gray, acquired.SMALL) for gray, _ in grays]),
        np.stack([measures.tone(np.asarray(gray)) for gray, _ in grays]).astype(np.float16),
        np.array([(preview.width, preview.height) for _, preview in grays], dtype=np.int32),
    )


def _size(data: bytes, kind: str) -> tuple[int, int]:
    """Width and height from the header of a film that was decoded already."""
    if kind == "DICOM":
        import pydicom

        header = pydicom.dcmread(
            io.BytesIO(data), force=True, stop_before_pixels=True, specific_tags=["Rows", "Columns"]
        )
        return int(header.get("Columns", 0)), int(header.get("Rows", 0))
    if kind == "PNG":  # Pillow would look at chunks that the film was decoded without
        width, height = struct.unpack_from(">2I", data, 16)
        return width, height
    with Image.open(io.BytesIO(data), formats=(kind,)) as image:
        width, height = image.size
    return width, height
