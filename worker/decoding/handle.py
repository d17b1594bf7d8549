"""One decoder process seen from its parent: what it is given, what it is at, how quick it is."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import signal
import socket
import subprocess
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from worker import archive
from worker.archive import Kind, Member
from worker.decoding import child
from worker.decoding.child import MARK_NUMBERS, Reply

#: Films in one message to a decoder: as many as it is through with in CHUNK_S, which hides the
#: round trip and still shares out the last films of a shard.
FEWEST, MOST = 2, 256
CHUNK_S = 0.03

#: Messages that may wait at one decoder.
QUEUE = 2

#: A decoder must report ready within this many seconds of its start.
START_S = 60.0

#: One on a GPU loads torch, makes a CUDA context and is measured; a Jetson is slow at all three.
GPU_START_S = 300.0

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
    #: Decoders that ended while at it.
    strikes: int = 0
    #: A GPU decoder ended while at it and others: which one it was is found out one by one.
    alone: bool = False

    @property
    def suspect(self) -> bool:
        """Whether it may end what decodes it."""
        return self.alone or self.strikes > 0


@dataclass(frozen=True, kw_only=True, slots=True)
class OnGpu:
    """One decoder more, which decodes JPEG in torch on this device (`gpu_child`)."""

    device: str = "cuda"
    #: Times as quick as a decoder on the CPU that it must prove to be before it is given films.
    at_least: float = 1.0


class Pace:
    """How quick decoders of one kind are with films like the latest."""

    def __init__(self) -> None:
        #: Seconds that one of them took for a film.
        self.film_s = CHUNK_S / FEWEST

    def heard(self, reply: Reply) -> None:
        """Take a little of each new answer, so that one slow film does not decide."""
        self.film_s += 0.2 * (reply.seconds / reply.films - self.film_s)

    @property
    def chunk(self) -> int:
        """Films in one message."""
        return max(FEWEST, min(MOST, int(CHUNK_S / self.film_s)))


class Marks:
    """What each decoder was at last, in memory that outlives it."""

    def __init__(self, count: int) -> None:
        self.fd = os.memfd_create("pneumoq-marks", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, count * MARK_NUMBERS * 8)
        self._memory = mmap.mmap(self.fd, count * MARK_NUMBERS * 8)
        self._numbers = memoryview(self._memory).cast("q")

    def clear(self, number: int) -> None:
        """A new process with this number is at none."""
        self._numbers[number * MARK_NUMBERS] = 0

    def read(self, number: int) -> tuple[int, float]:
        """Films begun since the process started, and when (time.monotonic) the latest was."""
        # The decoder writes the time first: read last, it is that of this film or of a later one.
        begun = self._numbers[number * MARK_NUMBERS]
        return begun, self._numbers[number * MARK_NUMBERS + 1] / 1e9

    def close(self) -> None:
        """Let go of the memory."""
        self._numbers.release()
        self._memory.close()
        os.close(self.fd)


class DecoderProcess:
    """One process and what it has been given.

    Where `gpu` is given it is one of `worker.decoding.gpu_child`, which is at several films at
    once.
    """

    def __init__(
        self,
        number: int,
        memory_fd: int,
        memory_bytes: int,
        marks: Marks,
        limit_mb: int,
        pace: Pace,
        gpu: OnGpu | None = None,
    ) -> None:
        self.number = number
        self.pace = pace
        self.on_gpu = gpu is not None
        self._marks = marks
        marks.clear(number)
        kind: dict[str, Any] = {}
        if gpu is not None:
            kind = {"module": "worker.decoding.gpu_child", "more": (gpu.device, str(gpu.at_least))}
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                child.arguments(
                    theirs.fileno(), memory_fd, memory_bytes, marks.fd, number, limit_mb, **kind
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

    @property
    def start_s(self) -> float:
        """It must report ready within this many seconds of its start."""
        return GPU_START_S if self.on_gpu else START_S

    @property
    def begun(self) -> int:
        """How many of the films in `given`, counted from the first, it has begun."""
        return max(0, min(self._marks.read(self.number)[0] - self.answered, len(self.given)))

    def at(self) -> tuple[int, float]:
        """Place in `given` of the film it is at, and since when (time.monotonic) it is."""
        begun, since = self._marks.read(self.number)
        if begun > self.answered:
            return min(begun - self.answered, len(self.given)) - 1, since
        return 0, self.heard  # it is at none yet: it may be opening the archive of the first

    @property
    def free(self) -> bool:
        """Whether it takes another message."""
        return self.ready and len(self.chunks) < QUEUE

    def give(self, films: list[Film]) -> None:
        """Send it films of one place, rule and size; OSError where it has died."""
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


def name_bytes(film: Film) -> int:
    """Characters of a film's name in a message."""
    length = len(film.member.name)
    return length if film.place.kind in archive.BY_NAME else min(length, NAME_LENGTH)
