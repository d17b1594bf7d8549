"""The pool of decoder processes: films go out in chunks, and come back one by one.

Pixels arrive in one block of shared memory at places that the caller chose, so they are never
copied. Every film that is given comes back once, whatever becomes of the processes (`supervisor`).
"""

from __future__ import annotations

import selectors
from collections import deque
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from worker.decoding import protocol
from worker.decoding.film import Decoded, Film, OnGpu, Place
from worker.decoding.handle import FEWEST, QUEUE, DecoderProcess
from worker.decoding.memory import PixelMemory
from worker.decoding.protocol import REQUEST_NAME_CHARACTERS, Failure, Reply
from worker.decoding.supervisor import Lost, Supervisor

#: What comes back of films that are not wanted any more.
UNWANTED = Failure("unwanted", "nobody waits for it", refused=False)

__all__ = ["Decoded", "Decoders", "Film", "OnGpu", "Place"]


class Decoders:
    """Hands films out to decoder processes over one block of shared memory.

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
        """`count` decoders on the CPU and, where `gpu` is given, one more on it.

        A film may take `deadline_s` seconds and `limit_mb` MiB of memory.
        """
        self._memory = PixelMemory(memory_bytes)
        self._supervisor = Supervisor(
            count, self._memory, deadline_s=deadline_s, limit_mb=limit_mb, gpu=gpu
        )
        self._queue: deque[Film] = deque()
        #: What no request can hold, until `collect` says so.
        self._unsendable: deque[Decoded] = deque()

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """The shared memory, `uint8 [memory_bytes]`."""
        return self._memory.pixels

    @property
    def gpu_state(self) -> str:
        """What became of the decoder on the GPU: `off`, `starting`, `serving: …`, `off: why`."""
        return self._supervisor.gpu_state

    @property
    def selector(self) -> selectors.BaseSelector:
        """Register more files here to be woken by them in `collect`; their data must be None."""
        return self._supervisor.selector

    def wants(self, more: int) -> bool:
        """Whether `more` films would still leave the decoders wanting."""
        wanted = QUEUE * sum(d.pace.chunk for d in self._supervisor.counted())
        return len(self._queue) + more < wanted

    def films_in(self, seconds: float) -> int:
        """How many films like the latest all decoders together are through with in so long."""
        return int(sum(seconds / d.pace.film_s for d in self._supervisor.counted()))

    def give(self, films: Iterable[Film]) -> None:
        """Queue films to be decoded, in this order."""
        self._queue.extend(films)
        self._deal()

    def forget(self, unwanted: Callable[[Film], bool]) -> list[Film]:
        """Take back the queued films that no decoder has yet and that `unwanted(film)` names.

        Those that a decoder has come back, but are given to no other where that one is replaced.
        """
        for decoder in self._supervisor.decoders:
            for film in decoder.given:
                film.unwanted |= unwanted(film)
        taken = [f for f in self._queue if unwanted(f)]
        self._queue = deque(f for f in self._queue if not unwanted(f))
        return taken

    def _deal(self) -> None:
        # Round by round, so that every decoder has work before one has it twice.
        while self._queue:
            # What may end its decoder goes to one on the CPU, which is quickly there again.
            suspect = self._queue[0].suspect
            idle = [d for d in self._supervisor.decoders if d.free and not (suspect and d.on_gpu)]
            if not idle:
                return
            chosen = min(idle, key=lambda d: len(d.requests))
            # Where few are left, all that are idle get some.
            share = max(FEWEST, -(-len(self._queue) // len(idle)))
            chunk = self._chunk(min(chosen.pace.chunk, share))
            try:
                chosen.give(chunk)
            except ValueError as error:
                failure = Failure("unreadable", f"no decoder can be asked for it: {error}", False)
                self._unsendable.extend(Decoded(film=film, failure=failure) for film in chunk)
            except OSError:
                # It has just died, or will: `collect` finds out, replaces it, and queues what it
                # had.
                chosen.kill()

    def _chunk(self, most: int) -> list[Film]:
        first = self._queue.popleft()
        chunk = [first]
        names = protocol.name_characters(first.place.kind, first.member.name)
        while self._queue and len(chunk) < most and self._queue[0].goes_with(first):
            film = self._queue[0]
            names += protocol.name_characters(film.place.kind, film.member.name)
            if names > REQUEST_NAME_CHARACTERS:
                break
            chunk.append(self._queue.popleft())
        return chunk

    def collect(self, timeout_s: float) -> Iterator[Decoded]:
        """Films that came through, waiting up to `timeout_s` for the first event.

        Raises RuntimeError where decoder processes do not start.
        """
        while self._unsendable:
            timeout_s = 0.0
            yield self._unsendable.popleft()
        for key, _ in self.selector.select(timeout_s):
            if key.data is not None:
                yield from self._receive(key.data)
        for lost in self._supervisor.replace_overdue():
            yield from self._requeue(lost)
        self._deal()

    def _receive(self, decoder: DecoderProcess) -> Iterator[Decoded]:
        lost = None
        while lost is None and (message := decoder.receive()) is not None:
            if not message:
                lost = self._supervisor.replace_ended(decoder)
                break
            try:
                if decoder.ready:
                    found = decoder.take(Reply.unpack(message))
                else:
                    found, lost = [], self._supervisor.started(decoder, message)
            except ValueError as error:
                found, lost = [], self._supervisor.replace_unreadable(decoder, error)
            yield from found
        if lost is not None:
            yield from self._requeue(lost)

    def _requeue(self, lost: Lost) -> Iterator[Decoded]:
        self._queue.extendleft(reversed([film for film in lost.films if not film.unwanted]))
        for film in lost.films:
            if film.unwanted:
                yield Decoded(film=film, failure=UNWANTED)
        if lost.blamed is not None:
            yield lost.blamed

    def close(self) -> None:
        """End the processes and let go of the memory."""
        self._supervisor.close()
        self._memory.close()
