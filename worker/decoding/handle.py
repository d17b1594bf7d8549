"""One decoder process seen from its parent: what it is given, what it is at, how quick it is."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import Literal

from worker import config
from worker.archive import apart
from worker.decoding.film import Decoded, Film, OnGpu
from worker.decoding.marks import Marks
from worker.decoding.memory import PixelMemory
from worker.decoding.protocol import (
    MESSAGE_BYTES,
    NO_CONTENT,
    REQUEST_FILMS,
    Inheritance,
    Reply,
    Request,
    Source,
)
from worker.machine import process

#: Films in one request: as many as the decoder is through with in CHUNK_S, which hides the round
#: trip and still shares out the last films of a shard, but no fewer than two, so that it has the
#: next one at hand.
FEWEST = 2
CHUNK_S = 0.06

#: What a film is taken to need before the first one is through.
FIRST_S = 0.015

#: No film takes less, whatever a decoder says.
QUICKEST_S = 1e-6

#: Requests that may wait at one decoder.
QUEUE = 2

#: A killed process that is still there after this many seconds (it waits for a dead disk or file
#: server, which not even SIGKILL ends) is left to itself.
REAP_S = 5.0

#: So with an opener, which the kernel ends with its decoder.
OPENER_S = 1.0


class Pace:
    """How quick decoders of one kind are with films like the latest."""

    def __init__(self) -> None:
        #: Seconds that one of them took for a film.
        self.film_s = FIRST_S

    def update(self, reply: Reply) -> None:
        """Take a little of each new reply, so that one slow film does not decide."""
        self.film_s += 0.2 * (reply.seconds / reply.films - self.film_s)
        self.film_s = max(QUICKEST_S, self.film_s)

    @property
    def chunk(self) -> int:
        """Films in one request."""
        return max(FEWEST, min(REQUEST_FILMS, int(CHUNK_S / self.film_s)))


class DecoderProcess:
    """One process and what it has been given.

    Where `gpu` is given it runs `worker.decoding.gpu_child`, which is at several films at once.
    """

    def __init__(
        self,
        number: int,
        memory: PixelMemory,
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
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Its opener reads requests: see there.
        self._requests, its_openers = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, its_openers:
            inheritance = Inheritance(
                parent_pid=os.getpid(),
                socket_fd=theirs.fileno(),
                requests_fd=its_openers.fileno(),
                memory_fd=memory.fd,
                memory_bytes=memory.size,
                marks_fd=marks.fd,
                number=number,
                limit_mb=limit_mb,
                device="" if gpu is None else gpu.device,
                at_least=0.0 if gpu is None else gpu.at_least,
            )
            module = "worker.decoding.child" if gpu is None else "worker.decoding.gpu_child"
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *inheritance.arguments()],
                pass_fds=(theirs.fileno(), its_openers.fileno(), memory.fd, marks.fd),
                stdin=subprocess.DEVNULL,
                env=config.decoder_environment(),
                cwd="/",  # a folder named like one of our packages must not be found first
            )
        self.ready = False
        #: Number of its opener's process, and when that was started.
        self._opener: tuple[int, str] | None = None
        self.given: deque[Film] = deque()
        self.requests: deque[int] = deque()  # films left of each request that was sent
        self.last_event = time.monotonic()
        self.answered = 0

    def serves(self, opener_pid: int) -> None:
        """It has said that it is ready, and who opens files for it."""
        self.ready = True
        since = process.since(opener_pid)
        self._opener = None if since is None else (opener_pid, since)

    @property
    def begun(self) -> int:
        """How many of the films in `given`, counted from the first, it has begun."""
        return max(0, min(self._marks.read(self.number)[0] - self.answered, len(self.given)))

    def at(self) -> tuple[int, float]:
        """Place in `given` of the film it is at, and since when (time.monotonic) it is."""
        begun, since = self._marks.read(self.number)
        if begun > self.answered:
            return min(begun - self.answered, len(self.given)) - 1, since
        return 0, self.last_event  # at none yet: it may be opening the archive of the first

    @property
    def waits_for(self) -> Literal["archive", "bytes", ""]:
        """What it waits for that a disk or a file server should give; empty where it decodes."""
        if not self.begun:
            return "archive"
        return "bytes" if self._marks.reading(self.number) else ""

    @property
    def free(self) -> bool:
        """Whether it takes another request."""
        return self.ready and len(self.requests) < QUEUE

    def give(self, films: list[Film]) -> None:
        """Send it films of one place, rule and size.

        OSError where it has died; ValueError, and nothing is given, where no message holds them.
        """
        first = films[0]
        place = first.place
        request = Request(
            source=Source(place.kind, place.uri, place.edition, place.base),
            rule=first.rule,
            size=first.size,
            accept=first.accept,
            hash=first.hash,
            sides=first.sides,
            films=[(film.offset, film.member) for film in films],
        ).pack()
        if not self.given:
            self.last_event = time.monotonic()
        self.given.extend(films)
        self.requests.append(len(films))
        fds = [] if place.window_fd is None else [place.window_fd]
        socket.send_fds(self._requests, [request], fds)

    def receive(self) -> bytes | None:
        """Its next message; empty where it has closed its socket, None where there is none yet."""
        try:
            message = self.socket.recv(MESSAGE_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError:
            return b""
        self.last_event = time.monotonic()
        return message

    def take(self, reply: Reply) -> list[Decoded]:
        """The films that a reply is about; ValueError where it was not given so many."""
        if not (self.requests and 0 < reply.films <= self.requests[0]):
            raise ValueError(f"a reply about {reply.films} films that it was not given")
        self.answered += reply.films
        self.requests[0] -= reply.films
        if not self.requests[0]:
            self.requests.popleft()
        self.pace.update(reply)
        return [
            Decoded(
                film=self.given.popleft(),
                failure=reply.failures.get(n),
                content=None if content == NO_CONTENT else content,
                tags=reply.tags.get(n),
                overridden=tuple(reply.overridden.get(n, ())),
                reader=reply.readers.get(n),
                whose=reply.whose.get(n, ""),
                sides=reply.sides.get(n),
            )
            for n, content in enumerate(reply.contents)
        ]

    def kill(self) -> None:
        """Have it end; `receive` will notice."""
        self._process.kill()
        self.ready = False

    def close(self, grace_s: float) -> None:
        """Ask nothing more of it, and kill it unless it ends by itself in time."""
        self.socket.close()
        self._requests.close()
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def reap(self, until: float) -> int:
        """Its exit status; where the kernel does not let it end until then (time.monotonic) it is
        left behind.
        """
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(max(0.0, until - time.monotonic()))
        left = self._process
        apart.leave(lambda: left.poll() is None, f"decoder {left.pid}")
        return -signal.SIGKILL

    def leave_opener(self, until: float) -> None:
        """It ends with the decoder, but not while it waits for a dead disk or file server."""
        if self._opener is None:
            return
        pid, since = self._opener
        if process.since(pid) == since:  # its decoder has not ended
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        while process.since(pid) == since:
            if time.monotonic() > until:
                apart.leave(lambda: process.since(pid) == since, f"a decoder's opener, {pid},")
                return
            time.sleep(0.005)


def end(decoders: Sequence[DecoderProcess], grace_s: float = 0.0) -> list[int]:
    """Kill processes unless they end by themselves in time; their exit statuses.

    All are waited for together. Whoever cannot be ended, a decoder or its opener, is left behind.
    """
    for decoder in decoders:
        decoder.close(grace_s)
    until = time.monotonic() + REAP_S
    statuses = [decoder.reap(until) for decoder in decoders]
    until = time.monotonic() + OPENER_S
    for decoder in decoders:
        decoder.leave_opener(until)
    return statuses
