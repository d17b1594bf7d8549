"""Disks and shares are asked in a process of its own, which can be given up where none answers.

A file server that is gone, or a disk that fails, may let whoever asks wait for ever, in a state in
which not even SIGKILL ends it. So whatever may wait so is asked through `each` or `call`: the
process that asks (`worker.archive.apart_child`) tells again and again that it comes on, and after
some seconds without a word it is killed, and for as long again nobody is sent for the same path.
One that cannot be killed is left behind until the kernel lets it go, and as long as it is there its
path is not asked either. Where SILENT paths of a share give no answer none of it is asked, and at
most MOST are left behind.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from worker import config
from worker.errors import ArchiveError, NoAnswer, ReaderEnded, SourceTrouble

log = logging.getLogger(__name__)

#: Processes that this one leaves behind at most: each keeps some megabytes.
MOST = 8

#: Paths without an answer that are a share without one, and not a file of its own.
SILENT = 2

#: Processes that are kept for the next question.
IDLE = 2

#: A process must be ready within so many seconds of its start; it loads the readers of archives.
START_S = 60.0

#: A killed process that is still there after so many seconds is left behind.
REAP_S = 1.0

#: File systems of this machine's own disks and memory, whose driver answers with an error where
#: there is no other answer. All others are taken for shares.
_LOCAL = frozenset(
    {
        *("bcachefs", "btrfs", "devtmpfs", "erofs", "exfat", "ext2", "ext3", "ext4", "f2fs"),
        *("iso9660", "ntfs3", "overlay", "proc", "ramfs", "rootfs", "squashfs", "sysfs", "tmpfs"),
        *("vfat", "xfs", "zfs"),
    }
)

#: Links on the way of one path that are followed, as many as the kernel follows.
_LINKS = 40


class _Left(NamedTuple):
    """A process or thread that was left behind."""

    is_there: Callable[[], bool]
    #: What it waits for, and where the share of that is mounted. None is not asked less for it: a
    #: decoder waits for one film, of which there are other rules.
    path: str | None
    place: str | None = None


_lock = threading.Lock()
_idle: list[_Process] = []
_left: list[_Left] = []
#: Path and the place of its share → until when it is not asked again (time.monotonic), since it
#: gave no answer.
_silent: dict[tuple[str, str | None], float] = {}


def each(
    path: str,
    patience_s: float,
    function: Callable[..., Any],
    *arguments: Any,
    named: str | None = None,
    anew: bool = False,
) -> Iterator[Any]:
    """What `function(*arguments)` yields (or its one answer), asked of the disk or share of `path`.

    A public function of a module of the worker's; its arguments and what it yields are JSON, or
    named tuples, which arrive as lists; None only says that it comes on. Errors call the path
    `named`, where it may name people itself; `anew` has a new process asked. Raises what it raises
    of OSError and ArchiveError, NoAnswer where there was no word from it for `patience_s`
    seconds or where an earlier process still waits for the same path or share, and ReaderEnded.
    """
    place, named = share_of(path), named or path
    _check(path, place, patience_s, named)
    process = _Process() if anew else _taken()
    done = False
    try:
        process.ask(function, arguments)
        while True:
            reply = process.reply(patience_s)
            if reply is None:
                with _lock:
                    _silent[path, place] = time.monotonic() + patience_s
                raise _no_answer(named, patience_s)
            if "error" in reply or "end" in reply:
                done = True
                break
            if reply:
                yield reply["is"]
    except (EOFError, OSError) as error:
        raise ReaderEnded(
            "unreadable", f"{named}: the process that reads it ended ({process.end()}); see its log"
        ) from error
    finally:
        if done:
            _put_back(process)
        elif process.end() is None:
            leave(lambda: process.alive, f"process {process.of.pid}", path)
    if "error" in reply:
        raise _error(named, reply["error"])


def call(
    path: str,
    patience_s: float,
    function: Callable[..., Any],
    *arguments: Any,
    named: str | None = None,
) -> Any:
    """The last that `each` would yield; None where that is nothing.

    A process that ends may have been ended from outside: another is asked before that is said.
    """

    def asked(*, anew: bool) -> Any:
        answers = each(path, patience_s, function, *arguments, named=named, anew=anew)
        last = deque(answers, maxlen=1)
        return last[0] if last else None

    try:
        return asked(anew=False)
    except ReaderEnded:
        return asked(anew=True)


def reach(path: str, patience_s: float) -> None:
    """Raise SourceTrouble where a share gives no answer; any answer of its will do.

    Costs a few system calls where the path is on one of this machine's own disks.
    """
    if share_of(path) is None:
        return
    try:
        call(path, patience_s, touch, path)
    except SourceTrouble:
        raise
    except ReaderEnded:  # whatever ended the process, it was not kept waiting
        log.warning("the process that tried %s ended; see its log", share_of(path))


def touch(path: str) -> None:
    """Have the first bytes of a file, or the first entry of a folder, where that can be had."""
    with contextlib.suppress(OSError, ValueError):
        mode = Path(path).stat().st_mode
        if stat.S_ISDIR(mode):
            with os.scandir(path) as entries:
                next(entries, None)
        elif stat.S_ISREG(mode):
            with open(path, "rb") as file:  # noqa: PTH123
                file.read(1)


def left_behind() -> int:
    """How many still wait for a disk or share, though they were given up."""
    with _lock:
        _left[:] = [left for left in _left if left.is_there()]
        return len(_left)


def leave(is_there: Callable[[], bool], who: str, path: str | None = None) -> None:
    """Leave behind who waits for a disk or share, that of `path` if any, as long as it `is_there`.

    That path is not asked meanwhile.
    """
    place = None if path is None else share_of(path)
    with _lock:
        _left.append(_Left(is_there, path, place))
        count = len(_left)
    # A path may name a film or a patient.
    log.warning(
        "%s waits for %s and cannot be ended: it is left behind (%d in all)",
        who, place or "a source", count,
    )  # fmt: skip


def share_of(path: str) -> str | None:
    """Where the share is mounted that a path leads to; None where it leads to none.

    Links on the way are followed, and nothing is asked of a share.
    """
    mounts = _mounts()
    rest = [part for part in reversed(os.path.abspath(path).split("/")) if part]  # noqa: PTH100
    at, links = "/", 0
    while True:
        point = at
        while point not in mounts and point != "/":
            point = os.path.dirname(point)  # noqa: PTH120
        if mounts.get(point, "rootfs") not in _LOCAL:
            return point
        if not rest:
            return None
        part = rest.pop()
        if part == "..":
            at = os.path.dirname(at)  # noqa: PTH120
            continue
        below = at.rstrip("/") + "/" + part
        try:
            # What is mounted there is no link, and would have to be asked.
            target = None if below in mounts else os.readlink(below)  # noqa: PTH115
        except (OSError, ValueError):
            target = None
        if target is None:
            at = below
            continue
        links += 1
        if links > _LINKS:
            return None
        if target.startswith("/"):
            at = "/"
        rest += [part for part in reversed(target.split("/")) if part not in ("", ".")]


def _mounts() -> dict[str, str]:
    """Mount point → type of what is mounted there last."""
    found = {}
    try:
        lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return {}
    for line in lines:
        fields, _, tail = line.partition(" - ")
        point = fields.split(" ")[4]
        for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
            point = point.replace(code, character)
        found[point] = tail.split(" ")[0]
    return found


def _check(path: str, place: str | None, patience_s: float, named: str) -> None:
    """Raise SourceTrouble where nobody may be sent for this path now."""
    left_behind()
    now = time.monotonic()
    with _lock:
        count = sum(left.path is not None for left in _left)
        for gone in [silent for silent, until in _silent.items() if until <= now]:
            del _silent[gone]
        waited = {(left.path, left.place) for left in _left} | _silent.keys()
    beside = {other for other, of in waited if place is not None and of == place}
    if (path, place) in waited or len(beside) >= SILENT:
        raise _no_answer(named, patience_s)
    if count >= MOST:
        raise SourceTrouble(
            "unreadable",
            f"{named}: not asked, since {count} processes or threads of this worker wait for disks "
            "or shares that give no answer, and cannot be ended; see to those",
            whose="machine",
        )


def _no_answer(path: str, patience_s: float) -> NoAnswer:
    # The same sentence each time: one trouble is told of once.
    return NoAnswer(
        "unreadable",
        f"{path}: its disk or share gives no answer (for {patience_s:g} s, "
        "PNEUMOQ_FILM_DEADLINE_S); see to it",
    )


def _taken() -> _Process:
    """A process that asks for nobody now."""
    with _lock:
        while _idle:
            process = _idle.pop()
            if process.alive:
                return process
            process.end()
    return _Process()


def _put_back(process: _Process) -> None:
    with _lock:
        if len(_idle) < IDLE:
            _idle.append(process)
            return
    process.end()


def _error(path: str, told: dict[str, Any]) -> Exception:
    """What was raised in the process, as far as it may be met."""
    if "errno" in told:
        return OSError(told["errno"], told["text"], told["filename"])
    if "whose" in told:
        return SourceTrouble(told["code"], told["text"], whose=told["whose"])
    if "code" in told:
        return ArchiveError(told["code"], told["text"])
    return RuntimeError(f"{path} could not be read ({told['text']}); the log above says why")


@atexit.register
def _end_idle() -> None:
    while _idle:
        _idle.pop().end()


class _Process:
    """A process that asks, seen from this one. Used by one thread at a time."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self.of = subprocess.Popen(
                [sys.executable, "-m", "worker.archive.apart_child", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                cwd="/",  # a folder named like one of our packages must not be found first
                # It reads what anybody may have put there: no setting, and no secret.
                env=config.decoder_environment()
                | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        #: Lines that have come, and the beginning of the next one.
        self._lines: deque[bytes] = deque()
        self._unread = b""
        try:
            started = self.reply(START_S)
        except (EOFError, OSError):
            started = None
        if started is None:
            self.end()
            raise SourceTrouble(
                "unreadable",
                f"this machine starts no process that reads archives (within {START_S:g} s); free "
                "memory or processors, and see the worker's log",
                whose="machine",
            )

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self.of.poll() is None

    def ask(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        """Have it call a function."""
        asked = [function.__module__, function.__qualname__, arguments]
        self._socket.settimeout(START_S)  # it waits for nothing else
        self._socket.sendall(json.dumps(asked).encode() + b"\n")

    def reply(self, patience_s: float) -> dict[str, Any] | None:
        """Its next line; None where there is none for so long. Raises EOFError once it ended."""
        until = time.monotonic() + patience_s
        while True:
            if self._lines:
                reply: dict[str, Any] = json.loads(self._lines.popleft())
                return reply
            left = until - time.monotonic()
            if left <= 0:
                return None
            self._socket.settimeout(left)
            try:
                data = self._socket.recv(1 << 16)
            except TimeoutError:
                return None
            if not data:
                raise EOFError
            *lines, self._unread = (self._unread + data).split(b"\n")
            self._lines += lines

    def end(self) -> int | None:
        """Kill it; its exit status, negative for a signal, or None where it is still there."""
        self._socket.close()
        self.of.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.of.wait(REAP_S)
        return None
