"""Whose trouble an error of the system is: a film's, its source's or this machine's.

An errno says little by itself, since a share that is not mounted and a film that was deleted are
the same ENOENT. It is judged by where it occurred. At a source's root (the archive itself, or the
folder that films are in) it is the source's trouble, whatever it says. At a member it is the
film's own only while others of the same source can be read, which is found out by whoever reads
(`worker.scoring.doubts`), and only after some tries. What a machine has run out of is the
machine's, wherever it shows. Listing, scoring and watching judge by this module alone.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal

from worker.errors import ArchiveError, MemberError, SourceTrouble

#: Whose an error is; empty where the system had nothing to do with it.
Whose = Literal["", "film", "source", "machine"]

#: What a machine has run out of: files, memory, room.
MACHINE = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC, errno.EDQUOT}
)

#: What is wrong with a name itself, wherever and whenever it is opened.
_OF_THE_NAME = frozenset({errno.ENAMETOOLONG, errno.ELOOP})


def at_member(error: OSError) -> MemberError:
    """The MemberError for what the system says of one member.

    It leaves the path out, which may be a name.
    """
    whose: Whose = "film"
    if error.errno in MACHINE:
        whose = "machine"
    elif error.errno in _OF_THE_NAME:
        whose = ""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return MemberError("missing", "there is no such file, or no longer", whose=whose)
    if isinstance(error, PermissionError):
        return MemberError(
            "unreadable", "permission denied; let the worker's user read the file", whose=whose
        )
    return MemberError("unreadable", f"the system cannot read it: {_words(error)}", whose=whose)


def at_root(uri: str, error: OSError | ValueError) -> ArchiveError:
    """The error for a source that the system does not let us open, list or read.

    It is SourceTrouble, save for a path that can never be one (a ValueError of the system's).
    """
    if isinstance(error, OSError) and error.errno in MACHINE:
        return SourceTrouble(
            "unreadable",
            f"{uri}: this machine has run out of something ({_words(error)}); free it, or raise "
            "its limit",
            whose="machine",
        )
    if isinstance(error, FileNotFoundError | NotADirectoryError | ValueError):
        hint = (
            "only paths of the worker's own machine are read" if "://" in uri else "check the path"
        )
        text = f"{uri}: there is no such file or folder; {hint}"
        if isinstance(error, ValueError):
            return ArchiveError("not_found", text)
        return SourceTrouble("not_found", f"{text}, and that its disk or share is mounted")
    if isinstance(error, PermissionError):
        return SourceTrouble(
            "unreadable", f"{uri}: permission denied; let the worker's user read it (chmod a+r)"
        )
    return SourceTrouble("unreadable", f"{uri}: cannot be read: {_words(error)}")


def empty(uri: str) -> SourceTrouble:
    """The error for a folder without a single entry: a mount point opens so without its share."""
    return SourceTrouble(
        "empty",
        f"{uri}: the folder is empty; mount its disk or share where it should have one, or put "
        "films into it",
    )


def lost(uri: str) -> SourceTrouble:
    """The error for a folder in which nothing is left of what was seen there before."""
    return SourceTrouble(
        "not_found",
        f"{uri}: nothing is there any more of what was listed; check that its disk or share is "
        "mounted",
    )


def of_machine(error: BaseException) -> bool:
    """Whether an error says that this machine has run out of something, or was raised from one."""
    met: BaseException | None = error
    while met is not None:
        if isinstance(met, MemoryError) or (isinstance(met, OSError) and met.errno in MACHINE):
            return True
        met = met.__cause__
    return False


def whose(error: Exception) -> Whose:
    """Whose an error of this package is."""
    if isinstance(error, SourceTrouble | MemberError):
        return error.whose
    return ""


@contextmanager
def at(uri: str) -> Iterator[None]:
    """What the system says within is said of the source at this path, or of this machine."""
    try:
        yield
    except OSError as error:
        raise at_root(uri, error) from error
    except MemoryError as error:
        raise at_root(uri, OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))) from error


def close(fd: int) -> None:
    """Close a file of a source: a share that is gone says so even then, and it is closed."""
    with suppress(OSError):
        os.close(fd)


class Root:
    """What was seen below a folder, by which it is told from an empty mount point later."""

    #: Names that are looked for again.
    MOST = 64

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._names: list[str] = []

    def saw(self, *names: str) -> None:
        """Names, relative to the folder or absolute, at which something is."""
        if len(self._names) < self.MOST:
            self._names.extend(names[: self.MOST - len(self._names)])

    def check(self) -> None:
        """Raise SourceTrouble where something was seen and none of it is there any more."""
        for number, name in enumerate(self._names):
            # Absolute names stay as they are.
            if os.path.lexists(os.path.join(self._uri, name)):  # noqa: PTH118
                self._names[0], self._names[number] = name, self._names[0]
                return
        if self._names:
            raise lost(self._uri)


def _words(error: OSError | ValueError) -> str:
    number = getattr(error, "errno", None) or 0
    return getattr(error, "strerror", None) or errno.errorcode.get(number, "input/output error")
