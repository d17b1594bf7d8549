"""A zip archive: its central directory as a stream, and its members by `pread`.

Not built on `zipfile`, which keeps every entry of a directory in memory. The layout is that of
PKWARE's APPNOTE 6.3.10: the directory lies at the end, found through the record after it.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from worker.archive import trouble
from worker.archive.member import DEFLATED, LINK, STORED, Member
from worker.archive.names import skipped_as
from worker.archive.source import (
    BOMB_BYTES,
    BOMB_RATIO,
    MAX_BYTES,
    Kind,
    Source,
    bomb,
    check,
    fingerprint_of,
    open_file,
    pread,
)
from worker.errors import ArchiveError, MemberError

#: signature, version made by, version needed, flags, method, time, date, CRC, stored, size,
#: length of name, of extra, of comment, disk, internal attributes, external attributes, offset
_CENTRAL = struct.Struct("<4s6H3I5H2I")
#: signature, version needed, flags, method, time, date, CRC, stored, size, length of name, of extra
_LOCAL = struct.Struct("<4s5H3I2H")
#: signature, disk, disk of directory, entries on disk, entries, bytes, offset, length of comment
_END = struct.Struct("<4s4H2IH")
#: signature, bytes that follow, version made by, version needed, disk, disk of directory, entries
#: on disk, entries, bytes, offset
_END64 = struct.Struct("<4sQ2H2I4Q")
#: signature, disk of the record, offset of the record, disks
_LOCATOR = struct.Struct("<4sIQI")

_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF
_ENCRYPTED, _UTF8 = 0x1, 0x800

#: Bytes of directory read at once. More than the longest possible entry (46 + 3 × 65,535).
_CHUNK = 256 << 10

#: A member that states more than this, and more than `BOMB_RATIO` times what it takes, is not read.
BOMB_MEMBER_BYTES = 64 << 20

#: Local headers carry extra fields whose length the directory does not tell. Reading so many bytes
#: more than the name takes makes one `pread` suffice for every common writer.
_SLACK = 256


@dataclass(frozen=True, kw_only=True)
class _Directory:
    #: Where the central directory begins in the file, and its length in bytes.
    start: int
    size: int
    #: Members that the archive says it has; modulo 65,536 without a Zip64 record.
    entries: int
    exact: bool
    #: Bytes before the archive's own beginning (a self-extractor's program).
    base: int


class ZipSource(Source):
    """Lists a zip archive."""

    kind: Kind = "zip"

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self._fd = open_file(uri)
        try:
            self._directory = _find_directory(self._fd, uri)
        except (ArchiveError, OSError):
            trouble.close(self._fd)
            raise

    def close(self) -> None:
        trouble.close(self._fd)

    def fingerprint(self) -> str:
        """Size, time and SHA-256 of the central directory, which holds every member's CRC."""
        return f"{fingerprint_of(self._fd)}:{self._directory_digest()}"

    def content_id(self) -> str:
        """Size and SHA-256 of the central directory: each member's name, place, CRC and size.

        With the version of how names are read and which are skipped: older releases listed others.
        """
        return f"zip2:{os.fstat(self._fd).st_size}:{self._directory_digest()}"

    def _directory_digest(self) -> str:
        digest = hashlib.sha256()
        at, end = self._directory.start, self._directory.start + self._directory.size
        while at < end and (chunk := pread(self._fd, min(1 << 20, end - at), at)):
            digest.update(chunk)
            at += len(chunk)
        return digest.hexdigest()

    def _walk(self) -> Iterator[Member]:
        directory = self._directory
        base, skipped = directory.base, self.skipped
        packed, plain, entries = os.fstat(self._fd).st_size, 0, 0
        readable = False  # until a member without a password was seen, or is known to come
        for fields, raw, extra in self._entries():
            entries += 1
            made_by, flags, method, crc, stored, size = (
                fields[1],
                fields[3],
                fields[4],
                *fields[7:10],
            )
            name = raw.decode("ascii") if raw.isascii() else _name(raw, flags, extra)
            reason = skipped_as(name)
            if reason is not None:
                skipped[reason] += 1
                continue
            disk, offset = fields[13], fields[16]
            if _FULL32 in (size, stored, offset) or disk == _FULL16:
                try:
                    size, stored, offset = _zip64(_field(extra, 1), size, stored, offset)
                except struct.error:
                    raise self._damaged(entries) from None
            elif disk:
                raise _multi_disk(self.uri)
            if flags & _ENCRYPTED and not readable and self._all_encrypted():
                raise ArchiveError(
                    "encrypted",
                    f"{self.uri}: all its members are encrypted; make the zip without a password",
                )
            readable = True
            plain += size
            if plain > BOMB_BYTES and plain > BOMB_RATIO * packed:
                raise bomb(self.uri, plain, packed)
            if made_by >> 8 == 3 and fields[15] >> 28 == 0xA:  # Unix, S_IFLNK
                method = LINK
            yield Member(name, base + offset, stored, size, method, crc)
        stated = directory.entries
        if entries != stated if directory.exact else (entries - stated) & _FULL16:
            raise ArchiveError(
                "corrupt",
                f"{self.uri}: its directory lists {entries:,} entries where {stated:,} are stated; "
                "copy it again, or rebuild it with `zip -FF`",
            )

    def _entries(self) -> Iterator[tuple[tuple[Any, ...], bytes, bytes]]:
        """The directory's entries: fields, name and extra fields."""
        unread, end = self._directory.start, self._directory.start + self._directory.size
        buffer, at, entries = b"", 0, 0
        unpack, fixed = _CENTRAL.unpack_from, _CENTRAL.size
        while True:
            left = len(buffer) - at
            if left < fixed or left < _entry_length(buffer, at):
                chunk = pread(self._fd, min(_CHUNK, end - unread), unread)
                unread += len(chunk)
                buffer, at = buffer[at:] + chunk, 0
                if not buffer:
                    return
                if len(buffer) < fixed or len(buffer) < _entry_length(buffer, 0):
                    raise self._damaged(entries)
            fields = unpack(buffer, at)
            if fields[0] == b"PK\x05\x05":  # a digital signature may close the directory
                return
            if fields[0] != b"PK\x01\x02":
                raise self._damaged(entries)
            extra_at = at + fixed + fields[10]
            extra_end = extra_at + fields[11]
            yield fields, buffer[at + fixed : extra_at], buffer[extra_at:extra_end]
            at = extra_end + fields[12]
            entries += 1

    def _all_encrypted(self) -> bool:
        """Whether every member with data is encrypted, so that there is nothing to be scored."""
        return not any(f[9] and not f[3] & _ENCRYPTED for f, _, _ in self._entries())

    def _damaged(self, entries: int) -> ArchiveError:
        return ArchiveError(
            "corrupt",
            f"{self.uri}: its directory is damaged after {entries:,} entries; copy it again, or "
            "rebuild it with `zip -FF`",
        )


