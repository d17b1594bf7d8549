"""A gzip-compressed tar: listed in one verified pass, read through windows by a seek index.

With the index any worker starts in the middle: it inflates the stretch of the stream that holds its
members, once, into memory that its decoder processes share. Listing goes through zlib, which proves
length and checksum; indexed_gzip takes streams that were cut short or changed for whole ones, and
starts again from a seek point at every read, so it serves only for the index and for windows.
"""

from __future__ import annotations

import io
import mmap
import os
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from worker.archive.member import Member
from worker.archive.source import Kind, open_file, pread
from worker.archive.tar import CHUNK, TarSource, check_header
from worker.errors import ArchiveError

if TYPE_CHECKING:
    from indexed_gzip import IndexedGzipFile

#: Seek points lie so far apart in the uncompressed stream: 4 MiB are inflated in some 20 ms.
SPACING = 4 << 20

#: Above this many points they move apart, up to MAX_SPACING: each keeps 32 KiB of the stream, which
#: films do not let shrink. So an index takes up to 16 MiB; above 8 GiB of archive, 2 MiB per GiB.
MANY_POINTS = 512

#: indexed_gzip takes a buffer of four times the spacing.
MAX_SPACING = 16 << 20

#: A window is held in memory: 256 MiB at most, unless the caller says otherwise.
MAX_WINDOW = 256 << 20


class TarGzSource(TarSource):
    """Lists a gzip-compressed tar archive."""

    kind: Kind = "tar.gz"

    def _walk(self) -> Iterator[Member]:
        return self._members(_GzipBlocks(self._fd, self.uri))

    def index(self) -> bytes | None:
        """Seek index of the whole archive, compressed; inflates all of it once more."""
        # Films hardly shrink, so the file's size is close to that of the stream.
        size = os.fstat(self._fd).st_size
        file = _open(self.uri, min(max(SPACING, size // MANY_POINTS), MAX_SPACING))
        buffer = io.BytesIO()
        try:
            file.build_full_index()
            file.export_index(fileobj=buffer)
        except OSError as error:
            raise ArchiveError(
                "corrupt", f"{self.uri}: no seek index can be made of it ({error}); copy it again"
            ) from error
        finally:
            file.close()
        return zlib.compress(buffer.getvalue(), 1)


class _GzipBlocks:
    """Headers of a compressed tar; what lies between them is inflated and verified too."""

    def __init__(self, fd: int, uri: str) -> None:
        self._fd = fd
        self._uri = uri
        #: Compressed bytes not yet inflated, and where in the file the next ones begin.
        self._packed = b""
        self._packed_at = 0
        #: None between two streams of one file.
        self._inflater: zlib._Decompress | None = _inflater()
        #: Inflated bytes, how many of them are used, and their place in the uncompressed stream.
        self._plain = b""
        self._used = 0
        self._at = 0
        self.last = b""

    def read(self, count: int) -> bytes:
        check_header(count)
        parts = []
        while count and (part := self._take(count)):
            parts.append(part)
            count -= len(part)
        self.last = b"".join(parts)
        return self.last

    def seek(self, position: int) -> int:
        while self._at < position and self._take(position - self._at):
            pass
        return self._at

    def tell(self) -> int:
        return self._at

    def rest(self) -> Iterator[bytes]:
        while self.read(CHUNK):
            yield self.last

    def _take(self, count: int) -> bytes:
        """Between one and `count` bytes; none at the end of the stream."""
        if self._used == len(self._plain):
            self._plain, self._used = self._inflate(), 0
        part = self._plain[self._used : self._used + count]
        self._used += len(part)
        self._at += len(part)
        return part

    def _inflate(self) -> bytes:
        """The next stretch of the uncompressed stream; none at its end. Raises ArchiveError."""
        while True:
            if not self._packed:
                self._packed = pread(self._fd, CHUNK, self._packed_at)
                self._packed_at += len(self._packed)
                if not self._packed:
                    break
            if self._inflater is None:
                # As for gzip itself, zero bytes may lie between streams, and others after the last.
                self._packed = self._packed.lstrip(b"\0")
                if not self._packed:
                    continue
                if self._packed[0] != 0x1F:
                    return b""
                self._inflater = _inflater()
            try:
                plain = self._inflater.decompress(self._packed, CHUNK)
            except zlib.error as error:
                raise ArchiveError(
                    "corrupt",
                    f"{self._uri}: the gzip stream is damaged before byte {self._packed_at:,} "
                    f"({error}); copy or download it again",
                ) from error
            if self._inflater.eof:
                self._packed, self._inflater = self._inflater.unused_data, None
            else:
                self._packed = self._inflater.unconsumed_tail
            if plain:
                return plain
        if self._inflater is not None:
            raise ArchiveError(
                "truncated",
                f"{self._uri}: the gzip stream is cut short at byte {self._packed_at:,}; copy or "
                "download it again",
            )
        return b""


class Spool:
    """Windows into the uncompressed stream of a compressed tar.

    Not thread safe; the file descriptors that it gives out are.
    """

    def __init__(self, uri: str, index: bytes | None) -> None:
        self._uri = uri
        self._file = _open(uri, SPACING)
        if index is None:
            return
        try:
            self._file.import_index(fileobj=io.BytesIO(zlib.decompress(index)))
        except (OSError, zlib.error) as error:
            self._file.close()
            raise self._changed() from error

    def window(self, first: int, end: int, cap: int = MAX_WINDOW) -> int:
        """Inflate bytes `first` to `end` of the stream into memory; a file descriptor for `pread`.

        The caller closes it, and reads it through `ExtentReader(fd, base=first)`. Raises ValueError
        for more than `cap` bytes (split the range) and ArchiveError where the archive changed.
        """
        if not 0 <= first <= end:
            raise ValueError(f"no window from {first} to {end}")
        if end - first > cap:
            raise ValueError(f"a window of {end - first:,} bytes; at most {cap:,}: split it")
        fd = os.memfd_create("pneumoq-window", os.MFD_CLOEXEC)
        try:
            self._fill(fd, first, end)
        except OSError as error:
            os.close(fd)
            raise self._changed() from error
        except BaseException:
            os.close(fd)
            raise
        return fd

    def close(self) -> None:
        """Close the archive; windows given out stay."""
        self._file.close()

    def _fill(self, fd: int, first: int, end: int) -> None:
        size = end - first
        if size == 0:
            return
        if self._file.seek(first) != first:
            raise self._changed()
        os.ftruncate(fd, size)
        # One read for the whole window, because each one begins by inflating from a seek point.
        with mmap.mmap(fd, size) as memory, memoryview(memory) as view:
            done = 0
            while done < size:
                with view[done:] as rest:
                    got = self._file.readinto(rest)
                if not got:
                    raise self._changed()
                done += got

    def _changed(self) -> ArchiveError:
        return ArchiveError(
            "changed",
            f"{self._uri}: does not fit the index made when it was listed; the archive has "
            "changed since: score it again",
        )


def _inflater() -> zlib._Decompress:
    return zlib.decompressobj(zlib.MAX_WBITS | 16)


def _open(uri: str, spacing: int) -> IndexedGzipFile:
    from indexed_gzip import IndexedGzipFile

    os.close(open_file(uri))  # for its errors, which the library would word for programmers
    # Its own checksum test is left out: it takes some damaged streams for whole, not others.
    return IndexedGzipFile(
        uri, drop_handles=False, spacing=spacing, buffer_size=CHUNK, skip_crc_check=True
    )
