"""Source: an archive being listed; Reader: an archive being read, member by member.

A source belongs to the process that plans a job. A reader belongs to a decoder process; it keeps no
position in the file, so any number of threads may share one.
"""

from __future__ import annotations

import abc
import itertools
import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Protocol

from worker.archive import apart, trouble
from worker.archive.member import DUPLICATE, LINK, NO_FILE, SCATTERED, UNSAFE, Member
from worker.archive.names import LONGEST_PATH, Seen, fits, shortened, unsafe
from worker.errors import ArchiveError, MemberError

Kind = Literal["folder", "file", "zip", "tar", "tar.gz", "tar.zst", "list", "glob"]

#: Kinds whose members are files of their own, which are found by the member's name.
BY_NAME: frozenset[Kind] = frozenset({"folder", "file", "list", "glob"})

#: Those that are found by looking through folders, which may change: listed in order of `place`.
WALKED: frozenset[Kind] = frozenset({"folder", "glob"})

#: Kinds whose members lie in a compressed stream, which is read through windows (`open_spool`).
WINDOWED: frozenset[Kind] = frozenset({"tar.gz", "tar.zst"})

#: A member larger than this is refused unread: 512 MiB, many times the largest film.
MAX_BYTES = 512 << 20

#: An archive that states or holds more than so many bytes, and so many times its own size, was
#: made to do harm. Deflate itself reaches 1,032 times at most, with nothing but equal bytes.
BOMB_BYTES, BOMB_RATIO = 1 << 30, 1000

#: Members whose names are looked at in one go.
_BATCH = 512


class Source(abc.ABC):
    """The members of one archive, as a stream."""

    kind: Kind

    #: Windows can only be inflated from the beginning of the stream on, so that one worker at a
    #: time should read it. Known once `members` is exhausted.
    streams: bool = False

    def __init__(self, uri: str) -> None:
        self.uri = uri
        #: Entries that are no films by construction, counted by reason, as of the last listing.
        #: Complete once `members` is exhausted.
        self.skipped: Counter[str] = Counter()
        #: The file or folder of it that is asked for now, where it is found by its path.
        self.at: str | None = None
        self._aside: frozenset[str] = frozenset()

    def members(self) -> Iterator[Member]:
        """Members in a fixed order; memory does not grow with them.

        Folders go depth first by name, archives in their own order. Raises ArchiveError, possibly
        after many members, where the archive turns out to be cut short or damaged.
        """
        self.skipped.clear()
        self._aside = frozenset(apart.aside("/"))
        return self._all()

    def _all(self) -> Iterator[Member]:
        try:
            yield from map(_named, self._walk()) if self.kind in BY_NAME else self._judged()
        except OSError as error:
            raise trouble.at_root(self.uri, error) from error

    def _judged(self) -> Iterator[Member]:
        """Members whose names an archive made up: unsafe ones and repetitions are marked."""
        seen, members = Seen(), self._walk()
        while batch := list(itertools.islice(members, _BATCH)):
            names = [m.name for m in batch]
            for n in seen.again(names):
                batch[n] = batch[n]._replace(method=DUPLICATE)
            for n, name in enumerate(names):
                if unsafe(name):
                    batch[n] = batch[n]._replace(method=UNSAFE)
            yield from batch

    @abc.abstractmethod
    def _walk(self) -> Iterator[Member]:
        """All members from the first on, counting into `skipped`."""

    def _examined(self, path: str) -> tuple[int, int | None]:
        """As `examine`; what alone gave no answer lately is taken for a file, and is not asked."""
        self.at = path
        return (stat.S_IFREG, None) if path in self._aside else examine(path)

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """Changes when the archive is replaced; cheap: no member is read."""

    def has_changed(self, fingerprint: str) -> bool:
        """Whether it is another archive than that of a fingerprint.

        Raises SourceTrouble where it looks as it does while its disk is not mounted.
        """
        return fingerprint != self.fingerprint()

    def content_id(self) -> str | None:
        """Names the content wherever it lies and whenever it was written; None where unknown.

        Two archives with one content_id have the same members, with equal bytes.
        """
        return None

    def part(self, member: Member) -> int:
        """A number that grows where reading can start anew: the best place to part two shards.

        Compressed archives only, of a member just listed: those of one part need the same stretch
        of the stream.
        """
        return 0

    def index(self) -> bytes | None:
        """Seek index that lets any worker start in the middle; None where none is needed."""
        return None

    def listed(self) -> bytes | None:
        """Of a list's file: what it names, for `opening.open_source`; None of any other archive."""
        return None

    def close(self) -> None:
        """Close the archive; listing must be over."""
        return

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _named(member: Member) -> Member:
    """A member that is found by its name, marked where no file can have that."""
    if fits(member.name):
        return member
    return member._replace(name=shortened(member.name), stored=0, size=0, method=NO_FILE)


