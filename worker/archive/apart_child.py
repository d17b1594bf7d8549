"""A process that asks disks and shares, for `worker.archive.apart`, and is expendable.

It is started as `python -m worker.archive.apart_child FD`, of a socket. A line of JSON there is a
call: the module, its function, and the arguments. Lines go back: `{"is": …}` for each that the
function yields, `{}` where it only comes on, and at last `{"end": true}` or `{"error": {…}}`.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import signal
import socket
import sys
import time
from collections.abc import Iterator
from types import GeneratorType
from typing import Any

# Loaded before it says that it is ready.
from worker import archive as _  # noqa: F401
from worker import logs
from worker.errors import ArchiveError, SourceTrouble

#: That a function comes on is told at most this often, in seconds.
TELL_S = 0.2

#: Lines are sent together up to so many bytes, if they come that quickly.
SEND_BYTES = 1 << 15


def main() -> None:
    """Serve the parent until it closes the socket.

    Signals that end the worker are not for this process: it would end in the midst of a question.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    logs.at_the_end()
    with socket.socket(fileno=int(sys.argv[1])) as parent, parent.makefile("rb") as asked:
        parent.sendall(_line({}))
        for line in asked:
            unsent, sent = bytearray(), time.monotonic()
            for reply in _replies(*json.loads(line)):
                unsent += _line(reply)
                if len(unsent) >= SEND_BYTES or time.monotonic() - sent >= TELL_S:
                    parent.sendall(unsent)
                    unsent, sent = bytearray(), time.monotonic()
            parent.sendall(unsent)


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
