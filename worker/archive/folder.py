"""A folder as an archive: its files depth first by name; also one image file given by itself.

Links to files are read, linked folders are not entered (they may lead in a circle).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from trainer import clutter
from worker.archive import trouble
from worker.archive.member import STORED, UNEXAMINED, Member
from worker.archive.source import (
    MAX_BYTES,
    Kind,
    Source,
    check,
    pread,
)
from worker.errors import ArchiveError, MemberError


class FolderSource(Source):
    """Lists a folder and what is below it."""

    kind: Kind = "folder"

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self._empty = is_empty(uri)

    def fingerprint(self) -> str:
        """The folder's path: whether its files change is seen at each file.

        An empty one's is another, since that is what is left of one whose disk is not mounted.
        """
        path = str(Path(self.uri).absolute())
        return f"empty:{path}" if self._empty else path

    def has_changed(self, fingerprint: str) -> bool:
        if self._empty and fingerprint != self.fingerprint():
            raise trouble.empty(self.uri)
        return False

    def _walk(self) -> Iterator[Member]:
        # A stack, not recursion: folders may lie deeper than Python's call stack allows. Only the
        # names of the folders on the way down are held.
        top = names_in(self.uri)
        root = trouble.Root(self.uri)
        root.saw(*top)
        stack = [("", iter(top))]
        while stack:
            prefix, names = stack[-1]
            for base in names:
                name = prefix + base
                path = f"{self.uri}/{name}"
                size: int | None
                try:
                    mode, size = self._examined(path)
                except OSError as error:
                    # Gone already, or a link that leads nowhere: reading it says which.
                    root.check()
                    if trouble.of_machine(error):
                        raise
                    mode, size = stat.S_IFREG, None
                if stat.S_ISDIR(mode) and (left := clutter.of_folder(base)):
                    self.skipped[left] += 1  # not entered: a snapshot holds all of it again
                    continue
                if stat.S_ISDIR(mode):
                    self.skipped["directory"] += 1
                    try:
                        below = names_in(path)
                    except OSError as error:
                        # A folder that cannot be listed hides films. It becomes a member, so that
                        # reading it puts the reason on record.
                        root.check()
                        if trouble.of_machine(error):
                            raise
                        yield member_of(name + "/", None)
                        continue
                    stack.append((name + "/", iter(below)))
                    break
                reason = clutter.reason(base)
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
        now = status_of(self.uri)
        return f"{now.st_size}:{now.st_mtime_ns}"

    def _walk(self) -> Iterator[Member]:
        yield member_of(Path(self.uri).name, status_of(self.uri).st_size)


class FolderReader:
    """Reads files below a folder. Thread safe."""

    def __init__(self, uri: str) -> None:
        try:
            self._fd = os.open(uri, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            raise trouble.at_root(uri, error) from error
        try:
            check_root(uri, self._fd)
        except ArchiveError:
            trouble.close(self._fd)
            raise

    def read(self, member: Member, max_bytes: int = MAX_BYTES) -> bytes:
        """The bytes of one file; raises MemberError."""
        fd = self.open(member, max_bytes)
        try:
            return read_file(fd, member, max_bytes)
        finally:
            trouble.close(fd)

    def open(self, member: Member, max_bytes: int = MAX_BYTES) -> int:
        """A file descriptor for `read_file`, which is a file's; raises MemberError."""
        check(member, max_bytes)
        try:
            # Without O_NONBLOCK a pipe put in the file's place would hold the decoder for ever.
            fd = os.open(member.name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=self._fd)
        except OSError as error:
            raise trouble.at_member(error) from error
        except ValueError as error:
            raise MemberError("missing", "no file can have such a name") from error
        try:
            _check_file(fd, member)
        except OSError as error:
            trouble.close(fd)
            raise trouble.at_member(error) from error
        except MemberError:
            trouble.close(fd)
            raise
        return fd

    def close(self) -> None:
        """Close the folder."""
        trouble.close(self._fd)


class ListReader(FolderReader):
    """Reads files that a list names; those by relative paths lie below the list's folder.

    That may be gone, as the list may: absolute paths do not need it. Thread safe.
    """

    def __init__(self, uri: str) -> None:
        """`uri` is the list's folder; raises ArchiveError."""
        try:
            self._fd = os.open(uri, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            self._fd = -1
        except (OSError, ValueError) as error:
            raise trouble.at_root(uri, error) from error

    def open(self, member: Member, max_bytes: int = MAX_BYTES) -> int:
        if self._fd < 0 and not member.name.startswith("/"):
            check(member, max_bytes)
            raise trouble.at_member(FileNotFoundError())
        return super().open(member, max_bytes)


def _check_file(fd: int, member: Member) -> None:
    """Raise MemberError where what was opened is no file."""
    mode = os.fstat(fd).st_mode
    if member.name.endswith("/") and stat.S_ISDIR(mode):
        raise MemberError(
            "unreadable",
            "a folder that could not be looked through when its films were listed; score it again",
        )
    if not stat.S_ISREG(mode):
        raise MemberError("changed", "not a file any more; score the folder again")


def read_file(fd: int, member: Member, max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes of a file that was opened by `FolderReader.open`; raises MemberError."""
    try:
        there = os.fstat(fd).st_size
        size = member.size
        if member.crc == UNEXAMINED and size == 0:
            size = min(there, max_bytes + 1)
            check(member._replace(size=size, stored=size), max_bytes)
        elif there != size:
            raise MemberError(
                "changed",
                f"{there:,} bytes now, {member.size:,} when the folder was listed; score it again "
                "when it is no longer written to",
            )
        data = pread(fd, size, 0)
    except OSError as error:
        raise trouble.at_member(error) from error
    if len(data) != size:
        raise MemberError("changed", "the file shrank while it was read; score it again")
    return data


def check_root(uri: str, fd: int | None = None) -> None:
    """Raise SourceTrouble where a folder (open as `fd`) cannot be listed, or has no entry at all.

    That is for one in which something was seen before. ArchiveError where there can be no folder of
    that name.
    """
    if is_empty(uri, fd):
        raise trouble.empty(uri)


def is_empty(uri: str, fd: int | None = None) -> bool:
    """Whether a folder (open as `fd`) has no entry at all; raises as `check_root`."""
    try:
        with os.scandir(uri if fd is None else fd) as entries:
            return next(entries, None) is None
    except (OSError, ValueError) as error:
        raise trouble.at_root(uri, error) from error


def names_in(path: str) -> list[str]:
    with os.scandir(path) as entries:
        return sorted(entry.name for entry in entries)


def status_of(uri: str) -> os.stat_result:
    """What the system says of the source at a path; raises SourceTrouble or ArchiveError."""
    try:
        return Path(uri).stat()
    except (OSError, ValueError) as error:
        raise trouble.at_root(uri, error) from error


def member_of(name: str, size: int | None) -> Member:
    """A file by itself; without a size one that could not be examined."""
    if size is None:
        return Member(name=name, offset=0, stored=0, size=0, method=STORED, crc=UNEXAMINED)
    return Member(name=name, offset=0, stored=size, size=size, method=STORED, crc=None)