class ZipReader:
    """Reads members of a zip archive. Thread safe."""

    def __init__(self, fd: int) -> None:
        """`fd` is the archive's file, which `close` closes."""
        self._fd = fd

    def close(self) -> None:
        """Close the archive."""
        trouble.close(self._fd)

    def read(self, member: Member, max_bytes: int = MAX_BYTES) -> bytes:
        """The bytes of one member, inflated, its size and CRC checked; raises MemberError."""
        check(member, max_bytes)
        if member.size > BOMB_MEMBER_BYTES and member.size > BOMB_RATIO * member.stored:
            raise MemberError(
                "bomb",
                f"{member.stored:,} bytes that unpack to {member.size:,}, as in an archive made to "
                "do harm; no film shrinks so far",
            )
        try:
            packed = self._packed(member)
        except OSError as error:
            raise trouble.at_member(error) from error
        data = packed if member.method == STORED else _inflate(packed, member.size)
        if len(data) != member.size:
            raise MemberError(
                "truncated", f"{len(data):,} of {member.size:,} bytes; the member was cut short"
            )
        if member.crc is not None and zlib.crc32(data) != member.crc:
            raise MemberError("crc_mismatch", "its checksum differs from the archive's; copy again")
        return data

    def _packed(self, member: Member) -> bytes:
        """The stored bytes; one `pread` for header and data, unless the header is very long."""
        guess = _LOCAL.size + 4 * len(member.name) + _SLACK
        block = pread(self._fd, guess + member.stored, member.offset)
        if len(block) < _LOCAL.size:
            raise MemberError("truncated", "the archive ends before it; it was cut short")
        header = _LOCAL.unpack_from(block)
        flags, method = header[2], header[3]
        if header[0] != b"PK\x03\x04":
            raise MemberError(
                "changed", "no member begins there any more; the archive changed: score it again"
            )
        if flags & _ENCRYPTED:
            raise MemberError("encrypted", "it is encrypted; make the archive without a password")
        if method not in (STORED, DEFLATED):
            known = _METHODS.get(method, f"method {method}")
            raise MemberError(
                "unsupported_compression", f"compressed by {known}; make the zip with deflate"
            )
        if method != member.method or (method == STORED and member.stored != member.size):
            raise MemberError("changed", "its header and the archive's directory disagree")
        start = _LOCAL.size + header[9] + header[10]
        packed = block[start : start + member.stored]
        if len(packed) < member.stored:
            # Either the header is longer than guessed, or the archive ends here.
            packed = pread(self._fd, member.stored, member.offset + start)
        if len(packed) < member.stored:
            raise MemberError("truncated", "the archive ends inside it; it was cut short")
        return packed


#: What people meet in the wild, for the message.
_METHODS = {9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "xz", 99: "AES"}


def _inflate(packed: bytes, size: int) -> bytes:
    """Inflate at most `size` bytes; a member that holds more than it states is refused."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        # A limit of 0 would mean none, so one byte more than stated is asked for, never more.
        data = inflater.decompress(packed, size + 1)
    except zlib.error as error:
        raise MemberError("corrupt", f"its compressed bytes are damaged ({error})") from error
    if len(data) > size:
        raise MemberError("too_large", f"it unpacks to more than the {size:,} bytes it states")
    return data


def has_end(fd: int) -> bool:
    """Whether a zip's end record lies at the end of the file, whatever is at its beginning."""
    return any(True for _ in _ends(fd))


