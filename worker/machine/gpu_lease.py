"""One lease per GPU of this machine, so that training and scoring do not fight for its memory.

Whoever computes with a GPU holds a lock on a file that is named for it, in a place that all
processes of the machine share. The kernel lets go of it when its holder ends, however it ends. Who
waits keeps its turn by a second lock, so that a holder that lets go and wants it again comes after
those that waited. A process holds at most one lease, and waits for none while it holds a job's or a
shard's, so nobody waits in a circle.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

#: Where lock files belong on Linux; /tmp takes its place where it is not there.
LOCKS = Path("/run/lock")

#: While another process has the GPU, it is asked for this often, in seconds.
ASK_S = 0.5

#: Characters of a holder's words that are kept.
_LENGTH = 200


class GpuLease:
    """The lease of one GPU, as one user of it in this process sees it. Not thread safe."""

    def __init__(self, uuid: str, who: str, folder: Path | None = None) -> None:
        """`who` is what others read while this one holds it: "scoring", "training"."""
        self.who = f"{who} (process {os.getpid()})"
        name = "pneumoq-" + re.sub(r"[^0-9A-Za-z-]", "-", uuid)
        place = folder or _place()
        self._main = _Lock(place / f"{name}.lock")
        self._turn = _Lock(place / f"{name}.next.lock")

    @property
    def held(self) -> bool:
        """Whether this one has the GPU."""
        return self._main.held

    @property
    def descriptor(self) -> int | None:
        """The open file that the lease hangs on, for a child that is to keep it alive too."""
        return self._main.descriptor

    def take(self) -> bool:
        """Have the GPU now, or be next if nobody else is; returns whether it is had."""
        if self.held:
            return True
        if not self._turn.take():
            return False
        if not self._main.take():
            return False
        self._main.write(self.who)
        self._turn.release()
        return True

    def wait(
        self,
        wanted: Callable[[], bool],
        stop: threading.Event,
        set_status: Callable[[str], object],
        who: str,
    ) -> bool:
        """Have it, waiting as long as it is `wanted` and nothing is to `stop`; whether it is had.

        `set_status` is told in words that `who` waits, if it does, and that the wait is over.
        """
        waits = False
        while not stop.is_set() and wanted():
            if self.take():
                return True
            if not waits:
                waits = True
                text = f"{who} waits for the GPU, which {self.holder()} has"
                log.info("%s", text)
                set_status(text)
            stop.wait(ASK_S)
        self.leave()
        if waits:
            set_status("")
        return self.held

    def holder(self) -> str:
        """Who has it, in words, as far as that is known."""
        return self._main.read() or "another process"

    def leave(self) -> None:
        """Wait for it no longer."""
        self._turn.release()

    def release(self) -> None:
        """Let go of it, or of the wait for it."""
        self._turn.release()
        self._main.release()


class _Lock:
    """A file that is locked while it is held; the file itself stays."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.descriptor: int | None = None

    @property
    def held(self) -> bool:
        return self.descriptor is not None

    def take(self) -> bool:
        if self.held:
            return True
        descriptor = _opened(self._path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self.descriptor = descriptor
        return True

    def release(self) -> None:
        if self.descriptor is not None:
            # Also where a child that has not ended yet holds the same open file.
            fcntl.flock(self.descriptor, fcntl.LOCK_UN)
            os.close(self.descriptor)
            self.descriptor = None

    def write(self, words: str) -> None:
        assert self.descriptor is not None
        with suppress(OSError):  # another user's file, which may be locked but not written
            os.ftruncate(self.descriptor, 0)
            os.pwrite(self.descriptor, words.encode()[:_LENGTH], 0)

    def read(self) -> str:
        try:
            return self._path.read_bytes()[:_LENGTH].decode(errors="replace")
        except OSError:
            return ""


def _opened(path: Path) -> int:
    """The file's descriptor, made for all users where it is not there yet."""
    for flags in (os.O_RDWR, os.O_RDONLY):
        with suppress(FileNotFoundError, PermissionError):
            return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    with suppress(PermissionError):  # whoever made it in between has done so
        os.fchmod(descriptor, 0o666)  # whatever the umask says
    return descriptor


def _place() -> Path:
    if LOCKS.is_dir() and os.access(LOCKS, os.W_OK | os.X_OK):
        return LOCKS
    return Path("/tmp")  # not of this user alone, as TMPDIR may be
