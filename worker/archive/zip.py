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

import numpy as np
import numpy.typing as npt

from worker.archive import trouble
from worker.archive.member import DEFLATED, LINK, STORED, Member
from worker.archive.names import are_plain, as_formerly, field_of, of_zip, skipped_as
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

#: Where 32 bits begin anew: 4 GiB.
_TURN = 1 << 32

_ENCRYPTED = 0x1

#: Bytes of directory read at once. More than the longest possible entry (46 + 3 × 65,535).
_CHUNK = 256 << 10

#: Members of a zip without Zip64 that are looked for where they should be.
_SAMPLES = 256

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
    #: Whether places beyond 4 GiB are given modulo 4 GiB, without a Zip64 record: macOS does so.
    wrapped: bool = False


class _Places:
    """Where members begin, in a zip that gives their places modulo 4 GiB.

    They lie one after the other, so each begins at the first such place behind the one before.
    """

    def __init__(self) -> None:
        #: Where the next may begin at the earliest.
        self.free = 0

    def of(self, offset: int, length: int) -> int:
        """The place of the next member, whose name and data take so many bytes."""
        place = offset + -(-max(0, self.free - offset) // _TURN) * _TURN
        self.free = place + _LOCAL.size + length
        return place


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

        With another version where older releases read a name otherwise, or skipped less.
        """
        version = "zip" if self._was_listed_so() else "zip2"
        return f"{version}:{os.fstat(self._fd).st_size}:{self._directory_digest()}"

    def _was_listed_so(self) -> bool:
        """Whether releases up to 0.2.0 listed the same members by the same names."""
        if self._directory.wrapped:
            return False
        try:
            return all(as_formerly(*odd) for odd in self._odd())
        except ArchiveError:  # a damaged directory, which no release lists
            return True

    def _odd(self) -> Iterator[tuple[bytes, int, bytes]]:
        """Name, flags and extra fields of each entry whose name is not plain, and of some others.

        Entries are looked at many at a time, by their signatures: far faster than one by one.
        """
        unread, end = self._directory.start, self._directory.start + self._directory.size
        buffer = b""
        while chunk := pread(self._fd, min(_CHUNK, end - unread), unread):
            unread += len(chunk)
            buffer += chunk
            found = _whole_entries(buffer)
            if found is None:
                for fields, raw, extra in self._entries():
                    yield raw, fields[3], extra
                return
            heads, lengths = found
            names = heads + _CENTRAL.size
            plain = are_plain(buffer, names, names + lengths[0])
            for n in range(0 if plain else len(names)):
                name, more = int(names[n]), int(names[n] + lengths[0, n])
                flags = int.from_bytes(buffer[heads[n] + 8 : heads[n] + 10], "little")
                yield buffer[name:more], flags, buffer[more : more + int(lengths[1, n])]
            buffer = buffer[int(names[-1] + lengths[:, -1].sum()) :]

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
        places = None
        if directory.wrapped:
            self._check_places()
            places = _Places()
        for fields, raw, extra in self._entries():
            entries += 1
            made_by, flags, method, crc, stored, size = (
                fields[1],
                fields[3],
                fields[4],
                *fields[7:10],
            )
            disk, offset = fields[13], fields[16]
            if places is not None:
                offset = places.of(offset, len(raw) + stored)
            name = raw.decode("ascii") if raw.isascii() else of_zip(raw, flags, extra)
            reason = skipped_as(name)
            if reason is not None:
                skipped[reason] += 1
                continue
            if _FULL32 in (size, stored, offset) or disk == _FULL16:
                try:
                    size, stored, offset = _zip64(field_of(extra, 1), size, stored, offset)
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

    def _check_places(self) -> None:
        """Raise ArchiveError where members of a zip of more than 4 GiB cannot be told apart."""
        places, turn, before = _Places(), -1, self._directory.start
        step = 1 + self._directory.entries // _SAMPLES
        for n, (fields, raw, _) in enumerate(self._entries()):
            place = places.of(fields[16], len(raw) + fields[8])
            if place >> 32 != turn or n % step == 0:  # the first behind each 4 GiB, and some others
                turn = place >> 32
                block = pread(self._fd, _LOCAL.size + len(raw), place)
                if block[:4] != b"PK\x03\x04" or block[_LOCAL.size :] != raw:
                    break
        else:
            if places.free <= before < places.free + _TURN:
                return
        raise ArchiveError(
            "unsupported",
            f"{self.uri}: a zip of more than 4 GiB without Zip64, as macOS packs it, and where its "
            "members begin cannot be told; pack it again with `zip -r`, or give it unpacked",
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
            # A program of exactly 4 GiB before an archive there is not.
            wrapped = record is None and base > 0 and base % _TURN == 0
            return _Directory(
                start=start,
                size=size,
                entries=entries,
                exact=record is not None,
                base=0 if wrapped else base,
                wrapped=wrapped,
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


def _whole_entries(buffer: bytes) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]] | None:
    """Where the whole entries begin that a piece of the directory begins with; lengths `[3, N]` of
    their names, extra fields and comments. None where they do not follow each other."""
    data = np.frombuffer(buffer, np.uint8)
    heads = np.flatnonzero(
        (data[:-3] == 0x50) & (data[1:-2] == 0x4B) & (data[2:-1] == 1) & (data[3:] == 2)
    )
    heads = heads[heads + _CENTRAL.size <= len(buffer)]
    at = heads + np.array([[28], [30], [32]])
    lengths = data[at] + (data[at + 1].astype(np.intp) << 8)
    ends = heads + _CENTRAL.size + lengths.sum(axis=0)
    whole = int(np.searchsorted(ends, len(buffer), side="right"))
    if not whole or heads[0] or (ends[: len(heads) - 1] != heads[1:]).any():
        return None
    return heads[:whole], lengths[:, :whole]


def _entry_length(buffer: bytes, at: int) -> int:
    """Bytes of the directory entry that begins at `at`."""
    name, extra, comment = struct.unpack_from("<3H", buffer, at + 28)
    length: int = _CENTRAL.size + name + extra + comment
    return length


def _zip64(field: bytes, *values: int) -> Iterator[int]:
    """Size, stored and offset, each taken from the Zip64 field where it did not fit 32 bits."""
    at = 0
    for value in values:
        if value == _FULL32:
            (value,) = struct.unpack_from("<Q", field, at)
            at += 8
        yield value
