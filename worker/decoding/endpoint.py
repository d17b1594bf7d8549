"""A decoder process's end of its connections: requests come in, replies go out to the parent."""

from __future__ import annotations

import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker import logs
from worker.archive.trouble import Whose
from worker.decoding import jail, memory, opener
from worker.decoding.marks import Mark
from worker.decoding.opener import Opener
from worker.decoding.protocol import Failure, Inheritance, Reply, Request
from worker.machine.process import die_with_parent

#: Replies are held back this many seconds, so that quick films share one.
REPLY_S = 0.04

#: After so many seconds without a request none is expected soon.
IDLE_S = 2.0


@dataclass(kw_only=True)
class Endpoint:
    """What a decoder process works with."""

    #: Replies go there.
    parent: socket.socket
    #: Requests come from there, and what they need open.
    opener: Opener
    #: The shared memory.
    pixels: NDArray[np.uint8]
    mark: Mark
    inherited: Inheritance

    def requests(
        self, idle: Callable[[], object] = lambda: None
    ) -> Iterator[tuple[Request, int | None]]:
        """Each request, with the file descriptor of a compressed archive's window.

        `idle` is called when there was none for IDLE_S. Ends when the parent closes the socket.
        """
        while True:
            if not select.select([self.opener.link], [], [], IDLE_S)[0]:
                idle()
            received = self.opener.request()
            if received is None:
                return
            yield received


def inherit() -> Endpoint:
    """Take over what the command line names, and become a process that ends with its parent and
    may do little more than decode (`jail`).

    To be called while there is one thread.
    """
    inherited = Inheritance.parse(sys.argv[1:])
    die_with_parent(inherited.parent_pid)
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.SIG_IGN)  # the parent's to handle, whoever else is sent it
    logs.at_the_end()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    not_its = (inherited.socket_fd, inherited.memory_fd, inherited.marks_fd)
    opening = opener.start(inherited.requests_fd, not_its)
    jail.close(gpu=bool(inherited.device))
    return Endpoint(
        parent=socket.socket(fileno=inherited.socket_fd),
        opener=opening,
        pixels=memory.map_pixels(inherited.memory_fd, inherited.memory_bytes),
        mark=Mark(inherited.marks_fd, inherited.number),
        inherited=inherited,
    )


class Replies:
    """Gathers what becomes of quick films; a film that takes long is answered for at once."""

    def __init__(self, parent: socket.socket) -> None:
        self._parent = parent
        self._begin()

    def _begin(self) -> None:
        self._reply = Reply()
        self._began = time.monotonic()

    def add(
        self,
        content: bytes,
        failure: Failure | None,
        tags: Mapping[str, str],
        overridden: Collection[str],
        reader: tuple[str, int] | None,
        whose: Whose,
        sides: tuple[int, int] | None = None,
    ) -> None:
        """One more film is through; where many are at once, `send_if_due` comes after the last."""
        self._reply.add(content, failure, tags, overridden, reader, whose, sides)
        if self._reply.full:
            self.send()

    def send_if_due(self) -> None:
        """Send what has waited long enough."""
        if time.monotonic() - self._began > REPLY_S:
            self.send()

    def send(self) -> None:
        """Send what was not sent yet."""
        if self._reply.films:
            self._reply.seconds = time.monotonic() - self._began
            self._parent.send(self._reply.pack())
        self._begin()
