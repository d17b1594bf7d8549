"""One film inside a decoder process: from its archive to its pixels, or to what is wrong with it.

Knows nothing of the parent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from trainer.data import decoding
from trainer.errors import FilmError, FilmRefused
from trainer.film import content as film_content
from trainer.film import rules
from worker import archive
from worker.archive import trouble
from worker.decoding.opener import Opener, Refused
from worker.decoding.protocol import CONTENT_BYTES, NO_CONTENT, Failure, Hash, Request
from worker.errors import MemberError

#: Of a film that takes more memory than a decoder may have.
TOO_MUCH = Failure(
    "too_large", "decoding it takes more memory than PNEUMOQ_FILM_MEMORY_MB", refused=False
)


class Read(NamedTuple):
    """What reading a film came to."""

    #: Hash of its bytes.
    content: bytes = NO_CONTENT
    #: What is wrong with it, where there are no bytes.
    failure: Failure | None = None
    #: Whose trouble that is, where the system did not let it be read.
    whose: trouble.Whose = ""
    data: bytes | None = None


class Films:
    """The films of one request, each of which is read once, in their order."""

    def __init__(self, request: Request, window_fd: int | None, opener: Opener) -> None:
        """`window_fd` is a compressed archive's window; all else comes from the opener.

        Waits for the opener to open an archive.
        """
        source = request.source
        self._opener = opener
        self._hash = hash_of(request.hash)
        self._refused: Read | None = None
        #: None where each film is a file of its own.
        self._reader: archive.Reader | None = None
        if window_fd is not None:
            self._reader = archive.ExtentReader(window_fd, base=source.base, owned=True)
        elif source.kind not in archive.BY_NAME:
            fd = opener.file()
            if isinstance(fd, Refused):
                self._refused = Read(failure=fd.failure, whose=fd.whose)
            else:
                self._reader = archive.reader_of(source.kind, fd)

    def read(self, member: archive.Member, tags: dict[str, str]) -> Read:
        """A film's bytes, or what is wrong with it."""
        if self._refused is not None:
            return self._refused
        if self._reader is not None:
            found = self._read(self._reader.read, member)
        else:
            fd = self._opener.file()
            if isinstance(fd, Refused):
                return Read(failure=fd.failure, whose=fd.whose)
            found = self._read(partial(archive.read_file, fd), member)
            trouble.close(fd)
        if found.data is not None and found.data[128:132] == b"DICM":
            # Whatever else it holds or hides, its name may be a patient's.
            tags["format"] = "DICOM"
        return found

    def _read(self, read: Callable[[archive.Member], bytes], member: archive.Member) -> Read:
        try:
            data = read(member)
            content = self._hash(data)
        except MemberError as error:
            return Read(failure=_failure(error), whose=error.whose)
        except MemoryError:
            return Read(failure=TOO_MUCH)
        return Read(content=content, data=data)

    def close(self) -> None:
        """Close the archive."""
        if self._reader is not None:
            self._reader.close()


def _blake2b(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=CONTENT_BYTES).digest()


def content_hash(data: bytes) -> bytes:
    """What a database that begins today knows a film by."""
    return blake3(data).digest(CONTENT_BYTES)


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:CONTENT_BYTES]


_HASHES: dict[Hash, Callable[[bytes], bytes]] = {
    "blake3": content_hash,
    "blake2b": _blake2b,
    "sha256": _sha256,
}


def hash_of(which: Hash) -> Callable[[bytes], bytes]:
    """What makes a film's content of its bytes in a database that knows films so."""
    return _HASHES[which]


def reader_of(data: bytes | None) -> tuple[str, int] | None:
    """What reads a film of these bytes here: its kind of file, and the version of the reader."""
    return None if data is None else film_content.reader(data)


def decode(
    data: bytes,
    request: Request,
    pixels: NDArray[np.uint8],
    offset: int,
    tags: dict[str, str],
    overridden: set[str],
) -> Failure | None:
    """Put the film's pixels into their place, or return what is wrong with it."""
    side = request.size
    out = pixels[offset : offset + side * side]
    try:
        rules.decode(data, side, request.rule, out, request.accept, tags, overridden)
    except FilmError as error:
        return _failure(error)
    except MemoryError:
        return TOO_MUCH
    return None


def sides(data: bytes) -> tuple[Failure | None, tuple[int, int] | None]:
    """Width and height of a film that was decoded, as stored; or what is wrong with it."""
    try:
        found = decoding.stored_as(data)
    except MemoryError:
        return TOO_MUCH, None
    return None, (found.width, found.height)


def _failure(error: MemberError | FilmError) -> Failure:
    return Failure(error.code, str(error), isinstance(error, FilmRefused))
