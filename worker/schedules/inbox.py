"""What is in a watched folder, and whether it can be read.

All of it is asked through `worker.archive.apart`: functions that go through much yield None to say
that they come on.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Generator, Iterator, Sequence
from typing import NamedTuple

from trainer import clutter
from trainer.film import content as content_
from worker import archive
from worker.archive import apart, trouble
from worker.archive.folder import is_empty
from worker.errors import ArchiveError, SourceTrouble

#: Names of files that somebody is still writing, or that are none of a person's.
UNFINISHED = (".part", ".partial", ".tmp", ".temp", ".crdownload", ".filepart", ".download", "~")

#: `Entry.size` of a linked folder, which is not entered: it may lead in a circle.
LINKED = -1

#: Files that are opened to find out whether any of a folder can be read.
WITNESSES = 8


class Entry(NamedTuple):
    """A file below a folder, or a linked folder."""

    path: str
    size: int
    mtime_ns: int


class Opened(NamedTuple):
    """What a file is that was opened as an archive, as columns of `sources`."""

    uri: str
    kind: archive.Kind
    fingerprint: str
    content_id: str | None


def files(folder: str, aside: Sequence[str] = ()) -> Iterator[Entry | None]:
    """The files below a folder that may be films or archives, and the folders that are links.

    Files and folders that are put `aside` are not asked for. Raises SourceTrouble.
    """
    left_out = frozenset(aside)
    refused: OSError | None = None
    some = False
    ahead = [folder]
    while ahead:
        path = ahead.pop()
        try:
            names, below, linked = yield from _names(path, left_out)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and path != folder:
                continue  # a folder below, which is gone since it was listed
            raise _cannot(folder, path, error) from error
        for name in names:
            place = f"{path}/{name}"
            yield None
            if _skipped(name):
                continue
            apart.at.path = place
            try:
                status = os.stat(place)  # noqa: PTH116  # a Path per file of a million costs
            except FileNotFoundError:
                continue  # gone already
            except OSError as error:
                refused = refused or error
                continue
            if stat.S_ISREG(status.st_mode) and status.st_size:
                some = True
                yield Entry(place, status.st_size, status.st_mtime_ns)
        ahead += [f"{path}/{name}" for name in below if clutter.of_folder(name) is None]
        for name in linked:
            if clutter.of_folder(name) is None:
                yield Entry(f"{path}/{name}", LINKED, 0)
    if refused is not None and not some:
        raise _cannot(folder, refused.filename or folder, refused) from refused


def _names(
    path: str, left_out: frozenset[str]
) -> Generator[None, None, tuple[list[str], list[str], list[str]]]:
    """The names in a folder, sorted: of what is no folder, of folders, the last first, and of links
    to folders. Without what is left out."""
    names: list[str] = []
    below: list[str] = []
    linked: list[str] = []
    apart.at.path = path
    with os.scandir(path) as entries:
        for entry in entries:
            yield None
            if left_out and entry.path in left_out:
                continue
            apart.at.path = entry.path  # some file systems are asked what it is
            try:
                is_folder = entry.is_dir()
            except OSError:
                is_folder = False
            if not is_folder:
                names.append(entry.name)
            else:
                (linked if entry.is_symlink() else below).append(entry.name)
            apart.at.path = path
    return sorted(names), sorted(below, reverse=True), sorted(linked)


def _cannot(folder: str, path: str, error: OSError) -> SourceTrouble:
    # What a folder or a file below is called is not for a sentence.
    where = folder if path == folder else f"something in {folder}"
    return SourceTrouble(
        "unreadable",
        f"{where} cannot be looked through ({error.strerror}); mount it, or let the workers' user "
        "read it",
    )


def has_none(folder: str) -> bool:
    """Whether a folder has no entry at all, as an unmounted mount point; raises ArchiveError."""
    return is_empty(folder)


def _skipped(name: str) -> bool:
    """Whether a name is that of clutter, or of an unfinished file."""
    return clutter.of_file(name) is not None or name.lower().endswith(UNFINISHED)


def can_be_kept(path: str) -> bool:
    """Whether a database, and a list of one path a line, can hold a path."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return "\n" not in path


def can_be_read(path: str) -> bool:
    """Whether the first byte of a file can be read."""
    try:
        with open(path, "rb") as opened:  # noqa: PTH123
            opened.read(1)
    except OSError:
        return False
    return True


def content(path: str, size: int, mtime_ns: int) -> Iterator[str | None]:
    """A file's SHA-256, as the last answer; none where it is not what was looked at, or gone.

    Raises OSError.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as opened:  # noqa: PTH123
            while block := opened.read(1 << 20):
                digest.update(block)
                yield None
            status = os.fstat(opened.fileno())
    except FileNotFoundError:
        return
    if (status.st_size, status.st_mtime_ns) == (size, mtime_ns):
        yield digest.hexdigest()


def is_packed(path: str) -> bool:
    """Whether a file begins as an archive or compressed data does, also of kinds that are not read.

    Raises ArchiveError.
    """
    with trouble.at(path), open(path, "rb") as file:  # noqa: PTH123
        return bool(content_.archive(file.read(content_.ARCHIVE_BY)))


def opened(path: str, to_its_end: bool) -> Iterator[Opened | None]:
    """What kind of archive a file is, as the last answer; none for a film by itself.

    Raises ArchiveError for an archive that cannot be opened, or listed `to_its_end`: as an item it
    would count as intact. Anything else that cannot be opened is a film by itself too: read as an
    item, it gets an error of its own.
    """
    try:
        with archive.open_source(path) as source:
            if source.kind == "file":
                return
            found = Opened(source.uri, source.kind, source.fingerprint(), source.content_id())
            if to_its_end:
                for _ in source.members():
                    yield None
            yield found
    except SourceTrouble:
        raise
    except ArchiveError as error:
        if (to_its_end and error.code != "unsupported") or is_packed(path):
            raise


def fingerprint(folder: str, names: Sequence[str]) -> str:
    """Of a source that is these files of a folder; raises ArchiveError."""
    with archive.open_source(folder, "list", names) as source:
        return source.fingerprint()