class Reader(Protocol):
    """Reads members of one archive. Thread safe."""

    def read(self, member: Member, max_bytes: int = MAX_BYTES) -> bytes:
        """The bytes of one member, exactly `member.size` of them; raises MemberError."""
        ...

    def close(self) -> None:
        """Close the archive."""
        ...


def examine(path: str) -> tuple[int, int]:
    """Mode and size of an entry; a link to a folder keeps the mode of a link."""
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        target = Path(path).stat()
        if not stat.S_ISDIR(target.st_mode):
            status = target
    return status.st_mode, status.st_size


def open_file(uri: str) -> int:
    """A file descriptor for `pread`; raises ArchiveError."""
    try:
        return os.open(uri, os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise trouble.at_root(uri, error) from error


def fingerprint_of(fd: int) -> str:
    """Size and modification time of an open file."""
    status = os.fstat(fd)
    return f"{status.st_size}:{status.st_mtime_ns}"


def pread(fd: int, count: int, offset: int) -> bytes:
    """Up to `count` bytes at `offset`; fewer only at the end of the file."""
    data = os.pread(fd, count, offset)
    if len(data) == count or not data:
        return data
    parts = [data]
    have = len(data)
    while have < count and (data := os.pread(fd, count - have, offset + have)):
        parts.append(data)
        have += len(data)
    return b"".join(parts)


def check(member: Member, max_bytes: int) -> None:
    """Raise MemberError before a single byte is read, where the listing itself says enough."""
    if member.method < 0:
        code, message = _UNREAD[member.method]
        raise MemberError(code, message)
    largest = max(member.size, member.stored)
    if largest > max_bytes:
        raise MemberError("too_large", f"{largest:,} bytes; at most {max_bytes:,} are read")


#: Why members are not read, by `Member.method`.
_UNREAD = {
    LINK: (
        "link",
        "a link to another file; put the film itself in the archive (`tar --dereference "
        "--hard-dereference`; `zip` without -y)",
    ),
    SCATTERED: ("unreadable", "a sparse or split member; make the tar without them"),
    UNSAFE: (
        "unsafe_name",
        "its name is absolute or climbs out of the archive by `..`, as in an attack on whoever "
        "unpacks it; make the archive with plain relative names",
    ),
    DUPLICATE: (
        "duplicate_name",
        "an earlier member of the archive has the same name, and only one can be meant; give each "
        "its own name",
    ),
    NO_FILE: (
        "no_file",
        f"no file can be there: a folder, a device, or a path of more than {LONGEST_PATH:,} bytes; "
        "name the films themselves, or give the folder by itself",
    ),
}


def bomb(uri: str, plain: int, packed: int) -> ArchiveError:
    """The ArchiveError for an archive that grows beyond all measure."""
    return ArchiveError(
        "bomb",
        f"{uri}: {packed:,} bytes unpack to {plain:,} or more, over {BOMB_RATIO:,} times as many, "
        "as in an archive made to do harm; if it is none, give the films as a folder",
    )
