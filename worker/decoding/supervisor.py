"""Keeps the decoder processes running: starts them, and replaces those that die or are too slow.

A film at which a decoder ended gets a second chance in a new process, since a killed process may be
innocent, and after that an error. A decoder on a GPU is one more beside those on the CPU and never
does without them: it may refuse to serve. Knows nothing of the films that wait for a decoder.
"""

from __future__ import annotations

import logging
import selectors
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from worker.archive.trouble import Whose
from worker.decoding import handle, jail
from worker.decoding.film import Decoded, Film, OnGpu
from worker.decoding.handle import DecoderProcess, Pace
from worker.decoding.marks import Marks
from worker.decoding.memory import PixelMemory
from worker.decoding.protocol import Failure, Started

log = logging.getLogger(__name__)

#: A decoder must report ready within this many seconds of its start.
START_S = 60.0

#: One on a GPU loads torch, makes a CUDA context and is measured; a Jetson is slow at all three.
GPU_START_S = 300.0

#: A film is blamed when this many decoders ended while at it.
STRIKES = 2

#: `Failure.code` of a film that took too long to be read or decoded, and of one that ended its
#: decoders.
TIMEOUT, DIED = "decoder_timeout", "decoder_died"

#: After this many failed starts in a row no further one is tried.
STARTS = 10

#: A GPU decoder that ended this many times, having answered for fewer than GPU_FILMS films since
#: its start each time, is not started again: its start takes seconds.
GPU_ENDS, GPU_FILMS = 3, 1000

#: A decoder that closed its socket is on its way out: its exit status tells why, if it comes in
#: this many seconds.
EXIT_S = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Lost:
    """What a decoder that has ended leaves."""

    #: Films that others are to decode, in their order.
    films: Sequence[Film]
    #: The film at which too many decoders have ended.
    blamed: Decoded | None = None


