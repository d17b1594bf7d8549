"""A decoder process: it reads films from archives and writes their pixels into shared memory.

It is started as `python -m worker.decoding.child` with a socket and the shared memory inherited,
and it is expendable: a film that crashes it, fills its memory or never ends costs that film. Before
each film it leaves a mark in memory that outlives it, so that the parent knows which one it was at.

Messages to here are JSON: `{"source": [kind, uri, edition, base], "rule": …, "size": S, "accept":
[code…], "films": [[offset of the pixels, member…], …]}`, for a window of a compressed archive with
its file descriptor. Answers are `Reply`s, each about one or more films in the order of the message.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trainer.errors import FilmError, FilmRefused
from trainer.film import rules
from worker import archive
from worker.errors import ArchiveError, MemberError
from worker.machine.process import die_with_parent

#: Largest message: a chunk of films with long names.
MESSAGE_BYTES = 1 << 17

#: A mark is two aligned 64-bit numbers: films begun since the process started, and when the latest
#: was (time.monotonic_ns, which all processes of a machine share). Each is written in one step, the
#: time first: `struct` would write byte by byte, and what the parent reads half-way blames a film
#: that did nothing.
MARK_NUMBERS = 2

#: Answers are held back this long, so that quick films share one.
REPLY_S = 0.02

#: An answer is sent as soon as what is remarkable in it takes so many characters.
REPLY_CHARACTERS = MESSAGE_BYTES // 4

#: After so many seconds without a message nothing is expected soon.
IDLE_S = 2.0

#: Characters of a failure's message that are passed on.
MESSAGE_LENGTH = 500

#: Bytes of a film's content hash (BLAKE2b-128).
CONTENT_BYTES = 16

#: What a decoder says first.
READY = b"ready"

_HEADER = struct.Struct("<IId")
_NO_CONTENT = bytes(CONTENT_BYTES)
_TOO_LARGE = ("too_large", "decoding it takes more memory than PNEUMOQ_FILM_MEMORY_MB", False)

Pixels = np.ndarray[Any, np.dtype[np.uint8]]

#: Code, message, and whether the film is refused rather than broken.
Failure = list[Any]


@dataclass(kw_only=True)
class Reply:
    """What became of some films."""

    films: int = 0
    #: Spent on them.
    seconds: float = 0.0
    #: One content hash per film, all zero where its bytes could not be read.
    contents: bytes = b""
    #: Place in this reply → [code, message, refused].
    failures: dict[int, Failure] = field(default_factory=dict)
    #: Place in this reply → identifying DICOM tags, as they stand in the film.
    tags: dict[int, dict[str, str]] = field(default_factory=dict)

    def pack(self) -> bytes:
        """As bytes for the socket."""
        rest = b""
        if self.failures or self.tags:
            rest = json.dumps([list(self.failures.items()), list(self.tags.items())]).encode()
        return _HEADER.pack(self.films, len(rest), self.seconds) + rest + self.contents

    @classmethod
    def unpack(cls, message: bytes) -> Reply:
        """What `pack` made."""
        films, length, seconds = _HEADER.unpack_from(message)
        end = _HEADER.size + length
        failures, tags = json.loads(message[_HEADER.size : end]) if length else ((), ())
        return cls(
            films=films,
            seconds=seconds,
            contents=message[end:],
            failures=dict(failures),
            tags=dict(tags),
        )


def main() -> None:
    """Serve the parent until it closes the socket."""
    here = inherited()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    # Beside what it has mapped already, which depends on the machine.
    limit = mapped_bytes() + (here.limit_mb << 20)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with here.parent:
        here.parent.send(READY)
        for work, reader in messages(here.parent):
            answers = Answers(here.parent)
            for place, *member in work["films"]:
                here.mark.begin()
                tags: dict[str, str] = {}
                content, failure = _film(reader, member, work, here.pixels, place, tags)
                answers.add(content, failure, tags)
                answers.send_if_due()
            answers.send()


def _film(
    reader: archive.Reader | ArchiveError,
    member: list[Any],
    work: dict[str, Any],
    pixels: Pixels,
    place: int,
    tags: dict[str, str],
) -> tuple[bytes, Failure | None]:
    """The film's content hash, and what is wrong with it where something is."""
    content, failure, data = read(reader, member, tags)
    if data is not None and place >= 0:  # below 0 only its hash is wanted
        failure = decode(data, work, pixels, place, tags)
    return content, failure


class Mark:
    """Says in memory that outlives this process which film it is at, and since when."""

    def __init__(self, fd: int, number: int) -> None:
        self._numbers = memoryview(mmap.mmap(fd, 0)).cast("q")
        self._at = number * MARK_NUMBERS
        self._begun = 0

    def begin(self) -> None:
        """The next film is begun."""
        self.again()
        self._begun += 1
        self._numbers[self._at] = self._begun

    def again(self) -> None:
        """Its time, or that of all films begun and not answered for, begins anew."""
        self._numbers[self._at + 1] = time.monotonic_ns()


