"""Windows into the stream of a compressed tar: the members of a shard, inflated into memory.

What lies between them (an entry that is no film, say) is inflated where it must be, and not held.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence

from worker.archive import trouble
from worker.archive.member import Member
from worker.archive.source import MAX_BYTES
from worker.archive.stream import Point, Stream, before, changed
from worker.archive.tar import BLOCK, CHUNK
from worker.errors import ArchiveError

#: A window is held in memory: 256 MiB at most, unless the caller says otherwise.
MAX_WINDOW = 256 << 20

#: Members so many bytes apart are held in one piece with what is between them, which are headers of
#: their own (long names) as a rule.
GAP = 8 << 10

#: Of a window: several decoders have it, and each might be another's undoing.
_SEALED = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL

#: Where a stretch of the uncompressed stream begins, and where it ends.
Span = tuple[int, int]


def spans(members: Sequence[Member]) -> list[Span]:
    """The stretches of the stream that have to be at hand to read these members, ascending.

    Each from the member's header on, which its reader checks. Of members that are refused unread,
    whatever they state, there are none.
    """
    found: list[Span] = []
    for member in sorted(members, key=_offset):
        if member.method < 0 or member.stored > MAX_BYTES:
            continue
        first, end = max(0, member.offset - BLOCK), member.offset + member.stored
        if found and first - found[-1][1] <= GAP:
            first, end = found[-1][0], max(end, found.pop()[1])
        found.append((first, end))
    return found


def _offset(member: Member) -> int:
    return member.offset


class Spool:
    """Windows into the uncompressed stream of a compressed tar.

    Not thread safe; the file descriptors that it gives out are.
    """

    def __init__(self, fd: int, uri: str, stream_type: type[Stream], points: list[Point]) -> None:
        self._fd = fd
        #: The path of the archive.
        self.uri = uri
        self._stream_type = stream_type
        self._points = points
        self._stream: Stream | None = None
        #: Inflated bytes that lie behind the latest window, up to where the stream is.
        self._ahead = b""
        self._inflated = 0

    @property
    def inflated(self) -> int:
        """Bytes inflated so far, for windows and on the way to them."""
        return self._inflated + (self._stream.inflated if self._stream else 0)

    def window(self, spans: Sequence[Span], cap: int = MAX_WINDOW) -> int:
        """Inflate stretches of the stream into memory; a file descriptor for `pread`.

        `spans` are ascending, as `spans` gives them. The caller closes the descriptor, and reads it
        through `ExtentReader(fd, base=spans[0][0])`; nobody can write to it. Between the spans it
        has holes, which take no memory. Windows in ascending order cost nothing but themselves.
        Raises ValueError for more than `cap` bytes (split the range), ArchiveError where the
        archive changed, and SourceTrouble.
        """
        for first, end in spans:
            if not 0 <= first <= end:
                raise ValueError(f"no window from {first} to {end}")
        size = sum(end - first for first, end in spans)
        if size > cap:
            raise ValueError(f"a window of {size:,} bytes; at most {cap:,}: split it")
        with trouble.at(self.uri):
            fd = os.memfd_create("pneumoq-window", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            try:
                for first, end in spans:
                    self._fill(fd, first, end, spans[0][0])
                fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALED)
            except BaseException:
                trouble.close(fd)
                raise
        return fd

    def holding(self, members: Sequence[Member], cap: int = MAX_WINDOW) -> tuple[int, int]:
        """A window as `window` gives it that holds these members, and where in the stream it
        begins."""
        stretches = spans(members)
        return self.window(stretches, cap), stretches[0][0] if stretches else 0

    def close(self) -> None:
        """Close the archive; windows given out stay."""
        trouble.close(self._fd)

    def _fill(self, fd: int, first: int, end: int, base: int) -> None:
        """Put bytes `first` to `end` of the stream where they belong in a window from `base` on."""
        stream = self._at_or_before(first)
        ahead = self._ahead
        at = stream.plain - len(ahead)
        while at < end:
            if not ahead:
                try:
                    # No more than that, lest it be inflated again by whoever has what follows.
                    ahead = stream.read(min(CHUNK, end - at))
                except ArchiveError as error:
                    # The listing read it to its end, so it was whole then.
                    self._drop()
                    raise changed(self.uri) from error
                if not ahead:
                    self._drop()
                    raise changed(self.uri)
            wanted = memoryview(ahead)[max(0, first - at) : end - at]
            if wanted:
                _write(fd, wanted, max(first, at) - base)
            used = min(len(ahead), end - at)
            at += used
            ahead = ahead[used:]
        self._ahead = ahead

    def _at_or_before(self, first: int) -> Stream:
        """The stream, standing where the fewest bytes lie before `first`."""
        point = self._points[before(self._points, first)]
        if (
            self._stream is not None
            and point.plain <= self._stream.plain - len(self._ahead) <= first
        ):
            return self._stream
        self._drop()
        self._stream = self._stream_type(self._fd, self.uri, point)
        return self._stream

    def _drop(self) -> None:
        """Forget where the stream is."""
        self._inflated = self.inflated
        self._stream, self._ahead = None, b""


def _write(fd: int, data: memoryview, at: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], at + done)
