"""What a person sees when something goes wrong: expected errors as one line, bugs as tracebacks.

Failure
└── an expected error: `Error: …` on standard error, exit status 2
"""

from __future__ import annotations

import errno
import sys

import click

#: Exit statuses of every command.
DONE, JOB_FAILED, BAD_INPUT, ITEM_ERRORS = 0, 1, 2, 3
#: Exit statuses as a shell gives them to a program ended by SIGINT and by SIGPIPE.
INTERRUPTED, PIPE_CLOSED = 130, 141

#: Errors that say that this machine, and not this program, stands in the way.
_SURROUNDINGS = frozenset(
    {
        *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO),
        *(errno.EEXIST, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE),
        errno.ENXIO,
    }
)


class Failure(click.ClickException):
    """An expected error; the message says what to do about it."""

    exit_code = BAD_INPUT

    def __init__(self, message: str) -> None:
        # Messages of drivers have several lines.
        super().__init__(" ".join(message.split()))


def explain(error: Exception) -> str | None:
    """What to tell a person about an expected error, or None where it is a bug.

    Classes of libraries are looked up among the modules that are loaded already: an error of a
    library that was never imported cannot have been raised.
    """
    from db.base.errors import DatabaseError
    from trainer.errors import TrainerError
    from worker.errors import WorkerError

    if isinstance(error, (DatabaseError, WorkerError, TrainerError)):
        return str(error)
    if _is(error, "sqlalchemy.exc", "DBAPIError"):
        return _explain_database(error)
    if _is(error, "alembic.util.exc", "CommandError"):
        return (
            f"the schema cannot be brought up to date: {error}; "
            "a newer PneumoQ may have made it: use that one"
        )
    if (
        _is(error, "kombu.exceptions", "OperationalError")
        or _is(error, "redis.exceptions", "ConnectionError")
        or _is(error, "redis.exceptions", "TimeoutError")
    ):
        return f"the broker does not answer: {error}; start `pneumoq up`, or see `pneumoq doctor`"
    if isinstance(error, OSError) and error.errno in _SURROUNDINGS:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    return None


def _is(error: Exception, module: str, name: str) -> bool:
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(error, getattr(loaded, name))


def _explain_database(error: Exception) -> str | None:
    from sqlalchemy.exc import DBAPIError

    from db.base import database

    assert isinstance(error, DBAPIError)
    text = str(error.orig)
    if database.away(error):
        return f"the database does not answer: {text}; `pneumoq doctor` says which one is meant"
    if getattr(error.orig, "sqlstate", None) == "42501" or "readonly" in text:
        return f"the database does not let this user write: {text}"
    if "not a database" in text or "malformed" in text:
        return f"the database file is damaged or is something else: {text}; see `pneumoq doctor`"
    return None
