"""Preview: every film of a dataset decoded once, small: whether it can be, and what it shows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer import regular
from trainer.acquisition import looks as acquired
from trainer.acquisition import marks, measures
from trainer.acquisition.looks import Looks, Sides
from trainer.checking import duplicates
from trainer.data import decoding
from trainer.data.decoding import Decoder, Stored, Wanted
from trainer.data.labelled import Film, LeftOut
from trainer.errors import FilmError, Stopped
from trainer.film import rules

#: Films by which it is told whether all are small, and films that are looked at together.
PROBED, PART = 16, 64

#: Threads that look at films: the decoder has its own.
LOOKING = 2

#: Parts that wait to be looked at, or are looked at; each has 3 MB at 224 px.
AHEAD = 2 * LOOKING


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
    part = _Part(size)
    waiting: list[Future[tuple[dict[str, Preview], Looks | None]]] = []
    done = 0
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
            done += 1
            if isinstance(pixels, FilmError):
                broken[sha256] = pixels
            elif stored is not None:
                part.add(sha256, pixels, stored)
                if len(part.stored) == PART:
                    if len(waiting) >= AHEAD:
                        wait([waiting[-AHEAD]])
                    waiting.append(pool.submit(part.looked_at, looks is not None))
                    part = _Part(size)
            report(done, len(unique))
        if part.stored:
            waiting.append(pool.submit(part.looked_at, looks is not None))
        for one in waiting:
            previews, its = one.result()
            seen |= previews
            if looks is not None and its is not None:
                looks.append(its)
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
            stored = decoding.stored_as(regular.contents(root / film.path))
        except Exception:  # noqa: BLE001 - what is wrong with it is told when it is decoded
            continue
        sides.append(min(stored.width, stored.height))
    return acquired.SMALL if sides and np.median(sides) < acquired.SMALL_FILMS else marks.SIDE


class _Part:
    """Films that are looked at together."""

    def __init__(self, size: int) -> None:
        self._films = np.empty((PART, size, size), np.uint8)
        self.stored: dict[str, Stored] = {}

    def add(self, sha256: str, pixels: NDArray[np.uint8], stored: Stored) -> None:
        """Take one more, of a content that is not there yet."""
        self._films[len(self.stored)] = pixels
        self.stored[sha256] = stored

    def looked_at(self, with_looks: bool) -> tuple[dict[str, Preview], Looks | None]:
        """What is kept of them."""
        films = self._films[: len(self.stored)]
        found = None
        if with_looks:
            sides = acquired.sides(films)
            found = self._looks(films, sides)
            films = sides.small
        prints = duplicates.prints(films)
        return {
            sha256: Preview(print=its, width=stored.width, height=stored.height, kind=stored.kind)
            for (sha256, stored), its in zip(self.stored.items(), prints, strict=True)
        }, found

    def _looks(self, films: NDArray[np.uint8], sides: Sides) -> Looks:
        side = films.shape[1]
        sizes = np.array([(s.width, s.height) for s in self.stored.values()], dtype=np.int32)
        # A film that was brought to another size has other gray levels between its own.
        as_stored = np.flatnonzero((sizes == side).all(axis=1))
        tones = np.zeros((len(films), measures.TONES), np.float16)
        if as_stored.size:
            tones[as_stored] = measures.tone(films[as_stored])
        return acquired.of(sides, tones, sizes, small=side == acquired.SMALL)


def same_pictures(seen: dict[str, Preview]) -> list[list[str]]:
    """Contents that show one picture, two or more in each group."""
    if not seen:
        return []
    contents = sorted(seen)
    rows = duplicates.groups(np.stack([seen[sha256].print for sha256 in contents]))
    return [[contents[row] for row in group] for group in rows]
