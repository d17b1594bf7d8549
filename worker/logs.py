"""Logs: what a process writes for the site's own eyes names no film and no patient.

Our own lines are written so. What an exception says may hold anything, a film's path above all: of
one that is logged, or ends a process or a thread, the frames are written and what
`db.base.errors.nameless` leaves of its words.
"""

from __future__ import annotations

import copy
import logging
import sys
import threading
import traceback
from types import TracebackType
from typing import Any

from db.base.errors import nameless


def of(error: BaseException) -> str:
    """The traceback of an exception, and of those before it, without names."""
    chain: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in chain:
        chain.append(one)
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    return "\n\n".join(
        "Traceback (most recent call last):\n"
        + "".join(traceback.format_tb(each.__traceback__))
        + nameless(each)
        for each in reversed(chain)
    )


class Nameless(logging.Formatter):
    """Formats as another does, with tracebacks as `of` writes them."""

    def __init__(self, inner: logging.Formatter | None) -> None:
        super().__init__()
        self._inner = inner or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        if error is not None:
            record = copy.copy(record)
            record.exc_text = of(error)
            if isinstance(record.args, dict):  # Celery's, of a task that failed
                record.args = {**record.args, "exc": nameless(error), "traceback": ""}
        return self._inner.format(record)


def without_names(logger: logging.Logger) -> None:
    """Have all that a logger's handlers write be without names."""
    for handler in logger.handlers:
        if not isinstance(handler.formatter, Nameless):
            handler.setFormatter(Nameless(handler.formatter))


def at_the_end() -> None:
    """The same of what ends this process, or a thread of it.

    And of what it logs where it has no handler, as processes have that read films.
    """
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(Nameless(None))

    def end(_: type[BaseException], error: BaseException, __: TracebackType | None) -> None:
        sys.stderr.write(of(error) + "\n")

    def end_thread(args: Any) -> None:
        if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
            sys.stderr.write(of(args.exc_value) + "\n")

    sys.excepthook = end
    threading.excepthook = end_thread
