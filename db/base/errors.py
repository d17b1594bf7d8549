"""Errors of the database package, and what a caller can do about each.

DatabaseError
├── NotMigrated         the schema is absent, old, or too new; the message says what to do
├── NotFound            no such job, model or alias
├── Conflict            the row's state forbids it: final states are final
├── LeaseLost           another worker holds it now, or the job ended: stop and write nothing
├── Unavailable         the database did not answer for a while
├── UnknownLabel        a label that is no class of the model; the message lists the classes
└── QueryRefused        the database refused a statement of `pneumoq query`
"""

from __future__ import annotations

import re


class DatabaseError(Exception):
    """Base of everything the database package raises on purpose."""


class NotMigrated(DatabaseError):
    """The schema is absent, or this release may not use it: what was found, and what to do."""

    def __init__(self, found: str, advice: str) -> None:
        super().__init__(f"{found}; {advice}")
        self.found = found
        self.advice = advice


class NotFound(DatabaseError, LookupError):
    """No such row."""


class Conflict(DatabaseError):
    """The row's state forbids it."""


class LeaseLost(DatabaseError):
    """Another worker holds it now, or the job ended. Stop; nothing was written."""


class Unavailable(DatabaseError):
    """The database did not answer for a while."""


class QueryRefused(DatabaseError):
    """The database refused the statement."""


def unforeseen(what: str, error: BaseException) -> str:
    """One line for a row: what failed by an exception that nobody foresaw.

    The traceback belongs in the log.
    """
    return f"{what} failed ({nameless(error)}); a worker's log says why"


#: What may be a name in a sentence that we did not write: what is quoted, and paths.
_NAMES = re.compile(r"""'[^']*'|"[^"]*"|(?<![\w.])(?:/.*?(?=: |$)|[\w.~-]+/\S*)""")


def nameless(error: BaseException) -> str:
    """An exception that nobody foresaw, in one line that names no film and no patient.

    Only its first line, which holds no values of a row. What the system says of a file is repeated
    without the file; of other exceptions what is quoted, or is a path, is left out.
    """
    original = getattr(error, "orig", None) or error
    if isinstance(original, OSError) and original.strerror:
        first = f"[Errno {original.errno}] {original.strerror}"
    else:
        first = _NAMES.sub("…", (str(original).strip().splitlines() or [""])[0])[:200]
    return type(original).__name__ + (f": {first}" if first else "")


class UnknownLabel(DatabaseError, ValueError):
    """A label that is no class of the model."""
