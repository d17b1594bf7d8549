"""A compressed tar as one stream: its headers for the listing, and windows into it for reading.

How the stream is decompressed is left to `worker.archive.gz` and `worker.archive.zst`. Each byte
of it is inflated twice in a job: once by the listing, which proves it whole, and once by whoever
scores. For that a window goes on where the one before it ended, or starts at a point that the
listing noted.
"""

from __future__ import annotations

import abc
import bisect
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from worker.archive.member import Member
from worker.archive.source import BOMB_BYTES, BOMB_RATIO, bomb, pread
from worker.archive.tar import BLOCK, CHUNK, TarSource, check_header
from worker.errors import ArchiveError

#: Points lie at least so far apart in the uncompressed stream: 4 MiB are inflated in some 20 ms.
SPACING = 4 << 20

#: And at least this part of the file apart, because each may keep 32 KiB of the stream, which films
#: do not let shrink: an index takes 64 MiB at most.
MOST_POINTS = 2048

#: A point before the header of a member is wanted so close to it.
NEAR = 256 << 10

#: A member so far from the point before it is costly to reach: then the archive is to be read in
#: one go, and its members are parted by so many bytes.
LONG_STRETCH = 32 << 20

#: Version of the index.
INDEX_VERSION = 2

#: `Point.bit`: a whole gzip stream or Zstandard frame begins there.
HEADER = -1

#: Bytes of the file at each point by whose checksum another file is told.
_TRACE = 16


class Point(NamedTuple):
    """A place where decompression can start."""

    #: Its place in the uncompressed stream, and in the file.
    plain: int
    packed: int
    #: The bit of the file's byte at which a deflate block begins, or `HEADER`.
    bit: int = HEADER
    #: The stream just before it, which a deflate block may refer to.
    window: bytes = b""