class Supervisor:
    """The decoder processes, as many as there should be."""

    def __init__(
        self,
        count: int,
        memory: PixelMemory,
        *,
        deadline_s: float,
        limit_mb: int,
        gpu: OnGpu | None,
    ) -> None:
        for lack in jail.lacking():
            log.warning("on this machine decoders are not locked up: %s", lack)
        self._memory = memory
        self._deadline_s = deadline_s
        self._limit_mb = limit_mb
        self._gpu = gpu
        self._gpu_ends = 0
        #: What became of the decoder on the GPU: `off`, `starting`, `serving: …` or `off: why`.
        self.gpu_state = "off"
        self._marks = Marks(count + 1)
        self.selector = selectors.DefaultSelector()
        self._failed_starts = 0
        self._cpu_pace, self._gpu_pace = Pace(), Pace()
        self.decoders = [self._start(number) for number in range(count)]
        self._gpu_number = count
        if gpu is not None:
            self._start_on_gpu(gpu)

    def _start_on_gpu(self, gpu: OnGpu) -> None:
        self.gpu_state = "starting"
        self.decoders.append(self._start(self._gpu_number, gpu))

    def _start(self, number: int, gpu: OnGpu | None = None) -> DecoderProcess:
        pace = self._cpu_pace if gpu is None else self._gpu_pace
        new = DecoderProcess(number, self._memory, self._marks, self._limit_mb, pace, gpu)
        self.selector.register(new.socket, selectors.EVENT_READ, new)
        return new

    def counted(self) -> list[DecoderProcess]:
        """All that work, or will at once; one on a GPU may never."""
        return [d for d in self.decoders if d.ready or not d.on_gpu]

    def started(self, decoder: DecoderProcess, message: bytes) -> Lost | None:
        """Note its first message: it is ready, or on a GPU may be lost instead."""
        first = Started.unpack(message)
        if not first.ready:
            self._end(decoder)
            return self._replace_on_gpu(decoder, first.text)
        decoder.serves(first.opener_pid)
        if decoder.on_gpu:
            self.gpu_state = f"serving: {first.text}"
            log.info("films are decoded on the GPU too: %s", self.gpu_state)
        else:
            self._failed_starts = 0
        return None

    def _is_overdue(self, decoder: DecoderProcess, now: float) -> bool:
        if not decoder.ready:
            return now - decoder.last_event > (GPU_START_S if decoder.on_gpu else START_S)
        return bool(decoder.given) and now - decoder.at()[1] > self._deadline_s

    def replace_overdue(self) -> list[Lost]:
        """End those that are at one film, or at their start, for too long, and start others.

        Raises RuntimeError where decoders do not start at all.
        """
        now = time.monotonic()
        overdue = [d for d in self.decoders if self._is_overdue(d, now)]
        waited = [(d, d.waits_for) for d in overdue]
        # Together: where a share hangs they may all be at it, and none of them can be ended.
        self._end(*overdue)
        return [self._replace_overdue(*one) for one in waited]

    def _replace_overdue(self, decoder: DecoderProcess, waits_for: str) -> Lost:
        if decoder.on_gpu:
            return self._replace_on_gpu(decoder, "it took too long")
        after = f"after {self._deadline_s:.0f} s (PNEUMOQ_FILM_DEADLINE_S)"
        if decoder.ready and decoder.given and waits_for:
            # A disk or a file server that does not answer: neither the film nor the decoder is to
            # blame, and a second decoder would wait as long.
            failure = Failure(TIMEOUT, f"its disk or share gave no answer {after}", refused=False)
            whose: Whose = "source" if waits_for == "archive" else "film"
            return self._replace(decoder, _at(decoder), failure, strikes=1, whose=whose)
        failure = Failure(TIMEOUT, f"decoding was given up {after}", refused=False)
        return self._replace(decoder, _at(decoder), failure)

    def replace_ended(self, decoder: DecoderProcess) -> Lost:
        """Start another in the place of one that has ended.

        Raises RuntimeError where decoders do not start at all.
        """
        (status,) = self._end(decoder, grace_s=EXIT_S)
        cause = f"signal {-status}" if status < 0 else f"exit status {status}"
        if decoder.on_gpu:
            when = "at work" if decoder.ready else "in starting"
            return self._replace_on_gpu(decoder, f"it ended ({cause}) {when}")
        message = f"the decoder ended at this film ({cause})"
        return self._replace(decoder, _at(decoder), Failure(DIED, message, refused=False))

    def replace_unreadable(self, decoder: DecoderProcess, error: ValueError) -> Lost:
        """End one whose answer cannot be read and start another.

        Of several films in the request that it answers each may be to blame: they are decoded one
        by one. Raises RuntimeError where decoders do not start at all.
        """
        self._end(decoder)
        if decoder.on_gpu:
            return self._replace_on_gpu(decoder, f"its answer cannot be read ({error})")
        asked = list(islice(decoder.given, decoder.requests[0] if decoder.requests else 0))
        for film in asked:
            film.alone = True
        message = f"the decoder's answer about this film cannot be read ({error})"
        suspect = asked[0] if len(asked) == 1 else None
        return self._replace(decoder, suspect, Failure(DIED, message, refused=False))

    def _end(self, *decoders: DecoderProcess, grace_s: float = 0.0) -> list[int]:
        for decoder in decoders:
            self.selector.unregister(decoder.socket)
        return handle.end(decoders, grace_s)

    def _replace(
        self,
        decoder: DecoderProcess,
        suspect: Film | None,
        failure: Failure,
        *,
        strikes: int = STRIKES,
        whose: Whose = "",
    ) -> Lost:
        """Start another in the place of one that was ended, at `suspect` if at any film."""
        log.warning("decoder %d is replaced: %s", decoder.number, failure.message)
        if not decoder.ready and not decoder.given:
            self._failed_starts += 1
            if self._failed_starts >= STARTS:
                raise RuntimeError(
                    "decoder processes do not start; "
                    "run `python -m worker.decoding.child` to see why"
                )
        self.decoders[decoder.number] = self._start(decoder.number)
        if suspect is None:
            return Lost(films=decoder.given)
        suspect.strikes += 1
        if suspect.strikes < strikes:
            return Lost(films=decoder.given)
        decoder.given.remove(suspect)
        return Lost(films=decoder.given, blamed=Decoded(film=suspect, failure=failure, whose=whose))

    def _replace_on_gpu(self, decoder: DecoderProcess, why: str) -> Lost:
        """It refused, died or took too long: what it had is decoded by others, at no film's cost.

        It was at several films at once, and none of them is blamed before a decoder on the CPU,
        which they are given to one by one, has ended at it too.
        """
        # Where it was at none, it may have been opening the archive of the first.
        for film in islice(decoder.given, max(1, decoder.begun)):
            film.alone = True
        self.decoders.remove(decoder)
        self._gpu_ends = 1 if decoder.answered >= GPU_FILMS else self._gpu_ends + 1
        if self._gpu is not None and decoder.ready and self._gpu_ends < GPU_ENDS:
            log.warning("the decoder on the GPU is replaced: %s", why)
            self._start_on_gpu(self._gpu)
        else:
            self.gpu_state = f"off: {why}"
            log.warning("films are decoded on the CPU alone, and not on the GPU: %s", why)
        return Lost(films=decoder.given)

    def close(self) -> None:
        """End the processes."""
        handle.end(self.decoders)
        self.selector.close()
        self.decoders = []
        self._marks.close()


def _at(decoder: DecoderProcess) -> Film | None:
    """The film that it is at; to be asked before its successor has its mark."""
    return decoder.given[decoder.at()[0]] if decoder.given else None
