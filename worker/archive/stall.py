"""Work that reads an archive from its beginning to its end, in a thread that can be left behind.

Listing and inflating are far more than one question to a disk or share, too much to be done in
another process (`worker.archive.apart`). That the share answers at all is asked there first. Where
it falls silent in the middle, the thread is left to itself, and is counted as such processes are.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from worker.archive import apart
from worker.errors import SourceTrouble

#: Seconds without a sign of life after which work is given up: far beyond what a database or a disk
#: that spins up may take, since it may wait for those too.
STALL_S = 300.0

#: How often it is looked for one, in seconds.
TICK_S = 0.25

T = TypeVar("T")


def watched(
    work: Callable[[], T],
    path: Callable[[], str],
    patience_s: Callable[[], float] | None = None,
    late: Callable[[T], None] | None = None,
    inside: Callable[[], str | None] = lambda: None,
) -> T:
    """What `work` returns or raises; SourceTrouble where it has come to a stop.

    That is where it used no processor for `patience_s` seconds (STALL_S). `path` is the disk or
    share that it reads then, and `inside` what below it is asked for, if that is known: the next
    one leaves that out (`apart.aside`). What was given up may come on later: what it does must do
    no harm, and what it returns then is given to `late`.
    """
    answers: list[T] = []
    errors: list[BaseException] = []
    lock = threading.Lock()
    given_up = False

    def run() -> None:
        try:
            answer = work()
        except BaseException as error:  # noqa: BLE001  # it is raised where it is waited for
            errors.append(error)
            return
        with lock:
            if not given_up:
                answers.append(answer)
            elif late is not None:
                late(answer)

    thread = threading.Thread(target=run, name="reading", daemon=True)
    thread.start()
    used, since = object(), time.monotonic()
    while True:
        thread.join(TICK_S)
        if not thread.is_alive():
            break
        now = _used(thread.native_id)
        if now != used:
            used, since = now, time.monotonic()
        waited = time.monotonic() - since
        if waited >= (STALL_S if patience_s is None else patience_s()):
            with lock:
                given_up = not (answers or errors)
            if not given_up:
                break
            who, where = f"thread {thread.native_id} of this process", inside()
            apart.leave(thread.is_alive, who, where or path(), aside=where is not None)
            raise SourceTrouble(
                "unreadable",
                f"{path()}: its disk or share fell silent while it was read; see to it",
            )
    if errors:
        raise errors[0]
    return answers[0]


def close(closing: Callable[[], None], path: str) -> None:
    """Close something of the disk or share of `path`, which may let whoever does that wait.

    A thread that is still at it after `apart.REAP_S` is left behind.
    """
    thread = threading.Thread(target=closing, name="closing", daemon=True)
    thread.start()
    thread.join(apart.REAP_S)
    if thread.is_alive():
        apart.leave(thread.is_alive, f"thread {thread.native_id} of this process", path)


def _used(thread: int | None) -> object:
    """The processor time that a thread of this process has used; another each time where unknown.

    In nanoseconds where the kernel counts them (schedstat), and in ticks of 10 ms (proc(5)). One
    that waits for a processor comes on too.
    """
    task = Path(f"/proc/self/task/{thread}")
    try:
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        if fields[0] == "R":
            return object()
        ticks = fields[11:13]
        with contextlib.suppress(OSError):
            ticks += (task / "schedstat").read_text().split()[:1]
    except OSError:
        return object()
    return ticks