class Stream(abc.ABC):
    """The uncompressed stream of a file, from its beginning or from a point on."""

    def __init__(self, fd: int, uri: str, point: Point, *, listing: bool = False) -> None:
        self._fd = fd
        self._uri = uri
        self._listing = listing
        #: Place in the uncompressed stream: of what `read` gives next.
        self.plain = point.plain
        #: Where the reader will look next: a point is best shortly before that.
        self.heading = 0
        #: Bytes inflated so far, with what was inflated to find points.
        self.inflated = 0
        #: Compressed bytes that were read and not used yet, and their place in the file.
        self._packed = b""
        self._at = point.packed
        #: Points passed so far, the beginning being the first; more only where it is a listing.
        self.points = [point]
        self._apart = os.fstat(fd).st_size // MOST_POINTS

    @abc.abstractmethod
    def read(self, most: int = CHUNK) -> bytes:
        """The next stretch, of `most` bytes at most; none at the end. Raises ArchiveError."""

    def _fill(self, count: int) -> bool:
        """Have at least `count` compressed bytes at hand, unless the file ends before."""
        if len(self._packed) < count:
            at = self._at + len(self._packed)
            self._packed += pread(self._fd, max(count - len(self._packed), CHUNK // 4), at)
        return len(self._packed) >= count

    def _use(self, count: int) -> bytes:
        """Take compressed bytes; raises ArchiveError where the file ends before."""
        if not self._fill(count):
            raise self._cut_short()
        used = self._packed[:count]
        self._drop(count)
        return used

    def _gave(self, plain: bytes) -> None:
        """Count what was inflated; raises ArchiveError where it is beyond all measure."""
        self.plain += len(plain)
        self.inflated += len(plain)
        if self._listing and self.plain > BOMB_BYTES and self.plain > BOMB_RATIO * self._at:
            raise bomb(self._uri, self.plain, self._at)

    def _point_is_due(self) -> bool:
        if not self._listing or self.plain - self.points[-1].plain < SPACING:
            return False
        return self._at - self.points[-1].packed >= self._apart

    def _drop(self, count: int) -> None:
        """Be done with so many of the compressed bytes at hand."""
        self._packed = self._packed[count:]
        self._at += count

    def _cut_short(self) -> ArchiveError:
        return ArchiveError(
            "truncated",
            f"{self._uri}: the compressed stream is cut short at byte "
            f"{self._at + len(self._packed):,}; copy or download it again",
        )

    def _damaged(self, why: object) -> ArchiveError:
        return ArchiveError(
            "corrupt",
            f"{self._uri}: the compressed stream is damaged before byte "
            f"{self._at + len(self._packed):,} ({why}); copy or download it again",
        )


class StreamSource(TarSource):
    """Lists a compressed tar archive, in one verified pass."""

    #: How the stream is decompressed.
    stream_type: type[Stream]

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self._stream: Stream | None = None
        self._listed = False

    @property
    def inflated(self) -> int:
        """Bytes inflated by the latest listing so far."""
        return self._stream.inflated if self._stream else 0

    def _walk(self) -> Iterator[Member]:
        self._listed, self.streams = False, False
        stream = self._stream = self.stream_type(self._fd, self.uri, Point(0, 0), listing=True)
        for member in self._members(_StreamBlocks(stream)):
            if member.offset - BLOCK - self._point(member).plain >= LONG_STRETCH:
                self.streams = True
            yield member
        self._listed = True

    def part(self, member: Member) -> int:
        plain = self._point(member).plain
        return plain + (member.offset - BLOCK - plain) // LONG_STRETCH * LONG_STRETCH

    def _point(self, member: Member) -> Point:
        """Where reading starts for a member just listed; its header is read along."""
        points = self._stream.points if self._stream else [Point(0, 0)]
        return points[before(points, member.offset - BLOCK)]

    def index(self) -> bytes:
        """The points where reading can start; lists the archive where that was not done yet."""
        if not self._listed:
            for _ in self.members():
                pass
        assert self._stream is not None
        return pack_points(self._fd, self._stream.points)


class _StreamBlocks:
    """Headers of a compressed tar; what lies between them is inflated and verified too."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        #: Inflated bytes, how many of them are used, and their place in the uncompressed stream.
        self._plain = b""
        self._used = 0
        self._at = 0
        self.last = b""

    def read(self, count: int) -> bytes:
        check_header(count)
        end = self._used + count
        if end <= len(self._plain):
            self.last = self._plain[self._used : end]
            self._used = end
            self._at += count
            return self.last
        parts = []
        while count and (part := self._take(count)):
            parts.append(part)
            count -= len(part)
        self.last = b"".join(parts)
        return self.last

    def seek(self, position: int) -> int:
        self._stream.heading = position
        while (left := position - self._at) > 0:
            if self._used == len(self._plain) and not self._more():
                break
            step = min(left, len(self._plain) - self._used)
            self._used += step
            self._at += step
        return self._at

    def tell(self) -> int:
        return self._at

    def rest(self) -> Iterator[bytes]:
        while self.read(CHUNK):
            yield self.last

    def _take(self, count: int) -> bytes:
        """Between one and `count` bytes; none at the end of the stream."""
        if self._used == len(self._plain) and not self._more():
            return b""
        part = self._plain[self._used : self._used + count]
        self._used += len(part)
        self._at += len(part)
        return part

    def _more(self) -> bool:
        left = self._stream.heading - NEAR - self._stream.plain
        self._plain, self._used = self._stream.read(min(CHUNK, left) if left > 0 else CHUNK), 0
        return bool(self._plain)


def changed(uri: str) -> ArchiveError:
    """The ArchiveError for an archive that is not the one that was listed."""
    return ArchiveError(
        "changed",
        f"{uri}: does not fit the index made when it was listed; the archive has changed since: "
        "score it again",
    )


def pack_points(fd: int, points: Sequence[Point]) -> bytes:
    """The index of an archive: small where points need nothing of the stream before them."""
    table = [[p.plain, p.packed, p.bit, len(p.window), _trace(fd, p)] for p in points]
    head = json.dumps([INDEX_VERSION, os.fstat(fd).st_size, table], separators=(",", ":"))
    windows = b"".join(p.window for p in points)
    return zlib.compress(head.encode("ascii") + b"\n" + windows, 1)


def without_windows(index: bytes) -> bytes | None:
    """The same index less what it holds of the archive's content; None where it holds none.

    With it the stream is read from the nearest place that needs nothing of what is before it.
    """
    head, _, windows = zlib.decompress(index).partition(b"\n")
    if not windows:
        return None
    version, size, table = json.loads(head)
    plain = json.dumps(
        [version, size, [row for row in table if row[3] == 0]], separators=(",", ":")
    )
    return zlib.compress(plain.encode("ascii") + b"\n", 1)


def unpack_points(fd: int, uri: str, index: bytes) -> list[Point]:
    """The points that `pack_points` was given; raises ArchiveError where the file is another."""
    try:
        head, _, windows = zlib.decompress(index).partition(b"\n")
        version, size, table = json.loads(head)
    except (zlib.error, ValueError, TypeError) as error:
        raise changed(uri) from error
    if version != INDEX_VERSION or size != os.fstat(fd).st_size:
        raise changed(uri)
    points, at = [], 0
    for plain, packed, bit, length, trace in table:
        points.append(Point(plain, packed, bit, windows[at : at + length]))
        at += length
        if _trace(fd, points[-1]) != trace:
            raise changed(uri)
    return points


def _trace(fd: int, point: Point) -> int:
    return zlib.crc32(pread(fd, _TRACE, point.packed))


def before(points: Sequence[Point], plain: int) -> int:
    """The number of the last point at or before a place of the stream."""
    return max(0, bisect.bisect_right(points, plain, key=_plain) - 1)


def _plain(point: Point) -> int:
    return point.plain
