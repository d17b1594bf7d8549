"""What is in a watched folder, and whether it can be read."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from db.nightly.watched import Seen, Waiting
from worker.archive.names import skipped_as

#: Names of files that somebody is still writing, or that are none of a person's.
UNFINISHED = (".part", ".partial", ".tmp", ".temp", ".crdownload", ".filepart", ".download", "~")

#: A folder that systems make at the top of a disk, and let nobody look into.
RESCUED = "lost+found"

#: Files that are opened to find out whether any of a folder can be read.
WITNESSES = 8


class Unreadable(Exception):
    """A folder cannot be looked through here and now; the message is for a person."""


def files(folder: Path) -> Iterator[Seen]:
    """The files below a folder that may be films or archives; raises Unreadable."""

    def cannot(error: OSError) -> None:
        if isinstance(error, FileNotFoundError) and error.filename != str(folder):
            return  # a folder below, which is gone since it was listed
        # What a folder or a file below is called is not for a sentence.
        where = folder if error.filename in (None, str(folder)) else f"something in {folder}"
        raise Unreadable(
            f"{where} cannot be looked through ({error.strerror}); mount it, or let the workers' "
            "user read it"
        )

    refused: OSError | None = None
    some = False
    for path, folders, names in os.walk(folder, onerror=cannot):
        folders[:] = sorted(n for n in folders if not n.startswith(".") and n != RESCUED)
        for name in sorted(names):
            place = f"{path}/{name}"
            if _skipped(name) or skipped_as(os.path.relpath(place, folder)):
                continue
            try:
                status = os.stat(place)  # noqa: PTH116  # a Path per file of a million costs
            except FileNotFoundError:
                continue  # gone already
            except OSError as error:
                refused = refused or error
                continue
            if stat.S_ISREG(status.st_mode) and status.st_size:
                some = True
                yield Seen(place, status.st_size, status.st_mtime_ns)
    if refused is not None and not some:
        cannot(refused)


def _skipped(name: str) -> bool:
    """Whether a name is that of a hidden or unfinished file."""
    return name.startswith(".") or name.lower().endswith(UNFINISHED)


def can_be_kept(path: str) -> bool:
    """Whether a database, and a list of one path a line, can hold a path."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return "\n" not in path


def can_be_read(path: str) -> bool:
    """Whether a file's first byte can be read."""
    try:
        with open(path, "rb") as opened:  # noqa: PTH123
            opened.read(1)
    except OSError:
        return False
    return True


def content(file: Waiting) -> str | None:
    """A file's SHA-256; None where it is not what was looked at, or gone. Raises OSError."""
    digest = hashlib.sha256()
    try:
        with open(file.path, "rb") as opened:  # noqa: PTH123
            while block := opened.read(1 << 20):
                digest.update(block)
            status = os.fstat(opened.fileno())
    except FileNotFoundError:
        return None
    same = (status.st_size, status.st_mtime_ns) == (file.size, file.mtime_ns)
    return digest.hexdigest() if same else None
