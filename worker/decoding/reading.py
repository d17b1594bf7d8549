"""One film inside a decoder process: from its archive to its pixels, or to what is wrong with it.

Knows nothing of the parent.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.errors import FilmError, FilmRefused
from trainer.film import content as film_content
from trainer.film import rules
from worker import archive
from worker.archive import trouble
from worker.decoding.protocol import CONTENT_BYTES, NO_CONTENT, Failure, Request, Source
from worker.errors import ArchiveError, MemberError

_TOO_LARGE = Failure(
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


class Sources:
    """The reader of the archive that was read last; shards of one job follow each other."""

    def __init__(self) -> None:
        self._source: Source | None = None
        self._reader: archive.Reader | None = None
        #: Whether the system refused a member: what is open may be of a share that is gone.
        self._doubtful = False

    @contextlib.contextmanager
    def open(
        self, source: Source, window_fd: int | None
    ) -> Iterator[archive.Reader | ArchiveError]:
        """A reader, or the ArchiveError that there is instead of one."""
        if window_fd is not None:
            window = archive.ExtentReader(window_fd, base=source.base, owned=True)
            try:
                yield window
            finally:
                window.close()
            return
        if self._source != source or self._doubtful:
            if self._reader is not None:
                self._reader.close()
            self._source, self._reader, self._doubtful = None, None, False
            try:
                self._reader = archive.open_reader(source.kind, source.uri)
            except ArchiveError as error:
                yield error
                return
            self._source = source
        assert self._reader is not None
        yield self._reader

    def read(
        self,
        reader: archive.Reader | ArchiveError,
        member: archive.Member,
        tags: dict[str, str],
    ) -> Read:
        """A film's bytes, or what is wrong with it."""
        if isinstance(reader, ArchiveError):
            return Read(failure=_failure(reader), whose=trouble.whose(reader))
        try:
            data = reader.read(member)
            content = hashlib.blake2b(data, digest_size=CONTENT_BYTES).digest()
        except MemberError as error:
            self._doubtful |= bool(error.whose)
            return Read(failure=_failure(error), whose=error.whose)
        except MemoryError:
            return Read(failure=_TOO_LARGE)
        if data[128:132] == b"DICM":
            # Whatever else it holds or hides, its name may be a patient's.
            tags["format"] = "DICOM"
        return Read(content=content, data=data)


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
        return _TOO_LARGE
    return None


def _failure(error: ArchiveError | MemberError | FilmError) -> Failure:
    return Failure(error.code, str(error), isinstance(error, FilmRefused))
