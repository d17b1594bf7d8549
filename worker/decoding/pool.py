"""The decoder processes seen from their parent: films go out in chunks, and come back one by one.

Pixels arrive in one block of shared memory at places that the caller chose, so they are never
copied. A decoder that dies or overruns the deadline is replaced; the film it was at gets a second
chance in a new process, since a killed process may be innocent, and after that an error. A decoder
on a GPU is one more beside those on the CPU and never does without them: it may refuse to serve.
"""

from __future__ import annotations

import logging
import mmap
import os
import selectors
import socket
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.decoding import child
from worker.decoding.child import CONTENT_BYTES, Reply
from worker.decoding.handle import (
    QUEUE,
    DecoderProcess,
    Film,
    Marks,
    OnGpu,
    Pace,
    Place,
    name_bytes,
)

__all__ = ["Decoded", "Decoders", "Film", "OnGpu", "Place"]

log = logging.getLogger(__name__)

#: A message's names have at most so many characters: JSON writes some in twelve bytes.
CHUNK_NAMES = child.MESSAGE_BYTES // 16

#: A film is blamed when this many decoders ended while at it.
STRIKES = 2

#: After this many failed starts in a row no further one is tried.
STARTS = 10

#: A GPU decoder that ended this many times, having answered for fewer than GPU_FILMS films since
#: its start each time, is not started again: its start takes seconds.
GPU_ENDS, GPU_FILMS = 3, 1000

#: A decoder that closed its socket is on its way out: its exit status tells why, if it comes in
#: this many seconds.
EXIT_S = 1.0


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