@dataclass(kw_only=True)
class Inherited:
    """What a decoder process has from its parent."""

    parent: socket.socket
    #: The shared memory.
    pixels: Pixels
    mark: Mark
    #: Memory that decoding one film may take, in MiB.
    limit_mb: int
    #: Arguments of one kind of decoder.
    more: list[str]


def inherited() -> Inherited:
    """Take over what `arguments` named, and become a process that ends with its parent."""
    numbers = map(int, sys.argv[1:8])
    parent_pid, socket_fd, memory_fd, memory_bytes, marks_fd, number, limit_mb = numbers
    die_with_parent(parent_pid)
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.SIG_IGN)  # the parent's to handle, whoever else is sent it
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return Inherited(
        parent=socket.socket(fileno=socket_fd),
        pixels=np.frombuffer(mmap.mmap(memory_fd, memory_bytes), np.uint8),
        mark=Mark(marks_fd, number),
        limit_mb=limit_mb,
        more=sys.argv[8:],
    )


def messages(
    parent: socket.socket, idle: Callable[[], object] = lambda: None
) -> Iterator[tuple[dict[str, Any], archive.Reader | ArchiveError]]:
    """Each message, and the reader of its films' archive or why there is none.

    `idle` is called once when there was none for IDLE_S.
    """
    sources = _Sources()
    while True:
        if not select.select([parent], [], [], IDLE_S)[0]:
            idle()
        message, fds, _, _ = socket.recv_fds(parent, MESSAGE_BYTES, 1)
        if not message:
            return
        work = json.loads(message)
        kind, uri, edition, base = work["source"]
        with sources.open(kind, uri, edition, base, fds) as reader:
            yield work, reader


class Answers:
    """Gathers what becomes of quick films; what takes long is told at once."""

    def __init__(self, parent: socket.socket) -> None:
        self._parent = parent
        self._begin()

    def _begin(self) -> None:
        self._reply = Reply()
        self._contents: list[bytes] = []
        self._characters = 0
        self._began = time.monotonic()

    def add(self, content: bytes, failure: Failure | None, tags: dict[str, str]) -> None:
        """One more film is through; where many are at once, `send_if_due` comes after the last."""
        place = len(self._contents)
        self._contents.append(content)
        if failure is not None:
            self._reply.failures[place] = failure
            self._characters += 100 + len(failure[1])
        if tags:
            self._reply.tags[place] = tags
            self._characters += sum(map(len, tags.values())) + 100
        if self._characters > REPLY_CHARACTERS:
            self.send()

    def send_if_due(self) -> None:
        """Tell what was not told yet if it has waited long enough."""
        if time.monotonic() - self._began > REPLY_S:
            self.send()

    def send(self) -> None:
        """Tell what was not told yet."""
        if self._contents:
            self._reply.films = len(self._contents)
            self._reply.contents = b"".join(self._contents)
            self._reply.seconds = time.monotonic() - self._began
            self._parent.send(self._reply.pack())
        self._begin()


def mapped_bytes() -> int:
    """What this process has mapped."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


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


def read(
    reader: archive.Reader | ArchiveError, member: list[Any], tags: dict[str, str]
) -> tuple[bytes, Failure | None, bytes | None]:
    """The film's content hash, what is wrong with it where something is, or else its bytes."""
    if isinstance(reader, ArchiveError):
        return _NO_CONTENT, _failure(reader), None
    try:
        data = reader.read(archive.Member(*member))
        content = hashlib.blake2b(data, digest_size=CONTENT_BYTES).digest()
    except MemberError as error:
        return _NO_CONTENT, _failure(error), None
    except MemoryError:
        return _NO_CONTENT, [*_TOO_LARGE], None
    if data[128:132] == b"DICM":
        # Whatever else it holds or hides, its name may be a patient's.
        tags["format"] = "DICOM"
    return content, None, data


def decode(
    data: bytes, work: dict[str, Any], pixels: Pixels, place: int, tags: dict[str, str]
) -> Failure | None:
    """Put the film's pixels into their place, or say what is wrong with it."""
    side = work["size"]
    out = pixels[place : place + side * side]
    try:
        rules.decode(data, side, work["rule"], out, accept=work["accept"], tags=tags)
    except FilmError as error:
        return _failure(error)
    except MemoryError:
        return [*_TOO_LARGE]
    return None


def _failure(error: ArchiveError | MemberError | FilmError) -> Failure:
    return [error.code, str(error)[:MESSAGE_LENGTH], isinstance(error, FilmRefused)]


def arguments(
    socket_fd: int,
    memory_fd: int,
    memory_bytes: int,
    marks_fd: int,
    number: int,
    limit_mb: int,
    *,
    module: str = "worker.decoding.child",
    more: Sequence[str] = (),
) -> list[str]:
    """The command line of a decoder process."""
    numbers = (os.getpid(), socket_fd, memory_fd, memory_bytes, marks_fd, number, limit_mb)
    return [sys.executable, "-m", module, *map(str, numbers), *more]


if __name__ == "__main__":
    # Nobody is left to be answered where the parent was killed in the middle.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        main()
