"""Disks and shares are asked in a process of its own, which can be given up where none answers.

A file server that is gone, or a disk that fails, may let whoever asks wait for ever, in a state in
which not even SIGKILL ends it. So whatever may wait so is asked through `each` or `call`: the
process that asks (`worker.archive.apart_child`) tells again and again that it comes on, and after
some seconds without a word it is killed, and for as long again nobody is sent for the same path.
One that cannot be killed is left behind until the kernel lets it go, and as long as it is there its
path is not asked either. Who goes through much says where it is (`at`), so that what alone gives no
answer is known, and the rest can be asked without it (`aside`). Where SILENT paths of a share give
no answer one after the other, none of it is asked for a while, and at most MOST are left behind.
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
from worker.archive.shares import share_of
from worker.errors import ArchiveError, NoAnswer, ReaderEnded, SourceTrouble

log = logging.getLogger(__name__)

#: Processes that this one leaves behind at most: each keeps some megabytes.
MOST = 8

#: Paths without an answer that are a share without one, where it answered nothing meanwhile.
SILENT = 2

#: What alone gave no answer is left alone for twice as long each time, up to so many seconds.
LONGEST_S = 300.0

#: Processes that are kept for the next question.
IDLE = 2

#: A process must be ready within so many seconds of its start; it loads the readers of archives.
START_S = 60.0

#: A killed process that is still there after so many seconds is left behind.
REAP_S = 1.0


class _At:
    """Where the one who asks is, in its own process."""

    __slots__ = ("path",)

    def __init__(self) -> None:
        self.path = ""


#: Whoever goes through much puts here what it is about to ask for.
at = _At()


class _Left(NamedTuple):
    """A process or thread that was left behind."""

    is_there: Callable[[], bool]
    #: What it waits for, and where the share of that is mounted. None is not asked less for it: a
    #: decoder waits for one film, of which there are other rules.
    path: str | None
    place: str | None
    since: float
    #: It was met on the way through a folder above it.
    aside: bool


class _Silent(NamedTuple):
    """What gave no answer. Times are of time.monotonic."""

    since: float
    #: It is not asked again until then, after so many seconds.
    until: float
    seconds: float
    aside: bool


_lock = threading.Lock()
_idle: list[_Process] = []
_left: list[_Left] = []
#: By path and the place of its share.
_silent: dict[tuple[str, str | None], _Silent] = {}
#: Place of a share → when it last answered anything.
_answered: dict[str | None, float] = {}


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
    NoAnswer says what below the path it was that gave none, if the function puts it into `at`.
    """
    place, named = share_of(path), named or path
    _check(path, place, patience_s, named)
    process = _Process() if anew else _taken()
    done, inside = False, None
    try:
        process.ask(function, arguments)
        while True:
            reply = process.reply(patience_s)
            if reply is None:
                inside = process.at if process.at != path else None
                if inside is not None:
                    _answered[place] = time.monotonic()  # what is on the way there did
                _fell_silent(inside or path, patience_s, aside=inside is not None)
                raise no_answer(named, patience_s, inside)
            if reply and place is not None:
                _answered[place] = time.monotonic()
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
            who = f"process {process.of.pid}"
            leave(lambda: process.alive, who, inside or path, aside=inside is not None)
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


def leave(
    is_there: Callable[[], bool], who: str, path: str | None = None, *, aside: bool = False
) -> None:
    """Leave behind who waits for a disk or share, that of `path` if any, as long as it `is_there`.

    That path is not asked meanwhile. It is put `aside` where it was met below what was asked for.
    """
    place = None if path is None else share_of(path)
    with _lock:
        _left.append(_Left(is_there, path, place, time.monotonic(), aside))
        count = len(_left)
    # A path may name a film or a patient.
    log.warning(
        "%s waits for %s and cannot be ended: it is left behind (%d in all)",
        who, place or "a source", count,
    )  # fmt: skip


def aside(folder: str) -> list[str]:
    """What below a folder alone gave no answer lately, and is to be left out of it."""
    left_behind()
    now = time.monotonic()
    with _lock:
        found = {left.path for left in _left if left.aside and left.path is not None}
        found |= {path for (path, _), one in _silent.items() if one.aside and now < one.until}
    return sorted(path for path in found if path.startswith(folder.rstrip("/") + "/"))


def is_silent(place: str | None) -> bool:
    """Whether a share gave no answer SILENT times, one after the other."""
    return place is not None and len(_silent_since(place)) >= SILENT


def _silent_since(place: str | None) -> dict[str, float]:
    """Paths of a share that gave no answer, and when, since it last answered anything."""
    now, answered = time.monotonic(), _answered.get(place, -1.0)
    with _lock:
        found = {left.path: left.since for left in _left if left.place == place and left.path}
        for (path, of), one in _silent.items():
            if of == place and now < one.until:
                found.setdefault(path, one.since)
    return {path: since for path, since in found.items() if since > answered}


def _fell_silent(path: str, patience_s: float, *, aside: bool) -> None:
    """Note that there was no answer about a path."""
    key, now = (path, share_of(path)), time.monotonic()
    with _lock:
        before = _silent.get(key)
        # A share is asked as soon as it may be back.
        again = aside and before is not None
        seconds = min(2 * before.seconds, LONGEST_S) if again and before else patience_s
        _silent[key] = _Silent(now, now + seconds, seconds, aside)


def _check(path: str, place: str | None, patience_s: float, named: str) -> None:
    """Raise SourceTrouble where nobody may be sent for this path now."""
    left_behind()
    now = time.monotonic()
    with _lock:
        count = sum(left.path is not None for left in _left)
        for gone in [key for key, one in _silent.items() if one.until + LONGEST_S <= now]:
            del _silent[gone]
        waited = {(left.path, left.place) for left in _left}
        waited |= {key for key, one in _silent.items() if now < one.until}
    beside = {} if place is None else _silent_since(place)
    # One more is sent after a while: it may be some files, and not the share.
    all_silent = len(beside) > SILENT or (
        len(beside) == SILENT and now < max(beside.values()) + patience_s
    )
    if (path, place) in waited or all_silent:
        raise no_answer(named, patience_s)
    if count >= MOST:
        raise SourceTrouble(
            "unreadable",
            f"{named}: not asked, since {count} processes or threads of this worker wait for disks "
            "or shares that give no answer, and cannot be ended; see to those",
            whose="machine",
        )


def no_answer(path: str, patience_s: float, at: str | None = None) -> NoAnswer:
    """The error for a path that gave no answer, because of what below it gave none (`at`)."""
    # The same sentence each time: one trouble is told of once.
    return NoAnswer(
        "unreadable",
        f"{path}: its disk or share gives no answer (for {patience_s:g} s, "
        "PNEUMOQ_FILM_DEADLINE_S); see to it",
        at=at,
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
        #: What it asks for now, where it has been there for a while and said so.
        self.at: str | None = None
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
        self.at = None
        asked = [function.__module__, function.__qualname__, arguments]
        self._socket.settimeout(START_S)  # it waits for nothing else
        self._socket.sendall(json.dumps(asked).encode() + b"\n")

    def reply(self, patience_s: float) -> dict[str, Any] | None:
        """Its next line; None where there is none for so long. Raises EOFError once it ended."""
        until = time.monotonic() + patience_s
        while True:
            if self._lines:
                reply: dict[str, Any] = json.loads(self._lines.popleft())
                if "at" not in reply:
                    return reply
                self.at = reply["at"]
                continue
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
