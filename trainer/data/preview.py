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

from trainer.data import duplicates
from trainer.data.labelled import Film, LeftOut
from trainer.data.patience import Patience
from trainer.errors import FilmError, Stopped
from trainer.film import content, rules

#: Films that wait for the threads at a time; what is kept of each is a kilobyte.
BATCH = 256


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
) -> tuple[dict[str, Preview], list[LeftOut]]:
    """Previews by content, and the films that cannot be decoded. Raises Stopped.

    `workers` is a number of threads; `report` gets how many contents were seen, of how many.
    """
    unique = {f.sha256: f for f in films}
    seen: dict[str, Preview] = {}
    broken: dict[str, FilmError] = {}
    for sha256, found in _seen(root, list(unique.values()), max(1, workers)):
        if isinstance(found, FilmError):
            broken[sha256] = found
        else:
            seen[sha256] = found
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


def _seen(
    root: Path, films: Sequence[Film], workers: int
) -> Iterator[tuple[str, Preview | FilmError]]:
    patience = Patience()

    def look(one: Film) -> tuple[str, Preview | FilmError]:
        try:
            return one.sha256, _look(patience.with_((root / one.path).read_bytes))
        except FilmError as error:
            return one.sha256, error
        except OSError as error:
            return one.sha256, FilmError(
                "unreadable", f"the file cannot be opened: {error.strerror}"
            )

    waiting = iter(films)
    with ThreadPoolExecutor(workers, thread_name_prefix="preview") as pool:
        while batch := list(islice(waiting, BATCH)):
            yield from pool.map(look, batch)


def _look(data: bytes) -> Preview:
    pixels = rules.decode(data, duplicates.SIDE)
    kind = content.kind(data)
    width, height = _size(data, kind)
    return Preview(print=duplicates.fingerprint(pixels), width=width, height=height, kind=kind)


def _size(data: bytes, kind: str) -> tuple[int, int]:
    """Width and height from the header of a film that was decoded already."""
    if kind == "DICOM":
        from trainer.film import dicom

        return dicom.size(data)
    if kind == "PNG":  # Pillow would look at chunks that the film was decoded without
        width, height = struct.unpack_from(">2I", data, 16)
        return width, height
    with Image.open(io.BytesIO(data), formats=(kind,)) as image:
        width, height = image.size
    return width, height
