"""Gzip: the stream of a `.tar.gz`, proved by its checksum, and the points where it can be resumed.

zlib inflates. Where a point is due the head of a block is searched for, and from there on a second
inflater goes on in place of the first, started as a reader will start it: so the checksum at the
end proves the points along with the stream.
"""

from __future__ import annotations

import zlib

from worker.archive import deflate
from worker.archive.source import Kind
from worker.archive.stream import HEADER, NEAR, SPACING, Point, Stream, StreamSource
from worker.archive.tar import CHUNK

#: Compressed bytes in which a block's head is looked for, and how many at a time. zlib's blocks
#: take 64 KiB at most, those of other programs up to some 300 KiB.
_SEARCH, _STEP = 384 << 10, 48 << 10

#: Bytes by which a new inflater is compared with the old one before it takes over.
_PROOF = 64

#: Bytes of file name, comment or extra field in a gzip header; more is damage.
_LONGEST_FIELD = 1 << 16

_EXTRA, _NAME, _COMMENT, _HEADER_CRC, _RESERVED = 0x04, 0x08, 0x10, 0x02, 0xE0


class GzipStream(Stream):
    """The uncompressed stream of a gzip file, which may be several streams one after another."""

    def __init__(self, fd: int, uri: str, point: Point, *, listing: bool = False) -> None:
        super().__init__(fd, uri, point, listing=listing)
        #: None between two streams.
        self._inflater: zlib._Decompress | None = None
        self._window = point.window
        # Checksum and length of this stream so far; unknown where it was entered in the middle.
        self._crc: int | None = None
        self._length = 0
        #: Where the inflater is to stop because a block seems to begin there: the bit, the byte
        #: that holds it, and the place of the first byte that is not to be inflated before.
        self._stop: tuple[int, bytes, int] | None = None
        self._search_from = 0
        if point.bit != HEADER:
            self._inflater = deflate.start(point.window, point.bit)
            self._fill(1)
            self._packed = deflate.join(point.bit, self._packed)

    def read(self, most: int = CHUNK) -> bytes:
        while self._inflater is not None or self._begin():
            if self._stop is None and self._point_is_due():
                self._search()
            plain = self._inflate(most)
            if plain:
                return plain
        return b""

    def _inflate(self, most: int) -> bytes:
        """What the compressed bytes at hand give, `most` bytes at most; perhaps nothing."""
        inflater = self._inflater
        assert inflater is not None
        self._fill(1)
        given = self._packed
        if self._stop is not None:
            given = given[: self._stop[2] - self._at]
        try:
            plain = inflater.decompress(given, most)
        except zlib.error as error:
            raise self._damaged(error) from error
        left = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
        self._drop(len(given) - len(left))
        self._took(plain)
        if inflater.eof:
            self._stop = None
            self._end()
        elif not plain and not given:
            # Nothing went in and nothing came out: all that the bytes before hold has come out.
            if self._stop is None or self._at < self._stop[2]:
                raise self._cut_short()
            return self._resume(inflater)
        return plain

    def _took(self, plain: bytes) -> None:
        self._gave(plain)
        self._length += len(plain)
        if self._crc is not None:
            self._crc = zlib.crc32(plain, self._crc)
        if self._listing:
            before = b"" if len(plain) >= deflate.WINDOW else self._window
            self._window = (before + plain)[-deflate.WINDOW :]

    def _search(self) -> None:
        """Look for the head of a block, and stop there."""
        if self.plain < max(self._search_from, self.heading - NEAR):
            return
        for at in range(0, _SEARCH, _STEP):
            whole = self._fill(at + _STEP + (64 << 10) + deflate.HEAD_BYTES)
            for place in deflate.block_heads(self._packed, at, _STEP):
                byte, bit = divmod(place, 8)
                shared = self._packed[byte : byte + 1] if bit else b""
                self._stop = bit, shared, self._at + byte + len(shared)
                return
            if not whole:
                break
        self._search_from = self.plain + SPACING // 2

    def _resume(self, old: zlib._Decompress) -> bytes:
        """Go on with an inflater that starts here, if it does as the old one; its first bytes."""
        assert self._stop is not None
        bit, shared, _ = self._stop
        self._stop = None
        self._fill(CHUNK // 4)
        new = deflate.start(self._window, bit)
        expected = old.copy().decompress(self._packed, _PROOF)
        self.inflated += len(expected)
        try:
            plain = new.decompress(deflate.join(bit, shared + self._packed), _PROOF)
        except zlib.error:
            plain = b""
        if not plain or plain != expected or new.eof:
            self._search_from = self.plain + SPACING // 16
            return b""
        self.points.append(Point(self.plain, self._at - len(shared), bit, self._window))
        self._inflater = new
        self._drop(len(self._packed) - len(new.unconsumed_tail))
        self._took(plain)
        return plain

    def _begin(self) -> bool:
        """Read the header of the next stream; False where there is none."""
        # As for gzip itself, zero bytes may lie between streams, and others after the last.
        while self._at and self._fill(1) and self._packed[0] == 0:
            self._drop(len(self._packed) - len(self._packed.lstrip(b"\0")))
        if not self._fill(1) or (self._at and self._packed[0] != 0x1F):
            return False
        if self._point_is_due():
            self.points.append(Point(self.plain, self._at))
        magic, method, flags = (head := self._use(10))[:2], head[2], head[3]
        if magic != b"\x1f\x8b" or method != 8 or flags & _RESERVED:
            raise self._damaged("no gzip header")
        if flags & _EXTRA:
            self._use(int.from_bytes(self._use(2), "little"))
        for field in (_NAME, _COMMENT):
            if flags & field:
                self._skip_text()
        if flags & _HEADER_CRC:
            self._use(2)
        self._inflater, self._window, self._crc, self._length = deflate.raw(), b"", 0, 0
        return True

    def _skip_text(self) -> None:
        self._fill(_LONGEST_FIELD)
        end = self._packed.find(b"\0", 0, _LONGEST_FIELD)
        if end < 0:
            raise (
                self._damaged("no gzip header")
                if self._fill(_LONGEST_FIELD)
                else (self._cut_short())
            )
        self._drop(end + 1)

    def _end(self) -> None:
        """Check a stream's checksum and length, which follow it."""
        trailer = self._use(8)
        crc, length = int.from_bytes(trailer[:4], "little"), int.from_bytes(trailer[4:], "little")
        if self._crc is not None and (crc != self._crc or length != self._length & 0xFFFFFFFF):
            raise self._damaged("its checksum differs")
        self._inflater = None


class TarGzSource(StreamSource):
    """Lists a gzip-compressed tar archive."""

    kind: Kind = "tar.gz"
    stream_type = GzipStream
