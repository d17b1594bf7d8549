"""Journal: a cache of decoded films while it is being made, which outlasts whoever makes it.

Two hidden files beside the cache. `.NAME.planes` is what becomes the cache: room for every plane,
taken before the first film is decoded, so that a full disk is found out at once. `.NAME.entries`
is only ever appended to: a line per film that is through, with a checksum of its own and one of the
film's plane, which was written before. Whoever comes after a process that was killed takes over
what these vouch for. One process at a time has it, by the lock on the entries.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.lib.format import write_array_header_1_0
from numpy.typing import NDArray

from trainer import atomic

#: What the files' names end in.
PLANES, ENTRIES = ".planes", ".entries"

#: Bytes of the checksum that begins a line.
_SUM = 8


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One film that is through."""

    #: Place of its plane.
    place: int
    #: Of its bytes, hexadecimal.
    sha256: str
    #: CRC-32 of its plane; None where the film is broken.
    crc: int | None = None
    #: FilmError's code and message, of a broken film.
    code: str = ""
    reason: str = ""


class Journal:
    """The journal of one cache, in this process's hands. Used by one thread."""

    def __init__(self, fd: int, stem: Path, about: Mapping[str, Any]) -> None:
        """`fd` is of the locked entries, `stem` their path less ENTRIES, and `about` what the cache
        says of itself: `films` (contents in the order of their planes) and `size` among others.

        Raises OSError where there is no room for it.
        """
        self._fd = fd
        self._stem = stem
        self._about = about
        self._order: Sequence[str] = about["films"]
        self._shape = (len(self._order), about["size"], about["size"])
        #: What is through, by place.
        self.entries: dict[int, Entry] = {}
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, fd)
            self._planes = os.open(
                stem.with_name(stem.name + PLANES), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666
            )
            stack.callback(os.close, self._planes)
            try:
                self._begin = self._make_room()
                self._take_over()
            except OSError:
                if not self.entries:
                    discard(stem)
                raise
            stack.pop_all()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it; what it holds is there for the next."""
        for fd in (self._planes, self._fd):
            os.close(fd)

    def _make_room(self) -> int:
        """Write the head and take the room of all planes; where these begin."""
        with open(self._planes, "wb", closefd=False) as file:
            head = {"descr": "|u1", "fortran_order": False, "shape": self._shape}
            write_array_header_1_0(file, head)
            begin = file.tell()
        os.posix_fallocate(self._planes, 0, begin + int(np.prod(self._shape)))
        return begin

    def _take_over(self) -> None:
        """Take over what an earlier process left, and cut off what it did not finish."""
        head = _line(self._about)
        with open(self._fd, "rb", closefd=False) as file:
            file.seek(0)
            whole = len(head) if file.readline() == head else 0
            if whole:
                for entry, length in _entries(file):
                    whole += length
                    if entry.place < len(self._order):
                        self.entries[entry.place] = entry
        os.ftruncate(self._fd, whole)
        if not whole:
            self._append(head)
        self.entries = {p: e for p, e in self.entries.items() if self._holds(e)}

    def _holds(self, entry: Entry) -> bool:
        """Whether the plane that an entry is of is there."""
        if entry.sha256 != self._order[entry.place]:
            return False
        if entry.crc is None:
            return True
        side = self._shape[1]
        at = self._begin + entry.place * side * side
        return zlib.crc32(os.pread(self._planes, side * side, at)) == entry.crc

    def add(self, place: int, plane: NDArray[np.uint8]) -> None:
        """A film is decoded: its plane, `uint8 [S, S]`. Raises OSError."""
        data = np.ascontiguousarray(plane).data.cast("B")
        at = self._begin + place * len(data)
        written = 0
        while written < len(data):
            written += os.pwrite(self._planes, data[written:], at + written)
        self._note(Entry(place=place, sha256=self._order[place], crc=zlib.crc32(data)))

    def add_broken(self, place: int, code: str, reason: str) -> None:
        """A film cannot be decoded. Raises OSError."""
        self._note(Entry(place=place, sha256=self._order[place], code=code, reason=reason))

    def _note(self, entry: Entry) -> None:
        values = [entry.place, entry.sha256, entry.crc]
        self._append(
            _line(values if entry.crc is not None else [*values, entry.code, entry.reason])
        )
        self.entries[entry.place] = entry

    def _append(self, line: bytes) -> None:
        # In one piece, or what comes after half a line would be lost with it.
        if os.write(self._fd, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._stem.parent))

    def finish(self, name: Path, broken: Mapping[str, tuple[str, str]]) -> None:
        """Make it the cache `name`.npy, with `name`.json beside it. Raises OSError."""
        os.fsync(self._planes)
        # The list of films first: the planes are looked at only when both are there.
        entries = (self.entries.get(place) for place in range(len(self._order)))
        crcs = [None if entry is None else entry.crc for entry in entries]
        about = {**self._about, "broken": broken, "crcs": crcs}
        atomic.replace(name.with_suffix(".json"), json.dumps(about).encode())
        self._stem.with_name(self._stem.name + PLANES).replace(name.with_suffix(".npy"))
        self._stem.with_name(self._stem.name + ENTRIES).unlink(missing_ok=True)


def lock(stem: Path) -> int | None:
    """The locked entries of the journal of this stem; None while another process has them.

    For `Journal`, or to be closed. Raises OSError.
    """
    path = stem.with_name(stem.name + ENTRIES)
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, fd)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
            # Whoever had it may have finished, and removed it, while it was opened here.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(fd), path.stat()):
                    stack.pop_all()
                    return fd


def discard(stem: Path) -> None:
    """Remove a journal that this process has locked."""
    for end in (PLANES, ENTRIES):
        stem.with_name(stem.name + end).unlink(missing_ok=True)


def read(path: Path) -> tuple[dict[str, Any], NDArray[np.uint8], list[Entry]]:
    """What the journal with these entries says of itself, its planes and its entries so far.

    Another process may have it: what an entry vouches for is not written again. Raises OSError and
    ValueError.
    """
    with path.open("rb") as file:
        about = _parsed(file.readline())
        entries = [entry for entry, _ in _entries(file)]
    planes = np.load(path.with_suffix(PLANES), mmap_mode="r")
    if not isinstance(about, dict):
        raise ValueError("no journal")
    return about, planes, entries


def _entries(file: Iterator[bytes]) -> Iterator[tuple[Entry, int]]:
    """The entries as far as they are whole, and the bytes of each."""
    for line in file:
        with contextlib.suppress(ValueError, TypeError):
            place, sha256, crc, *broken = _parsed(line)
            code, reason = broken or ("", "")
            yield Entry(place=place, sha256=sha256, crc=crc, code=code, reason=reason), len(line)
            continue
        return


def _line(value: Any) -> bytes:
    text = json.dumps(value).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _parsed(line: bytes) -> Any:
    """What `_line` was given; raises ValueError."""
    text = line[_SUM + 1 : -1]
    if line[-1:] != b"\n" or line[: _SUM + 1] != b"%08x " % zlib.crc32(text):
        raise ValueError("a line that was not finished, or damaged")
    return json.loads(text)