def _ends(fd: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    """End records that could be meant, from the last on: position in the file, and fields."""
    file_size = os.fstat(fd).st_size
    tail_at = max(0, file_size - _END.size - _FULL16)
    tail = pread(fd, file_size - tail_at, tail_at)
    at = len(tail)
    while (at := tail.rfind(b"PK\x05\x06", 0, at)) >= 0:
        if at + _END.size <= len(tail):
            fields = _END.unpack_from(tail, at)
            # Bytes after the comment are tolerated, as everywhere; a comment cut short is not.
            if at + _END.size + fields[7] <= len(tail):
                yield tail_at + at, fields


def _find_directory(fd: int, uri: str) -> _Directory:
    ends = 0
    for position, fields in _ends(fd):
        ends += 1
        directory = _directory_before(fd, uri, position, fields)
        if directory is not None:
            return directory
    if ends:
        raise ArchiveError(
            "corrupt",
            f"{uri}: its directory is not where its end record says; bytes are missing or were "
            "changed: copy it again (in binary mode), or rebuild it with `zip -FF`",
        )
    if pread(fd, 4, 0) == b"PK\x07\x08":
        raise _multi_disk(uri)
    raise ArchiveError(
        "truncated",
        f"{uri}: the zip ends before its directory, so it was cut short: copy or download it "
        "again, or save what has arrived with `zip -FF`",
    )


def _directory_before(
    fd: int, uri: str, position: int, fields: tuple[int, ...]
) -> _Directory | None:
    """The directory that an end record points to, or None where none is there."""
    _, disk, directory_disk, _, entries, size, offset, _ = fields
    end = position
    record = _zip64_record(fd, uri, position)
    if record is not None:
        end, disk, directory_disk, entries, size, offset = record
    if disk not in (0, _FULL16) or directory_disk not in (0, _FULL16):
        raise _multi_disk(uri)
    # Where bytes were put before the archive, stated offsets are too small by their number. A
    # writer that leaves a gap before the end record is found by the offset alone.
    for start, base in ((end - size, end - size - offset), (offset, 0)):
        if base < 0 or start < 0 or start + size > end:
            continue
        if size == 0 if entries == 0 else pread(fd, 4, start) == b"PK\x01\x02":
            return _Directory(
                start=start, size=size, entries=entries, exact=record is not None, base=base
            )
    return None


def _zip64_record(fd: int, uri: str, end: int) -> tuple[int, int, int, int, int, int] | None:
    """Position, disks, entries, size and offset from the Zip64 record, where there is one."""
    at = end - _LOCATOR.size
    if at < 0:
        return None
    signature, _, offset, disks = _LOCATOR.unpack(pread(fd, _LOCATOR.size, at))
    if signature != b"PK\x06\x07":
        return None
    if disks > 1:
        raise _multi_disk(uri)
    # The stated offset is wrong where bytes were put before the archive.
    for where in (offset, at - _END64.size):
        if 0 <= where <= at - _END64.size:
            record = _END64.unpack(pread(fd, _END64.size, where))
            if record[0] == b"PK\x06\x06":
                return (where, *record[4:6], *record[7:10])
    return None


def _multi_disk(uri: str) -> ArchiveError:
    return ArchiveError(
        "multi_disk",
        f"{uri}: one part of a zip that was split; join the parts first: "
        "`zip -s 0 first.zip --out whole.zip`",
    )


def _entry_length(buffer: bytes, at: int) -> int:
    """Bytes of the directory entry that begins at `at`."""
    name, extra, comment = struct.unpack_from("<3H", buffer, at + 28)
    length: int = _CENTRAL.size + name + extra + comment
    return length


def _field(extra: bytes, wanted: int) -> bytes:
    """One extra field by its number; empty where it is absent."""
    at = 0
    while at + 4 <= len(extra):
        number, length = struct.unpack_from("<2H", extra, at)
        if number == wanted:
            return extra[at + 4 : at + 4 + length]
        at += 4 + length
    return b""


def _zip64(field: bytes, *values: int) -> Iterator[int]:
    """Size, stored and offset, each taken from the Zip64 field where it did not fit 32 bits."""
    at = 0
    for value in values:
        if value == _FULL32:
            (value,) = struct.unpack_from("<Q", field, at)
            at += 8
        yield value


def _name(raw: bytes, flags: int, extra: bytes) -> str:
    """UTF-8 where the entry says so (flag or Info-ZIP's Unicode field) or its bytes are; else code
    page 437."""
    if flags & _UTF8:
        return raw.decode("utf-8", "surrogateescape")
    field = _field(extra, 0x7075)
    # Version 1, then the CRC of the plain name: it is stale where a program renamed the entry.
    if field[:5] == b"\x01" + zlib.crc32(raw).to_bytes(4, "little"):
        return field[5:].decode("utf-8", "surrogateescape")
    try:
        return raw.decode()  # as macOS writes it, which does not say so
    except UnicodeDecodeError:
        return raw.decode("cp437")
