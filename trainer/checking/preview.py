"""Preview: every film of a dataset decoded once, small: whether it can be, and what it shows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.checking import duplicates
from trainer.data import decoding
from trainer.data.decoding import Decoder, Wanted
from trainer.data.labelled import Film, LeftOut
from trainer.errors import FilmError, Stopped
from trainer.film import rules


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
) -> tuple[dict[str, Preview], list[LeftOut]]:
    """Previews by content, and the films that cannot be decoded. Raises Stopped.

    `decoder` is two threads where none is given; `report` gets how many contents were seen, of how
    many.
    """
    decoder = decoder or decoding.threads(2)
    unique = list({f.sha256: f for f in films}.values())
    seen: dict[str, Preview] = {}
    broken: dict[str, FilmError] = {}
    wanted = (Wanted(file=root / film.path, sha256=film.sha256) for film in unique)
    with contextlib.closing(
        decoder(wanted, size=duplicates.SIDE, rule=rules.DEFAULT_RULE, stored=True)
    ) as through:
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
                    print=duplicates.fingerprint(pixels),
                    width=stored.width, height=stored.height, kind=stored.kind,
                )  # fmt: skip
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
