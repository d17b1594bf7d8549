"""A tar archive: its headers as a stream, and members as plain extents read by `pread`.

Header formats (pax, GNU long names) are the standard library's business. What it lets pass is
checked here: it takes any damaged or missing header after the first member for the end.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from typing import IO, Protocol, TypeVar, cast

from worker.archive import trouble
from worker.archive.member import LINK, SCATTERED, STORED, Member
from worker.archive.names import skipped_as
from worker.archive.source import (
    MAX_BYTES,
    Kind,
    Source,
    check,
    fingerprint_of,
    open_file,
    pread,
)
from worker.errors import ArchiveError, MemberError

T = TypeVar("T")

#: Size of a header, and what data is padded to.
BLOCK = 512

#: Bytes read at once where all of them are read; whole blocks.
CHUNK = 1 << 20

#: A header's own data (a long name, pax records) larger than this is damage or malice.
_MAX_HEADER = 16 << 20


class Blocks(Protocol):
    """What `tarfile` reads headers from; it only ever moves forward."""

    #: What the latest `read` returned: an end of the archive shows in it.
    last: bytes

    def read(self, count: int) -> bytes: ...

    def seek(self, position: int) -> int: ...

    def tell(self) -> int: ...

    def rest(self) -> Iterator[bytes]:
        """What follows, in whole blocks."""
        ...


class _NoHeader(Exception):
    """What comes next is no header."""


class TarSource(Source):
    """Lists an uncompressed tar archive."""

    kind: Kind = "tar"

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self._fd = open_file(uri)

    def close(self) -> None:
        trouble.close(self._fd)

    def fingerprint(self) -> str:
        return fingerprint_of(self._fd)

    def _walk(self) -> Iterator[Member]:
        return self._members(_FileBlocks(self._fd))

    def _members(self, blocks: Blocks) -> Iterator[Member]:
        count, position = 0, 0
        try:
            tar = _parsed(
                lambda: tarfile.TarFile(
                    fileobj=cast(IO[bytes], blocks), encoding="utf-8", errors="surrogateescape"
                )
            )
            # At 0 it is empty, and tarfile of Python 3.10 would look before the beginning.
            while tar.offset and (info := _parsed(tar.next)) is not None:
                # tarfile keeps all headers, for a caller who might go back.
                tar.members.clear()  # type: ignore[attr-defined]  # typeshed leaves it out
                count, position = count + 1, tar.offset
                reason = _special(info) or skipped_as(info.name)
                if reason is None:
                    yield _member(info)
                else:
                    self.skipped[reason] += 1
        except _NoHeader as error:
            raise self._broken(blocks, count, position) from error
        if blocks.last != bytes(BLOCK):
            raise self._broken(blocks, count, position)
        # A list, because a compressed stream must be read to its end for its checksum.
        if any([_first_is_header(chunk) for chunk in blocks.rest()]):
            raise ArchiveError(
                "corrupt",
                f"{self.uri}: another tar follows after the end {_where(count, position)}; give "
                "both by themselves, or join them with `tar -A`",
            )

    def _broken(self, blocks: Blocks, entries: int, position: int) -> ArchiveError:
        where = _where(entries, position)
        if len(blocks.last) < BLOCK:
            return ArchiveError(
                "truncated",
                f"{self.uri}: the archive ends {where}, without its end mark, so it was cut short: "
                "copy or download it again, or make it again",
            )
        return ArchiveError(
            "corrupt", f"{self.uri}: the archive is damaged {where}; copy it or make it again"
        )


class _FileBlocks:
    """Headers of an uncompressed tar."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._at = 0
        self.last = b""

    def read(self, count: int) -> bytes:
        check_header(count)
        self.last = pread(self._fd, count, self._at)
        self._at += len(self.last)
        return self.last

    def seek(self, position: int) -> int:
        self._at = position
        return position

    def tell(self) -> int:
        return self._at

    def rest(self) -> Iterator[bytes]:
        while chunk := pread(self._fd, CHUNK, self._at):
            self._at += len(chunk)
            yield chunk


def check_header(count: int) -> None:
    """Raise ValueError where a header claims more data of its own than any writer makes."""
    if count > _MAX_HEADER:
        raise ValueError(f"a header of {count:,} bytes")


class ExtentReader:
    """Reads members of a tar from a file or from a window of its uncompressed stream. Thread safe.

    `fd` holds the stream from byte `base` on; it is the caller's, or closed by `close` where
    `owned`.
    """

    def __init__(self, fd: int, base: int = 0, *, owned: bool = False) -> None:
        self._fd = fd
        self._base = base
        self._owned = owned

    def close(self) -> None:
        """Close the file, where this reader opened it."""
        if self._owned:
            trouble.close(self._fd)

    def read(self, member: Member, max_bytes: int = MAX_BYTES) -> bytes:
        """The bytes of one member; raises MemberError.

        A tar has no checksum of its data, so the header just before it, where the window holds it,
        must still be one and state the same size.
        """
        check(member, max_bytes)
        at = member.offset - self._base
        if at < 0:
            raise ValueError(f"the window begins {-at:,} bytes after the member")
        head = BLOCK if at >= BLOCK else 0
        try:
            block = pread(self._fd, head + member.size, at - head)
        except OSError as error:
            raise trouble.at_member(error) from error
        if len(block) < head + member.size:
            raise MemberError("truncated", "the archive ends inside it; it was cut short")
        if head and not _announces(block[:BLOCK], member.size):
            raise MemberError("changed", "the archive changed since it was listed; score it again")
        return block[head:]


def _announces(header: bytes, size: int) -> bool:
    """Whether this is the header of a member of that size."""
    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    # A writer may leave the size to the pax records before it, and write 0 here.
    return info.size in (size, 0)


def looks_like_tar(head: bytes) -> bool:
    """Whether the first block is a tar header with a right checksum."""
    try:
        tarfile.TarInfo.frombuf(head[:BLOCK], "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True


def _first_is_header(chunk: bytes) -> bool:
    """Whether the first block that is not all zero is a tar header."""
    at = (len(chunk) - len(chunk.lstrip(b"\0"))) // BLOCK * BLOCK
    return at < len(chunk) and looks_like_tar(chunk[at:])


def _where(entries: int, position: int) -> str:
    return f"after {entries:,} entries, at byte {position:,} of the tar"


def _parsed(parse: Callable[[], T]) -> T:
    """What tarfile makes of headers; raises _NoHeader where they are damaged, and what reading
    raises.

    For damage tarfile raises nearly anything; for a long chain of long names, a RecursionError.
    """
    try:
        return parse()
    except (ArchiveError, OSError, MemoryError):
        raise
    except Exception as error:
        raise _NoHeader from error


def _special(info: tarfile.TarInfo) -> str | None:
    if info.isdir():
        return "directory"
    return "special_file" if info.ischr() or info.isblk() or info.isfifo() else None


def _member(info: tarfile.TarInfo) -> Member:
    method = STORED
    size = info.size
    if info.issym() or info.islnk():
        method, size = LINK, 0
    elif info.issparse() or not info.isreg():
        # A sparse file states what it would take with its holes, which the archive does not hold.
        method, size = SCATTERED, 0
    elif size < 0:
        raise _NoHeader("a negative size")
    return Member(
        name=info.name, offset=info.offset_data, stored=size, size=size, method=method, crc=None
    )
