"""Preview: every film of a dataset decoded once, small: whether it can be, and what it shows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer.acquisition import looks as acquired
from trainer.acquisition import marks, measures
from trainer.acquisition.looks import Looks
from trainer.checking import duplicates
from trainer.data import decoding
from trainer.data.decoding import Decoder, Stored, Wanted
from trainer.data.labelled import Film, LeftOut
from trainer.errors import FilmError, Stopped
from trainer.film import rules

#: Films by which it is told whether all are small, and films whose looks are taken together.
PROBED, PART = 16, 16

#: Threads that take looks: the decoder has its own.
LOOKING = 2


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
    decoder: Decoder | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
    stop: Callable[[], bool] = lambda: False,
    looks: list[Looks] | None = None,
) -> tuple[dict[str, Preview], list[LeftOut]]:
    """Previews by content, and the films that cannot be decoded. Raises Stopped.

    `decoder` is two threads where none is given; `report` gets how many contents were seen, of how
    many. Where `looks` is given, those of the films that can be decoded are added to it, some at a
    time, in the order of the previews.
    """
    decoder = decoder or decoding.threads(2)
    unique = list({f.sha256: f for f in films}.values())
    seen: dict[str, Preview] = {}
    broken: dict[str, FilmError] = {}
    wanted = (Wanted(file=root / film.path, sha256=film.sha256) for film in unique)
    size = duplicates.SIDE if looks is None else _side(root, unique[:PROBED])
    some: list[tuple[NDArray[np.uint8], Stored]] = []
    waiting: list[Future[Looks]] = []
    with (
        ThreadPoolExecutor(LOOKING, thread_name_prefix="look") as pool,
        contextlib.closing(
            decoder(wanted, size=size, rule=rules.DEFAULT_RULE, stored=True)
        ) as through,
    ):
        for found in through:
            if stop():
                raise Stopped("stopped while films were looked at")
            if found is None:
                continue
            sha256, pixels, stored = unique[found.number].sha256, found.outcome, found.stored
            if isinstance(pixels, FilmError):
                broken[sha256] = pixels
            elif stored is not None:
                seen[sha256] = Preview(
                    print=duplicates.fingerprint(_scaled(pixels, duplicates.SIDE)),
                    width=stored.width, height=stored.height, kind=stored.kind,
                )  # fmt: skip
                if looks is not None:
                    some.append((pixels.copy(), stored))
                    if len(some) == PART:
                        waiting.append(pool.submit(_looks, some))
                        some = []
            report(len(seen) + len(broken), len(unique))
    if looks is not None:
        looks += [one.result() for one in waiting]
        if some:
            looks.append(_looks(some))
    left_out = [
        LeftOut(path=f.path, code=broken[f.sha256].code, reason=str(broken[f.sha256]))
        for f in films
        if f.sha256 in broken
    ]
    return seen, left_out


def _side(root: Path, films: Sequence[Film]) -> int:
    """At which side films are looked at: small ones would only be blown up."""
    sides = []
    for film in films:
        try:
            stored = decoding.stored_as((root / film.path).read_bytes())
        except Exception:  # noqa: BLE001 - what is wrong with it is told when it is decoded
            continue
        sides.append(min(stored.width, stored.height))
    return acquired.SMALL if sides and np.median(sides) < acquired.SMALL_FILMS else marks.SIDE


def _scaled(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    if len(pixels) == side:
        return pixels
    size = (side, side)
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))


def _looks(some: Sequence[tuple[NDArray[np.uint8], Stored]]) -> Looks:
    films = [pixels for pixels, _ in some]
    tones = []
    for pixels, stored in some:
        # A film that was brought to another size has other gray levels between its own.
        as_stored = pixels.shape == (stored.height, stored.width)
        tones.append(measures.tone(pixels) if as_stored else measures.no_tone())
    return acquired.of(
        np.stack([_scaled(film, marks.SIDE) for film in films]),
        np.stack([_scaled(film, acquired.SMALL) for film in films]),
        np.stack(tones).astype(np.float16),
        np.array([(stored.width, stored.height) for _, stored in some], dtype=np.int32),
        small=len(films[0]) == acquired.SMALL,
    )


def same_pictures(seen: dict[str, Preview]) -> list[list[str]]:
    """Contents that show one picture, two or more in each group."""
    if not seen:
        return []
    contents = sorted(seen)
    rows = duplicates.groups(np.stack([seen[sha256].print for sha256 in contents]))
    return [[contents[row] for row in group] for group in rows]
