"""Archives: their members are listed as a stream and read in place; nothing is unpacked to disk.

The process that plans a job lists (`open_source`); decoder processes read (`open_reader`), or read
windows that their parent inflated (`open_spool`, `ExtentReader`). Knows nothing of the database,
the queue, or images.
"""

from __future__ import annotations

from pathlib import Path

from worker.archive.folder import FileSource, FolderReader, FolderSource
from worker.archive.kind import SUPPORTED, kind
from worker.archive.member import (
    DEFLATED,
    LINK,
    SCATTERED,
    STORED,
    Member,
    display,
    pack,
    unpack,
)
from worker.archive.source import MAX_BYTES, Kind, Reader, Source
from worker.archive.tar import ExtentReader, TarSource
from worker.archive.targz import MAX_WINDOW, Spool, TarGzSource
from worker.archive.zip import ZipReader, ZipSource

__all__ = [
    "DEFLATED",
    "LINK",
    "MAX_BYTES",
    "MAX_WINDOW",
    "SCATTERED",
    "STORED",
    "SUPPORTED",
    "ExtentReader",
    "Kind",
    "Member",
    "Reader",
    "Source",
    "Spool",
    "display",
    "kind",
    "open_reader",
    "open_source",
    "open_spool",
    "pack",
    "unpack",
]


def open_source(uri: str) -> Source:
    """The archive at a path, ready to be listed; raises ArchiveError."""
    match kind(uri):
        case "folder":
            return FolderSource(uri)
        case "file":
            return FileSource(uri)
        case "zip":
            return ZipSource(uri)
        case "tar":
            return TarSource(uri)
        case "tar.gz":
            return TarGzSource(uri)


def open_reader(kind: Kind, uri: str) -> Reader:
    """A reader of an archive of known kind, for a decoder process; raises ArchiveError.

    A compressed tar is read through windows instead: see `open_spool`.
    """
    match kind:
        case "folder":
            return FolderReader(uri)
        case "file":
            return FolderReader(str(Path(uri).absolute().parent))
        case "zip":
            return ZipReader(uri)
        case "tar":
            return ExtentReader.open(uri)
        case "tar.gz":
            raise ValueError("a compressed tar is read through open_spool(uri, index).window(…)")


def open_spool(uri: str, index: bytes | None) -> Spool:
    """Windows into a compressed tar, by the index made when it was listed.

    Without an index every window is inflated from the beginning. Raises ArchiveError where the
    archive is not the one that the index was made of.
    """
    return Spool(uri, index)
