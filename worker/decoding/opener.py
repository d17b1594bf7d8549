"""The opener: it opens the files that films are in, for a decoder that may open none itself.

Each decoder has one, a child of its own, and no say in it: requests go from the parent through the
opener to the decoder, and each is followed by what it needs open: its archive, or the files of its
films one by one. So a decoder that a film has taken over can read that request's archive or films,
and nothing beside them. The opener reads no byte of a film. To open may take for ever where a share
hangs; then the decoder waits for it, and its marks say for what.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
from collections.abc import Iterable
from typing import NamedTuple

from worker import archive
from worker.archive import FolderReader, Member, trouble
from worker.decoding import jail
from worker.decoding.protocol import FAILURE_CHARACTERS, MESSAGE_BYTES, Failure, Request, Source
from worker.errors import ArchiveError, MemberError
from worker.machine.process import die_with_parent

log = logging.getLogger(__name__)  # without a handler, errors go to standard error

#: Files that are opened before the decoder has taken those before them: the next is at hand when a
#: film is through, and few are on their way, whose number the kernel limits for each user.
AHEAD = 2

#: What comes with an open file, and what the decoder answers when it has taken it.
_HERE, _TAKEN = b"+", b"."


class Refused(NamedTuple):
    """What could not be opened."""

    failure: Failure
    whose: trouble.Whose


class Opener:
    """The decoder's end."""

    def __init__(self, link: socket.socket, pid: int) -> None:
        self.link = link
        #: Number of its process.
        self.pid = pid

    def request(self) -> tuple[Request, int | None] | None:
        """The next request, with the file descriptor of a compressed archive's window.

        None where the parent has closed its end.
        """
        message, fds, _, _ = socket.recv_fds(self.link, MESSAGE_BYTES, 1)
        return (Request.unpack(message), fds[0] if fds else None) if message else None

    def file(self) -> int | Refused:
        """What was opened next: a file descriptor that the caller closes.

        Waits for it. Raises ConnectionResetError where the opener has ended.
        """
        message, fds, _, _ = socket.recv_fds(self.link, MESSAGE_BYTES, 1)
        if not message:
            raise ConnectionResetError("the opener has ended")
        self.link.send(_TAKEN)
        if fds:
            return fds[0]
        code, text, whose = json.loads(message)
        return Refused(Failure(code, text, refused=False), whose)


def start(requests_fd: int, not_its: Iterable[int]) -> Opener:
    """Start this process's opener, which takes the parent's requests over and ends with it.

    Of the open files it keeps none of `not_its`. To be called while there is one thread.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    requests = socket.socket(fileno=requests_fd)
    decoder_pid = os.getpid()
    pid = os.fork()
    if pid:
        theirs.close()
        requests.close()
        return Opener(ours, pid)
    status = 1
    try:
        die_with_parent(decoder_pid)
        ours.close()
        for fd in not_its:
            os.close(fd)
        jail.close_calls()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            _Serving(requests, theirs).serve()
        status = 0
    except Exception:
        log.exception("the opener of a decoder ends")
        raise
    finally:
        os._exit(status)


class _Serving:
    """The opener's end, in its own process."""

    def __init__(self, requests: socket.socket, decoder: socket.socket) -> None:
        self._requests = requests
        self._decoder = decoder
        self._ahead = 0
        #: The folder that was opened last: requests of one job follow each other.
        self._folder: tuple[Source, FolderReader] | None = None

    def serve(self) -> None:
        """Until the parent closes its socket. BrokenPipeError where the decoder has ended."""
        while True:
            message, fds, _, _ = socket.recv_fds(self._requests, MESSAGE_BYTES, 1)
            if not message:
                return
            socket.send_fds(self._decoder, [message], fds)
            for fd in fds:  # a window, which needs no opening
                os.close(fd)
            if not fds:
                self._open(Request.unpack(message))

    def _open(self, request: Request) -> None:
        source = request.source
        if source.kind in archive.BY_NAME:
            self._open_each(self._folder_of(source), [member for _, member in request.films])
            return
        self._wait()
        try:
            # Anew for each request: what is open may be of a share that is gone.
            self._give(archive.open_file(source.uri))
        except ArchiveError as error:
            self._refuse(error)

    def _folder_of(self, source: Source) -> FolderReader | ArchiveError:
        if self._folder is None or self._folder[0] != source:
            self._forget()
            try:
                with trouble.at(source.uri):
                    self._folder = source, archive.open_folder(source.kind, source.uri)
            except ArchiveError as error:
                return error
        return self._folder[1]

    def _forget(self) -> None:
        if self._folder is not None:
            self._folder[1].close()
        self._folder = None

    def _open_each(self, folder: FolderReader | ArchiveError, members: list[Member]) -> None:
        doubtful = False
        for member in members:
            self._wait()
            if isinstance(folder, ArchiveError):
                self._refuse(folder)
                continue
            try:
                fd = folder.open(member)
            except (MemberError, OSError) as error:
                refused = trouble.at_member(error) if isinstance(error, OSError) else error
                # Where the system refused it, the folder may be of a share that is gone.
                doubtful |= bool(refused.whose)
                self._refuse(refused)
            else:
                self._give(fd)
        if doubtful:
            self._forget()

    def _wait(self) -> None:
        """For the decoder to take what was opened for it, but for the last of it."""
        while self._ahead >= AHEAD:
            if not self._decoder.recv(1):
                raise BrokenPipeError("the decoder has ended")
            self._ahead -= 1

    def _give(self, fd: int) -> None:
        try:
            socket.send_fds(self._decoder, [_HERE], [fd])
        finally:
            trouble.close(fd)
        self._ahead += 1

    def _refuse(self, error: ArchiveError | MemberError) -> None:
        text = str(error)[:FAILURE_CHARACTERS]
        self._decoder.send(json.dumps([error.code, text, trouble.whose(error)]).encode())
        self._ahead += 1
