"""Zstandard: the stream of a `.tar.zst`, which can be resumed where a frame begins.

Most programs write one frame, which is one long stretch; `pzstd` and others write many. Frames are
told apart here, block by block, so that the library is given exactly one at a time: then a frame
that is cut short, or followed by something else, is seen. The format is that of RFC 8878.
"""

from __future__ import annotations

from typing import IO, cast

import zstandard

from worker.archive.source import Kind
from worker.archive.stream import Point, Stream, StreamSource
from worker.archive.tar import CHUNK
from worker.errors import ArchiveError

MAGIC = b"\x28\xb5\x2f\xfd"

#: What follows the first byte, 0x5_, of a frame that is to be skipped.
SKIPPED = b"\x2a\x4d\x18"

#: A decoder keeps this much of the stream. `zstd -d` too takes no more without being told so; all
#: levels up to 22 need no more, only `--long` above 27 does.
MAX_WINDOW_LOG = 27

#: A frame's header takes at most so many bytes.
_LONGEST_HEADER = 18

_BLOCK_HEADER, _CHECKSUM = 3, 4
_RAW, _RLE, _RESERVED = 0, 1, 3


class ZstdStream(Stream):
    """The uncompressed stream of a Zstandard file: all its frames, one after another."""

    def __init__(self, fd: int, uri: str, point: Point, *, listing: bool = False) -> None:
        super().__init__(fd, uri, point, listing=listing)
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=1 << MAX_WINDOW_LOG)
        #: None between two frames.
        self._frame: zstandard.ZstdDecompressionReader | None = None
        #: Pieces of the frame that the library did not ask for yet: bytes that are left of the one
        #: at hand, whether the last block was among them, and whether a checksum follows that.
        self._left = 0
        self._last_block = False
        self._checksum = False

    def read(self, most: int = CHUNK) -> bytes:
        while self._frame is not None or self._begin():
            assert self._frame is not None
            try:
                plain = self._frame.read(most)
            except zstandard.ZstdError as error:
                raise self._damaged(error) from error
            if plain:
                self._gave(plain)
                return plain
            # The library takes a frame without its end for whole.
            if self._left or not self._last_block or self._checksum:
                raise self._cut_short()
            self._frame = None
        return b""

    def _begin(self) -> bool:
        """Read the header of the next frame; False where there is none."""
        while self._fill(4) and self._packed[1:4] == SKIPPED and self._packed[0] >> 4 == 5:
            self._use(4)
            self._skip(int.from_bytes(self._use(4), "little"))
        magic = self._packed[:4] if self._fill(4) else self._packed
        if magic != MAGIC:
            if self._at and not (magic and MAGIC.startswith(magic)):
                return False  # nothing more, or other bytes, as they are tolerated behind gzip
            if MAGIC.startswith(magic):
                raise self._cut_short()
            raise self._damaged("no Zstandard frame")
        if self._point_is_due():
            self.points.append(Point(self.plain, self._at))
        self._fill(_LONGEST_HEADER)
        try:
            size = zstandard.frame_header_size(self._packed[:_LONGEST_HEADER])
            frame = zstandard.get_frame_parameters(self._packed[:_LONGEST_HEADER])
        except zstandard.ZstdError as error:
            if len(self._packed) < _LONGEST_HEADER:
                raise self._cut_short() from error
            raise self._damaged(error) from error
        if frame.dict_id:
            raise ArchiveError(
                "unsupported",
                f"{self._uri}: it was compressed with a dictionary; compress it again without one",
            )
        if frame.window_size > 1 << MAX_WINDOW_LOG:
            raise ArchiveError(
                "unsupported",
                f"{self._uri}: reading it takes {frame.window_size >> 20:,} MiB of memory, at most "
                f"{1 << MAX_WINDOW_LOG - 20:,} are used; compress it again without `--long`, or "
                f"with `--long={MAX_WINDOW_LOG}`",
            )
        self._left, self._last_block, self._checksum = size, False, frame.has_checksum
        self._frame = self._decompressor.stream_reader(
            cast(IO[bytes], _Pieces(self)), read_size=1 << 17, read_across_frames=False
        )
        return True

    def next_piece(self, count: int) -> bytes:
        """The next compressed bytes of the frame, up to `count`; none at its end."""
        if not self._left:
            self._next_block()
        if not self._left:
            return b""
        self._fill(1)
        piece = self._packed[: min(count, self._left)]
        if not piece:
            raise self._cut_short()
        self._left -= len(piece)
        self._drop(len(piece))
        return piece

    def _next_block(self) -> None:
        """Find out how many bytes come next; none where the frame is over."""
        if not self._last_block:
            if not self._fill(_BLOCK_HEADER):
                raise self._cut_short()
            header = int.from_bytes(self._packed[:_BLOCK_HEADER], "little")
            kind, size = header >> 1 & 3, header >> 3
            if kind == _RESERVED:
                raise self._damaged("a block of no known kind")
            self._left = _BLOCK_HEADER + (1 if kind == _RLE else size)
            self._last_block = bool(header & 1)
        elif self._checksum:
            self._left, self._checksum = _CHECKSUM, False

    def _skip(self, count: int) -> None:
        """Leave out what the format lets programs put between frames."""
        while count:
            if not self._fill(1):
                raise self._cut_short()
            step = min(count, len(self._packed))
            self._drop(step)
            count -= step


class _Pieces:
    """A frame as the file that the library reads."""

    def __init__(self, stream: ZstdStream) -> None:
        self._stream = stream

    def read(self, count: int) -> bytes:
        return self._stream.next_piece(count)


class TarZstSource(StreamSource):
    """Lists a Zstandard-compressed tar archive."""

    kind: Kind = "tar.zst"
    stream_type = ZstdStream
