"""A process that asks disks and shares, for `worker.archive.apart`, and is expendable.

It is started as `python -m worker.archive.apart_child FD`, of a socket. A line of JSON there is a
call: the module, its function, and the arguments. Lines go back: `{"is": …}` for each that the
function yields, `{}` where it only comes on, `{"at": PATH}` where it has been there for a while
(`apart.at`), and at last `{"end": true}` or `{"error": {…}}`.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from types import GeneratorType
from typing import Any

# Loaded before it says that it is ready.
from worker import archive as _  # noqa: F401
from worker import logs
from worker.archive import apart
from worker.errors import ArchiveError, SourceTrouble

#: That a function comes on is told at most this often, in seconds.
TELL_S = 0.2

#: So many lines are sent together, if they come that quickly.
SEND_LINES = 256


def main() -> None:
    """Serve the parent until it closes the socket.

    Signals that end the worker are not for this process: it would end in the midst of a question.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    logs.at_the_end()
    with socket.socket(fileno=int(sys.argv[1])) as link, link.makefile("rb") as asked:
        parent = _Parent(link)
        link.sendall(_line({}))
        for line in asked:
            parent.begin()
            for reply in _replies(*json.loads(line)):
                parent.tell(reply)
            parent.end()


class _Parent:
    """The parent: what it is told is sent soon, also where whoever tells it waits for a disk."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._lock = threading.Lock()
        self._asked = threading.Event()
        self._unsent: deque[bytes] = deque()
        threading.Thread(target=self._watch, name="telling", daemon=True).start()

    def begin(self) -> None:
        """A call begins."""
        apart.at.path = ""
        self._asked.set()

    def tell(self, reply: dict[str, Any]) -> None:
        """Say something."""
        self._unsent.append(_line(reply))
        if len(self._unsent) >= SEND_LINES:
            with self._lock:
                self._send()

    def end(self) -> None:
        """The call is over, and all was said of it."""
        with self._lock:
            self._asked.clear()
            self._send()

    def _watch(self) -> None:
        """Send what waits, and say where the caller is that has been there for a while."""
        before = told = ""
        with contextlib.suppress(OSError):  # the parent is gone
            while True:
                self._asked.wait()
                time.sleep(TELL_S)
                with self._lock:
                    now = apart.at.path if self._asked.is_set() else ""
                    if now and now is before and now is not told:
                        self._unsent.append(_line({"at": now}))
                        told = now
                    before = now
                    self._send()

    def _send(self) -> None:
        lines = []
        while self._unsent:
            lines.append(self._unsent.popleft())
        if lines:
            self._link.sendall(b"".join(lines))


def _line(reply: dict[str, Any]) -> bytes:
    return json.dumps(reply).encode() + b"\n"


def _replies(module: str, name: str, arguments: list[Any]) -> Iterator[dict[str, Any]]:
    told = time.monotonic()
    try:
        if not module.startswith("worker."):
            raise ValueError(f"{module} is none of the worker's")
        found = getattr(importlib.import_module(module), name)(*arguments)
        for one in found if isinstance(found, GeneratorType) else [found]:
            if one is not None:
                yield {"is": one}
            elif time.monotonic() - told < TELL_S:
                continue
            else:
                yield {}
            told = time.monotonic()
    except OSError as error:
        filename = error.filename if isinstance(error.filename, str) else None
        yield {"error": {"errno": error.errno, "text": error.strerror, "filename": filename}}
    except SourceTrouble as error:
        yield {"error": {"code": error.code, "text": str(error), "whose": error.whose}}
    except ArchiveError as error:
        yield {"error": {"code": error.code, "text": str(error)}}
    except Exception as error:
        # To the worker's log: what is raised may hold names, and goes no further than its type.
        logging.getLogger(__name__).exception("%s.%s failed", module, name)
        yield {"error": {"text": type(error).__name__}}
    else:
        yield {"end": True}


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        main()
