"""Decoding: labelled files become pixels, by whatever decoder the caller hands in.

A caller that must outlast any film hands in processes that may die of one; `threads` needs nothing
of the kind, and decodes in this process.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer import regular
from trainer.data.patience import Patience
from trainer.errors import FilmError
from trainer.film import content, rules

#: Films that wait decoded or undecoded at a time, per thread: enough to keep threads busy, few
#: enough that a large original does not fill a small board's memory.
IN_FLIGHT = 4

#: Of a SHA-256, by which films are told apart.
CONTENT_BYTES = 16


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One film to be decoded."""

    file: Path
    #: SHA-256 that its content must have, hexadecimal; empty: any will do.
    sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """How a film is stored."""

    #: JPEG, PNG, DICOM, …
    kind: str
    #: Sides in pixels.
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """What became of a film."""

    #: Its place among those that were wanted.
    number: int
    #: `uint8 [S, S]`, good until the next film is asked for; or why there are none.
    outcome: NDArray[np.uint8] | FilmError
    #: Where it was asked for and there are pixels.
    stored: Stored | None = None
    #: First half of its SHA-256, where there are pixels.
    content: bytes = b""


class Unread(FilmError):
    """A film could not be read or decoded this time, which says nothing about its content."""


class Decoder(Protocol):
    """What decodes films."""

    def __call__(
        self, films: Iterable[Wanted], *, size: int, rule: str, stored: bool = False
    ) -> Generator[Decoded | None, None, None]:
        """Each film once, in any order, by `rule` as pixels of `size` × `size`.

        None says that a moment passed in which none was through. `stored` asks how films are
        stored, too. No more are taken of `films` than are under way. What the system does not let
        be read is asked for again before it is an Unread.
        """


def threads(count: int) -> Decoder:
    """A decoder of so many threads: Pillow decodes without the interpreter's lock."""
    count = max(1, count)

    def decode(
        films: Iterable[Wanted], *, size: int, rule: str, stored: bool = False
    ) -> Generator[Decoded | None, None, None]:
        patience = Patience()
        waiting: deque[Future[Decoded]] = deque()
        with ThreadPoolExecutor(count, thread_name_prefix="decode") as pool:
            try:
                for number, film in enumerate(films):
                    waiting.append(pool.submit(_one, number, film, size, rule, stored, patience))
                    if len(waiting) >= IN_FLIGHT * count:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    return decode


def _one(
    number: int, film: Wanted, size: int, rule: str, stored: bool, patience: Patience
) -> Decoded:
    try:
        data = patience.with_(lambda: regular.contents(film.file))
    except OSError as error:
        reason = f"the file cannot be opened: {error.strerror}"
        return Decoded(number=number, outcome=Unread("unreadable", reason))
    digest = hashlib.sha256(data)
    if film.sha256 and digest.hexdigest() != film.sha256:
        return Decoded(number=number, outcome=changed())
    try:
        pixels = rules.decode(data, size, rule)
    except FilmError as error:
        return Decoded(number=number, outcome=error)
    return Decoded(
        number=number,
        outcome=pixels,
        stored=stored_as(data) if stored else None,
        content=digest.digest()[:CONTENT_BYTES],
    )


def changed() -> Unread:
    """What is wrong with a film of another content than was wanted."""
    return Unread("changed", "the file changed while the folder was being read; run again")


def stored_as(data: bytes) -> Stored:
    """How a film that was decoded already is stored, from its header."""
    kind = content.kind(data)
    if kind == "DICOM":
        from trainer.film import dicom

        width, height = dicom.size(data)
    elif kind == "PNG":  # Pillow would look at chunks that the film was decoded without
        width, height = struct.unpack_from(">2I", data, 16)
    else:
        with Image.open(io.BytesIO(data), formats=(kind,)) as image:
            width, height = image.size
    return Stored(kind=kind, width=width, height=height)
