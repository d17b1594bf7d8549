"""Labelled films are decoded by processes too: for training, evaluation, checks and imports.

`processes` is what the trainer asks for as a `trainer.data.decoding.Decoder`, `members` the same of
the members of one archive. A film that crashes its decoder, fills its memory or never ends costs
that film, and is named by whoever asked for it. The processes live as long as one call: training
needs their memory afterwards.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.data import decoding
from trainer.data.decoding import Decoder, Stored, Unread, Wanted
from trainer.data.patience import AGAIN_S, TOTAL_S
from trainer.errors import FilmError, FilmRefused
from worker.archive import Member
from worker.archive.folder import member_of
from worker.config import Settings
from worker.decoding import reading
from worker.decoding.film import Decoded, Film, Place
from worker.decoding.pool import Decoders
from worker.decoding.protocol import CONTENT_BYTES
from worker.decoding.supervisor import DIED, TIMEOUT
from worker.errors import DecodersError

#: Memory for pixels, in bytes, and films that may have a place in it: what is not touched costs
#: nothing. Of large films there is room for a few per decoder at least.
MEMORY_BYTES, MOST, FEWEST = 64 << 20, 1024, 8

#: Longest silence, in seconds.
TICK_S = 0.2

#: Each film is a file by itself, of which only its path is known.
_FILES = Place(kind="folder", uri="/", edition="")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How many decoders there are, and what a film may take."""

    decoders: int
    #: Seconds.
    deadline_s: float
    #: MiB of memory.
    limit_mb: int

    @classmethod
    def of(cls, settings: Settings, decoders: int | None = None) -> Limits:
        """The site's; as many decoders as scoring has where nothing else is said."""
        return cls(
            decoders=settings.decoders if decoders is None else decoders,
            deadline_s=settings.film_deadline_s,
            limit_mb=settings.film_memory_mb,
        )


def processes(limits: Limits) -> Decoder:
    """A decoder of so many processes.

    What ended a decoder, took too long or too much memory is Unread: another machine, or other
    settings, may get on with it. Raises DecodersError where they do not start.
    """

    def decode(
        films: Iterable[Wanted], *, size: int, rule: str, stored: bool = False
    ) -> Generator[decoding.Decoded | None, None, None]:
        wanted: dict[int, str] = {}

        def asked() -> Iterator[Film]:
            for number, one in enumerate(films):
                wanted[number] = one.sha256
                name = str(one.file.absolute())
                yield _film(number, _FILES, member_of(name, None), size, rule, sides=stored)

        with closing(_through(asked(), size, limits)) as through:
            for found in through:
                if found is None:
                    yield None
                    continue
                number, _ = found.film.token
                outcome = _outcome(found, wanted.pop(number))
                yield decoding.Decoded(
                    number=number,
                    outcome=outcome,
                    stored=_stored(found, outcome),
                    content=found.content or b"",
                )

    return decode


def members(
    place: Place, films: Iterable[Member], *, size: int, rule: str, limits: Limits
) -> Generator[decoding.Decoded | None, None, None]:
    """The members of an archive as `processes` decodes files: each once, in any order.

    Raises DecodersError.
    """
    asked = (_film(number, place, one, size, rule) for number, one in enumerate(films))
    with closing(_through(asked, size, limits)) as through:
        for found in through:
            if found is None:
                yield None
            else:
                yield decoding.Decoded(number=found.film.token[0], outcome=_outcome(found, ""))


def _film(
    number: int,
    place: Place,
    member: Member,
    size: int,
    rule: str,
    *,
    sides: bool = False,
) -> Film:
    """To be given its place in the memory; the token is its number and the pixels there."""
    return Film(
        token=(number, None), place=place, member=member, rule=rule, size=size, offset=-1,
        hash="sha256", sides=sides,
    )  # fmt: skip


def _outcome(found: Decoded, sha256: str) -> NDArray[np.uint8] | FilmError:
    """A film's pixels, or what is wrong with it: `sha256` is what it should be, if anything."""
    failure = found.failure
    if sha256 and found.content is not None and found.content.hex() != sha256[: 2 * CONTENT_BYTES]:
        return decoding.changed()
    if failure is None:
        pixels: NDArray[np.uint8] = found.film.token[1]
        return pixels
    if found.whose or failure.code in (DIED, TIMEOUT) or failure == reading.TOO_MUCH:
        return Unread(failure.code, failure.message)
    return (FilmRefused if failure.refused else FilmError)(failure.code, failure.message)


def _stored(found: Decoded, outcome: NDArray[np.uint8] | FilmError) -> Stored | None:
    if isinstance(outcome, FilmError) or found.sides is None or found.reader is None:
        return None
    width, height = found.sides
    return Stored(kind=found.reader[0], width=width, height=height)


class _Again:
    """Films that the system did not let be read, until they are asked for again."""

    def __init__(self) -> None:
        self._left_s = TOTAL_S
        self._tried: dict[int, int] = {}
        self._waiting: list[tuple[float, int, Film]] = []

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def takes(self, found: Decoded) -> bool:
        """Whether a film is asked for again later: it is not what it was, but for a moment."""
        number, _ = found.film.token
        tried = self._tried.get(number, 0)
        failure = found.failure
        if failure is None or not found.whose or failure.code in ("missing", TIMEOUT):
            return False
        if tried >= len(AGAIN_S) or self._left_s < AGAIN_S[tried]:
            return False
        self._tried[number] = tried + 1
        self._left_s -= AGAIN_S[tried]
        heapq.heappush(self._waiting, (time.monotonic() + AGAIN_S[tried], number, found.film))
        return True

    def due(self) -> Film | None:
        """The next whose time has come."""
        if self._waiting and self._waiting[0][0] <= time.monotonic():
            return heapq.heappop(self._waiting)[2]
        return None


def _through(
    films: Iterator[Film], size: int, limits: Limits
) -> Generator[Decoded | None, None, None]:
    """Each film once it is through, in any order, or None for a moment without one.

    Its pixels are good until the next is asked for.
    """
    side = size * size
    count = max(1, limits.decoders)
    room = max(FEWEST * count, min(MOST, MEMORY_BYTES // side))
    first = next(films, None)
    if first is None:
        return  # no processes for nothing
    films = itertools.chain([first], films)
    free = deque(range(room))
    again = _Again()
    under_way, more = 0, True
    pool = Decoders(count, room * side, deadline_s=limits.deadline_s, limit_mb=limits.limit_mb)
    with closing(pool):
        while under_way or more or again:
            given: list[Film] = []
            while (free and more and pool.wants(len(given))) or (free and again):
                film = again.due()
                if film is None and more and pool.wants(len(given)):
                    film = next(films, None)
                    more = film is not None
                if film is None:
                    break
                place = free.pop() * side  # the last that was freed is in a processor's cache
                pixels = pool.pixels[place : place + side].reshape(size, size)
                film.offset, film.token = place, (film.token[0], pixels)
                given.append(film)
            under_way += len(given)
            pool.give(given)
            quiet = True
            try:
                for found in pool.collect(TICK_S):
                    quiet = False
                    under_way -= 1
                    if not again.takes(found):
                        yield found
                    free.append(found.film.offset // side)
            except RuntimeError as error:
                raise DecodersError(str(error)) from error
            if quiet:
                yield None
