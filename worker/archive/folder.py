"""A folder as an archive: its files depth first by name; also one image file given by itself.

Links to files are read, linked folders are not entered (they may lead in a circle).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from worker.archive.member import STORED, Member
from worker.archive.names import skipped_as
from worker.archive.source import (
    MAX_BYTES,
    Kind,
    Source,
    cannot_open,
    check,
    pread,
    unreadable,
)
from worker.errors import MemberError


class FolderSource(Source):
    """Lists a folder and what is below it."""

    kind: Kind = "folder"

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        try:
            os.scandir(uri).close()
        except (OSError, ValueError) as error:
            raise cannot_open(uri, error) from error

    def fingerprint(self) -> str:
        """The folder's path: whether its files change is seen at each file."""
        return str(Path(self.uri).absolute())

    def _walk(self) -> Iterator[Member]:
        # A stack, not recursion: folders may lie deeper than Python's call stack allows. Only the
        # names of the folders on the way down are held.
        stack = [("", iter(names_in(self.uri)))]
        while stack:
            prefix, names = stack[-1]
            for base in names:
                name = prefix + base
                path = f"{self.uri}/{name}"
                try:
                    mode, size = examine(path)
                except OSError:
                    # Gone already, or a link that leads nowhere: reading it says which.
                    mode, size = stat.S_IFREG, 0
                if stat.S_ISDIR(mode):
                    self.skipped["directory"] += 1
                    try:
                        below = names_in(path)
                    except OSError:
                        # A folder that cannot be listed hides films. It becomes a member, so that
                        # reading it puts the reason on record.
                        yield member_of(name + "/", 0)
                        continue
                    stack.append((name + "/", iter(below)))
                    break
                reason = skipped_as(name)
                if reason is None and stat.S_ISLNK(mode):
                    reason = "linked_directory"
                if reason is None and not stat.S_ISREG(mode):
                    reason = "special_file"
                if reason is None:
                    yield member_of(name, size)
                else:
                    self.skipped[reason] += 1
            else:
                stack.pop()


class FileSource(Source):
    """One image file, given by itself."""

    kind: Kind = "file"

    def fingerprint(self) -> str:
        status = _status(self.uri)
        return f"{status.st_size}:{status.st_mtime_ns}"

    def _walk(self) -> Iterator[Member]:
        yield member_of(Path(self.uri).name, _status(self.uri).st_size)


class FolderReader:
    """Reads files below a folder. Thread safe."""

    def __init__(self, uri: str) -> None:
        try:
            self._fd = os.open(uri, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            raise cannot_open(uri, error) from error

    def read(self, member: Member, max_bytes: int = MAX_BYTES) -> bytes:
        """The bytes of one file; raises MemberError."""
        check(member, max_bytes)
        try:
            # Without O_NONBLOCK a pipe put in the file's place would hold the decoder for ever.
            fd = os.open(member.name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=self._fd)
        except OSError as error:
            raise unreadable(error) from error
        except ValueError as error:
            raise MemberError("missing", "no file can have such a name") from error
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise MemberError("changed", "not a file any more; score the folder again")
            if status.st_size != member.size:
                raise MemberError(
                    "changed",
                    f"{status.st_size:,} bytes now, {member.size:,} when the folder was listed; "
                    "score it again when it is no longer written to",
                )
            data = pread(fd, member.size, 0)
        except OSError as error:
            raise unreadable(error) from error
        finally:
            os.close(fd)
        if len(data) != member.size:
            raise MemberError("changed", "the file shrank while it was read; score it again")
        return data

    def close(self) -> None:
        """Close the folder."""
        os.close(self._fd)


def names_in(path: str) -> list[str]:
    with os.scandir(path) as entries:
        return sorted(entry.name for entry in entries)


def examine(path: str) -> tuple[int, int]:
    """Mode and size of an entry; a link to a folder keeps the mode of a link."""
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        target = Path(path).stat()
        if not stat.S_ISDIR(target.st_mode):
            status = target
    return status.st_mode, status.st_size


def _status(uri: str) -> os.stat_result:
    try:
        return Path(uri).stat()
    except (OSError, ValueError) as error:
        raise cannot_open(uri, error) from error


def member_of(name: str, size: int) -> Member:
    return Member(name=name, offset=0, stored=size, size=size, method=STORED, crc=None)
