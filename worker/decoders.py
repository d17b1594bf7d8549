"""The decoder processes seen from their parent: films go out in chunks, and come back one by one.

Pixels arrive in one block of shared memory at places that the caller chose, so they are never
copied. A decoder that dies or overruns the deadline is replaced; the film it was at gets a second
chance in a new process, since a killed process may be innocent, and after that an error.
"""

from __future__ import annotations

import contextlib
import json
import logging
import mmap
import os
import selectors
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker import archive, decoder
from worker.archive import Kind, Member
from worker.decoder import CONTENT_BYTES, MARK_NUMBERS, Reply

log = logging.getLogger(__name__)

#: Films in one message to a decoder: as many as it is through with in CHUNK_S, which hides the
#: round trip and still shares out the last films of a shard.
FEWEST, MOST = 2, 256
CHUNK_S = 0.03

#: A message's names have at most so many characters: JSON writes some in twelve bytes.
CHUNK_NAMES = decoder.MESSAGE_BYTES // 16

#: Messages that may wait at one decoder.
QUEUE = 2

#: A film is blamed when this many decoders ended while at it.
STRIKES = 2

#: A decoder must report ready within this many seconds of its start.
START_S = 60.0

#: After this many failed starts in a row no further one is tried.
STARTS = 10

#: A decoder that closed its socket is on its way out: its exit status tells why, if it comes in
#: this many seconds.
EXIT_S = 1.0

#: A killed process that is still there after this many seconds (it waits for a dead disk or file
#: server, which not even SIGKILL ends) is left to itself.
REAP_S = 5.0

#: Characters of a member's name that go to a decoder, unless the name is the way to its bytes.
NAME_LENGTH = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a film's bytes are."""

    kind: Kind
    uri: str
    #: Another one says that another archive may lie at the same path: it is opened anew.
    edition: str
    #: Compressed archives: an open window on the uncompressed stream, and where that begins.
    window_fd: int | None = None
    base: int = 0


@dataclass(kw_only=True, slots=True, eq=False)
class Film:
    """One film to be decoded; `token` is the caller's own."""

    token: Any
    place: Place
    member: Member
    rule: str
    size: int
    #: Offset of its pixels in the shared memory, in bytes; below 0 where only its content hash is
    #: wanted.
    offset: int
    #: Codes of refusals that are overridden.
    accept: tuple[str, ...] = ()
    strikes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """A film that is through: its pixels are in place, or `failure` says what is wrong."""

    film: Film
    #: (code, message, refused)
    failure: tuple[str, str, bool] | None = None
    #: BLAKE2b-128 of the film's bytes; None where they could not be read.
    content: bytes | None = None
    #: DICOM: identifying tags as they stand in the film, for the site's eyes only.
    tags: dict[str, str] | None = None


class _Decoder:
    """One process and what it has been given."""

    def __init__(
        self, number: int, memory_fd: int, memory_bytes: int, marks: _Marks, limit_mb: int
    ) -> None:
        self.number = number
        self._marks = marks
        marks.clear(number)
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                decoder.arguments(
                    theirs.fileno(), memory_fd, memory_bytes, marks.fd, number, limit_mb
                ),
                pass_fds=(theirs.fileno(), memory_fd, marks.fd),
                stdin=subprocess.DEVNULL,
                cwd="/",  # a folder named like one of our packages must not be found first
            )
        self.ready = False
        self.given: deque[Film] = deque()
        self.chunks: deque[int] = deque()  # films left of each message that was sent
        self.heard = time.monotonic()
        self.answered = 0

    def at(self) -> tuple[int, float]:
        """Place in `given` of the film it is at, and since when (time.monotonic) it is."""
        begun, since = self._marks.read(self.number)
        if begun > self.answered:
            return min(begun - self.answered, len(self.given)) - 1, since
        return 0, self.heard  # it is at none yet: it may be opening the archive of the first

    @property
    def free(self) -> bool:
        return self.ready and len(self.chunks) < QUEUE

    def give(self, films: list[Film]) -> None:
        place = films[0].place
        # Only files in folders are found by name; in archives names may be longer than a message.
        length = None if place.kind in archive.BY_NAME else NAME_LENGTH
        message = {
            "source": [place.kind, place.uri, place.edition, place.base],
            "rule": films[0].rule,
            "size": films[0].size,
            "accept": films[0].accept,
            "films": [
                [f.offset, m.name[:length], m.offset, m.stored, m.size, m.method, m.crc]
                for f in films
                for m in (f.member,)
            ],
        }
        if not self.given:
            self.heard = time.monotonic()
        self.given.extend(films)
        self.chunks.append(len(films))
        fds = [] if place.window_fd is None else [place.window_fd]
        socket.send_fds(self.socket, [json.dumps(message).encode()], fds)

    def end(self, grace_s: float = 0.0) -> int:
        """Kill the process unless it ends by itself in time; its exit status."""
        self.socket.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(grace_s)
        self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(REAP_S)
        return -signal.SIGKILL