class Decoders:
    """A pool of decoder processes over one block of shared memory.

    Not thread safe: one thread gives and collects.
    """

    def __init__(
        self,
        count: int,
        memory_bytes: int,
        *,
        deadline_s: float,
        limit_mb: int,
        gpu: OnGpu | None = None,
    ) -> None:
        self._deadline_s = deadline_s
        self._limit_mb = limit_mb
        self._gpu = gpu
        self._gpu_ends = 0
        #: What became of the decoder on the GPU: `off`, `starting`, `serving: …` or `off: why`.
        self.gpu_state = "off"
        # Pages that are never touched cost nothing, and the block dies with its last process.
        self._memory_fd = os.memfd_create("pneumoq-pixels", os.MFD_CLOEXEC)
        os.ftruncate(self._memory_fd, memory_bytes)
        self._memory = mmap.mmap(self._memory_fd, memory_bytes)
        #: The shared memory, `uint8 [memory_bytes]`.
        self.pixels: NDArray[np.uint8] = np.frombuffer(self._memory, np.uint8)
        self._marks = Marks(count + 1)
        self._selector = selectors.DefaultSelector()
        self._failed_starts = 0
        self._cpu_pace, self._gpu_pace = Pace(), Pace()
        self._queue: deque[Film] = deque()
        self._decoders = [self._start(number) for number in range(count)]
        self._gpu_number = count
        if gpu is not None:
            self._start_on_gpu(gpu)

    def _start_on_gpu(self, gpu: OnGpu) -> None:
        self.gpu_state = "starting"
        self._decoders.append(self._start(self._gpu_number, gpu))

    def _start(self, number: int, gpu: OnGpu | None = None) -> DecoderProcess:
        new = DecoderProcess(
            number,
            self._memory_fd,
            len(self._memory),
            self._marks,
            self._limit_mb,
            self._cpu_pace if gpu is None else self._gpu_pace,
            gpu,
        )
        self._selector.register(new.socket, selectors.EVENT_READ, new)
        return new

    @property
    def selector(self) -> selectors.BaseSelector:
        """Register more files here to be woken by them in `collect`; their data must be None."""
        return self._selector

    def wants(self, more: int) -> bool:
        """Whether `more` films would still leave the decoders wanting."""
        return len(self._queue) + more < QUEUE * sum(d.pace.chunk for d in self._counted())

    def films_in(self, seconds: float) -> int:
        """How many films like the latest all decoders together are through with in so long."""
        return int(sum(seconds / d.pace.film_s for d in self._counted()))

    def _counted(self) -> list[DecoderProcess]:
        """All that work, or will at once; one on a GPU may never."""
        return [d for d in self._decoders if d.ready or not d.on_gpu]

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
            # What may end its decoder goes to one on the CPU, which is quickly there again.
            suspect = self._queue[0].suspect
            idle = [d for d in self._decoders if d.free and not (suspect and d.on_gpu)]
            if not idle:
                return
            chosen = min(idle, key=lambda d: len(d.chunks))
            chunk = self._chunk(chosen.pace.chunk)
            try:
                chosen.give(chunk)
            except OSError:
                # It has just died, or will: `collect` finds out, replaces it, and queues what it
                # had.
                chosen.process.kill()
                chosen.ready = False

    def _chunk(self, most: int) -> list[Film]:
        first = self._queue.popleft()
        chunk = [first]
        if first.suspect:
            most = 1
        names = name_bytes(first)
        while (
            self._queue
            and len(chunk) < most
            and self._queue[0].place is first.place
            and self._queue[0].rule == first.rule
            and self._queue[0].size == first.size
            and self._queue[0].accept == first.accept
            and not self._queue[0].suspect
            and (names := names + name_bytes(self._queue[0])) < CHUNK_NAMES
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

    def _receive(self, source: DecoderProcess) -> Iterator[Decoded]:
        while True:
            try:
                message = source.socket.recv(child.MESSAGE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                message = b""
            if not message:
                yield from self._replace(source, "decoder_died", "the decoder ended at this film")
                return
            source.heard = time.monotonic()
            if not source.ready:
                if not message.startswith(child.READY):
                    self._end_on_gpu(source, message.decode(errors="replace"))
                    return
                source.ready = True
                if source.on_gpu:
                    self.gpu_state = f"serving: {message[len(child.READY) :].decode().strip()}"
                    log.info("films are decoded on the GPU too: %s", self.gpu_state)
                else:
                    self._failed_starts = 0
                continue
            yield from self._answered(source, Reply.unpack(message))

    def _answered(self, source: DecoderProcess, reply: Reply) -> Iterator[Decoded]:
        source.answered += reply.films
        source.chunks[0] -= reply.films
        if not source.chunks[0]:
            source.chunks.popleft()
        source.pace.heard(reply)
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
            limit_s = self._deadline_s if source.ready else source.start_s
            since = source.at()[1] if source.given else source.heard
            if (source.given or not source.ready) and now - since > limit_s:
                yield from self._replace(
                    source,
                    "decoder_timeout",
                    f"decoding was given up after {self._deadline_s:.0f} s "
                    "(PNEUMOQ_FILM_DEADLINE_S)",
                )

    def _replace(self, source: DecoderProcess, code: str, message: str) -> Iterator[Decoded]:
        if source.on_gpu:
            self._end_on_gpu(source, "" if code == "decoder_died" else "it took too long")
            return
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
                    "decoder processes do not start; "
                    "run `python -m worker.decoding.child` to see why"
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

    def _end_on_gpu(self, source: DecoderProcess, why: str = "") -> None:
        """It refused, died or took too long: what it had is decoded by others, at no film's cost.

        It was at several films at once, and none of them is blamed before a decoder on the CPU,
        which they are given to one by one, has ended at it too.
        """
        self._selector.unregister(source.socket)
        begun = source.begun
        status = source.end(0.0 if why else EXIT_S)
        if not why:
            why = f"signal {-status}" if status < 0 else f"exit status {status}"
            why = f"it ended ({why}) {'at work' if source.ready else 'in starting'}"
        # Where it was at none, it may have been opening the archive of the first.
        for film in islice(source.given, max(1, begun)):
            film.alone = True
        self._queue.extendleft(reversed(source.given))
        self._decoders.remove(source)
        self._gpu_ends = 1 if source.answered >= GPU_FILMS else self._gpu_ends + 1
        if self._gpu is not None and source.ready and self._gpu_ends < GPU_ENDS:
            log.warning("the decoder on the GPU is replaced: %s", why)
            self._start_on_gpu(self._gpu)
        else:
            self.gpu_state = f"off: {why}"
            log.warning("films are decoded on the CPU alone, and not on the GPU: %s", why)

    def close(self) -> None:
        """End the processes and let go of the memory."""
        for source in self._decoders:
            source.end()
        self._selector.close()
        self._decoders = []
        self._marks.close()
        os.close(self._memory_fd)
