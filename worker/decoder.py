"""A decoder process: it reads films from archives and writes their pixels into shared memory.

It is started as `python -m worker.decoder` with a socket and the shared memory inherited, and it is
expendable: a film that crashes it, fills its memory or never ends costs that film. It reports film
by film, in order, so that the parent knows which one it was at.

Messages are JSON. To here: `{"source": [kind, uri, edition, base], "rule": …, "size": S, "films":
[[offset of the pixels, member…], …]}`, for a window of a compressed archive with its file
descriptor. From here, per film: `[]` when its pixels are there, or `[code, message, refused]`.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np

from trainer import film
from trainer.errors import FilmError, FilmRefused
from worker import archive
from worker.errors import ArchiveError, MemberError
from worker.process import die_with_parent

#: Largest message: a chunk of films with long names.
MESSAGE_BYTES = 1 << 17


def main() -> None:
    """Serve the parent until it closes the socket."""
    parent_pid, socket_fd, memory_fd, memory_bytes, limit_mb = map(int, sys.argv[1:])
    die_with_parent(parent_pid)
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.SIG_IGN)  # the parent's to handle, whoever else is sent it
    pixels = np.frombuffer(mmap.mmap(memory_fd, memory_bytes), np.uint8)
    _limit_memory(limit_mb << 20)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with socket.socket(fileno=socket_fd) as parent:
        parent.send(b"ready")
        sources = _Sources()
        while True:
            message, fds, _, _ = socket.recv_fds(parent, MESSAGE_BYTES, 1)
            if not message:
                return
            work = json.loads(message)
            kind, uri, edition, base = work["source"]
            with sources.open(kind, uri, edition, base, fds) as reader:
                for place, *member in work["films"]:
                    report = _decode(reader, member, work, pixels, place)
                    parent.send(json.dumps(report).encode())


def _limit_memory(more: int) -> None:
    """Let this process map `more` bytes beside what it has, which depends on the machine."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + more
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


class _Sources:
    """The reader of the archive that was read last; shards of one job follow each other."""

    def __init__(self) -> None:
        self._key: list[str] | None = None
        self._reader: archive.Reader | None = None

    @contextlib.contextmanager
    def open(self, kind: archive.Kind, uri: str, edition: str, base: int, fds: list[int]) -> Any:
        """A reader, or the ArchiveError that there is instead of one."""
        if fds:
            window = archive.ExtentReader(fds[0], base=base, owned=True)
            try:
                yield window
            finally:
                window.close()
            return
        key = [kind, uri, edition]
        if self._key != key:
            if self._reader is not None:
                self._reader.close()
            self._key, self._reader = None, None
            try:
                self._reader = archive.open_reader(kind, uri)
            except ArchiveError as error:
                yield error
                return
            self._key = key
        yield self._reader


def _decode(
    reader: archive.Reader | ArchiveError,
    member: list[Any],
    work: dict[str, Any],
    pixels: np.ndarray[Any, np.dtype[np.uint8]],
    place: int,
) -> list[Any]:
    if isinstance(reader, ArchiveError):
        return [reader.code, str(reader), False]
    try:
        data = reader.read(archive.Member(*member))
        side = work["size"]
        film.decode(data, side, work["rule"], out=pixels[place : place + side * side])
    except (MemberError, FilmError) as error:
        return [error.code, str(error), isinstance(error, FilmRefused)]
    except MemoryError:
        return ["too_large", "decoding it takes more memory than PNEUMOQ_FILM_MEMORY_MB", False]
    return []


def arguments(socket_fd: int, memory_fd: int, memory_bytes: int, limit_mb: int) -> list[str]:
    """The command line of a decoder process."""
    numbers = (os.getpid(), socket_fd, memory_fd, memory_bytes, limit_mb)
    return [sys.executable, "-m", "worker.decoder", *map(str, numbers)]


if __name__ == "__main__":
    main()