class _Marks:
    """What each decoder was at last, in memory that outlives it."""

    def __init__(self, count: int) -> None:
        self.fd = os.memfd_create("pneumoq-marks", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, count * MARK_NUMBERS * 8)
        self._memory = mmap.mmap(self.fd, count * MARK_NUMBERS * 8)
        self._numbers = memoryview(self._memory).cast("q")

    def clear(self, number: int) -> None:
        self._numbers[number * MARK_NUMBERS] = 0

    def read(self, number: int) -> tuple[int, float]:
        """Films begun since the process started, and when (time.monotonic) the latest was."""
        # The decoder writes the time first: read last, it is that of this film or of a later one.
        begun = self._numbers[number * MARK_NUMBERS]
        return begun, self._numbers[number * MARK_NUMBERS + 1] / 1e9

    def close(self) -> None:
        self._numbers.release()
        self._memory.close()
        os.close(self.fd)


class Decoders:
    """A pool of decoder processes over one block of shared memory.

    Not thread safe: one thread gives and collects.
    """

    def __init__(self, count: int, memory_bytes: int, *, deadline_s: float, limit_mb: int) -> None:
        self._deadline_s = deadline_s
        self._limit_mb = limit_mb
        # Pages that are never touched cost nothing, and the block dies with its last process.
        self._memory_fd = os.memfd_create("pneumoq-pixels", os.MFD_CLOEXEC)
        os.ftruncate(self._memory_fd, memory_bytes)
        self._memory = mmap.mmap(self._memory_fd, memory_bytes)
        #: The shared memory, `uint8 [memory_bytes]`.
        self.pixels: NDArray[np.uint8] = np.frombuffer(self._memory, np.uint8)
        self._marks = _Marks(count)
        self._selector = selectors.DefaultSelector()
        self._failed_starts = 0
        #: Seconds that a film took lately.
        self._film_s = CHUNK_S / FEWEST
        self._queue: deque[Film] = deque()
        self._decoders = [self._start(number) for number in range(count)]

    def _start(self, number: int) -> _Decoder:
        new = _Decoder(number, self._memory_fd, len(self._memory), self._marks, self._limit_mb)
        self._selector.register(new.socket, selectors.EVENT_READ, new)
        return new

    @property
    def selector(self) -> selectors.BaseSelector:
        """Register more files here to be woken by them in `collect`; their data must be None."""
        return self._selector

    def wants(self, more: int) -> bool:
        """Whether `more` films would still leave the decoders wanting."""
        return len(self._queue) + more < self._chunk_length() * QUEUE * len(self._decoders)

    def films_in(self, seconds: float) -> int:
        """How many films like the latest all decoders together are through with in so long."""
        return int(seconds / self._film_s * len(self._decoders))

    def _chunk_length(self) -> int:
        return max(FEWEST, min(MOST, int(CHUNK_S / self._film_s)))

    def give(self, films: Iterable[Film]) -> None:
        """Queue films to be decoded, in this order."""
        self._queue.extend(films)
        self._deal()

    def forget(self, unwanted: Any) -> list[Film]:
        """Take back the queued films that no decoder has yet and that `unwanted(film)` names."""
        taken = [f for f in self._queue if unwanted(f)]
        self._queue = deque(f for f in self._queue if not unwanted(f))
        return taken

    def _deal(self) -> None:
        # Round by round, so that every decoder has work before one has it twice.
        while self._queue:
            idle = [d for d in self._decoders if d.free]
            if not idle:
                return
            chosen = min(idle, key=lambda d: len(d.chunks))
            chunk = self._chunk()
            try:
                chosen.give(chunk)
            except OSError:
                # It has just died, or will: `collect` finds out, replaces it, and queues what it
                # had.
                chosen.process.kill()
                chosen.ready = False

    def _chunk(self) -> list[Film]:
        first = self._queue.popleft()
        chunk = [first]
        # A film under suspicion travels alone.
        most = 1 if first.strikes else self._chunk_length()
        names = _name_bytes(first)
        while (
            self._queue
            and len(chunk) < most
            and self._queue[0].place is first.place
            and self._queue[0].rule == first.rule
            and self._queue[0].size == first.size
            and self._queue[0].accept == first.accept
            and not self._queue[0].strikes
            and (names := names + _name_bytes(self._queue[0])) < CHUNK_NAMES
        ):
            chunk.append(self._queue.popleft())
        return chunk

    def collect(self, timeout_s: float) -> Iterator[Decoded]:
        """Films that came through, waiting up to `timeout_s` for the first event."""
        for key, _ in self._selector.select(timeout_s):
            if key.data is not None:
                yield from self._receive(key.data)
        yield from self._overdue()
        self._deal()

    def _receive(self, source: _Decoder) -> Iterator[Decoded]:
        while True:
            try:
                message = source.socket.recv(decoder.MESSAGE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                message = b""
            if not message:
                yield from self._replace(source, "decoder_died", "the decoder ended at this film")
                return
            source.heard = time.monotonic()
            if not source.ready:
                source.ready = True
                self._failed_starts = 0
                continue
            yield from self._answered(source, Reply.unpack(message))

    def _answered(self, source: _Decoder, reply: Reply) -> Iterator[Decoded]:
        source.answered += reply.films
        source.chunks[0] -= reply.films
        if not source.chunks[0]:
            source.chunks.popleft()
        # A little of each new answer, so that one slow film does not decide.
        self._film_s += 0.2 * (reply.seconds / reply.films - self._film_s)
        for n in range(reply.films):
            content = reply.contents[n * CONTENT_BYTES : (n + 1) * CONTENT_BYTES]
            failure = reply.failures.get(n)
            yield Decoded(
                film=source.given.popleft(),
                failure=None if failure is None else (failure[0], failure[1], failure[2]),
                content=content if any(content) else None,
                tags=reply.tags.get(n),
            )

    def _overdue(self) -> Iterator[Decoded]:
        now = time.monotonic()
        for source in list(self._decoders):
            limit_s = self._deadline_s if source.ready else START_S
            since = source.at()[1] if source.given else source.heard
            if (source.given or not source.ready) and now - since > limit_s:
                yield from self._replace(
                    source,
                    "decoder_timeout",
                    f"decoding was given up after {self._deadline_s:.0f} s "
                    "(PNEUMOQ_FILM_DEADLINE_S)",
                )

    def _replace(self, source: _Decoder, code: str, message: str) -> Iterator[Decoded]:
        self._selector.unregister(source.socket)
        died = code == "decoder_died"
        status = source.end(EXIT_S if died else 0.0)
        if died:
            cause = f"signal {-status}" if status < 0 else f"exit status {status}"
            message = f"{message} ({cause})"
        log.warning("decoder %d is replaced: %s", source.number, message)
        if not source.ready and not source.given:
            self._failed_starts += 1
            if self._failed_starts >= STARTS:
                raise RuntimeError(
                    "decoder processes do not start; run `python -m worker.decoder` to see why"
                )
        # Read before the successor clears it.
        suspect = source.given[source.at()[0]] if source.given else None
        self._decoders[source.number] = self._start(source.number)
        waiting = source.given
        if suspect is not None:
            suspect.strikes += 1
            if suspect.strikes >= STRIKES:
                waiting.remove(suspect)
                yield Decoded(film=suspect, failure=(code, message, False))
        self._queue.extendleft(reversed(waiting))

    def close(self) -> None:
        """End the processes and let go of the memory."""
        for source in self._decoders:
            source.end()
        self._selector.close()
        self._decoders = []
        self._marks.close()
        os.close(self._memory_fd)


def _name_bytes(film: Film) -> int:
    length = len(film.member.name)
    return length if film.place.kind in archive.BY_NAME else min(length, NAME_LENGTH)
