"""Opening an archive: to list it, or to read it, by its kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from worker.archive import trouble
from worker.archive.filelist import KeptSource, ListSource, NamedSource
from worker.archive.folder import FileSource, FolderReader, FolderSource, ListReader
from worker.archive.glob import GlobSource, base_of
from worker.archive.gz import GzipStream, TarGzSource
from worker.archive.kind import kind as _kind
from worker.archive.source import BY_NAME, Kind, Reader, Source, open_file
from worker.archive.spool import Spool
from worker.archive.stream import Point, Stream, unpack_points
from worker.archive.tar import ExtentReader, TarSource
from worker.archive.zip import ZipReader, ZipSource
from worker.archive.zst import TarZstSource, ZstdStream
from worker.errors import ArchiveError

_SOURCES: dict[Kind, type[Source]] = {
    "folder": FolderSource,
    "file": FileSource,
    "zip": ZipSource,
    "tar": TarSource,
    "tar.gz": TarGzSource,
    "tar.zst": TarZstSource,
    "list": ListSource,
    "glob": GlobSource,
}

_STREAMS: dict[Kind, type[Stream]] = {"tar.gz": GzipStream, "tar.zst": ZstdStream}


def open_source(
    uri: str,
    kind: Kind | None = None,
    names: Sequence[str] | None = None,
    listed: bytes | None = None,
) -> Source:
    """The archive at a path, ready to be listed; raises ArchiveError.

    With `names`, the files of a folder that are named so, and no others. With `listed`, the files
    that the list there named when `Source.listed` was asked, also where the list is gone.

    Its kind is told from its content, save that only the caller knows whether a text file is a
    `list` of files, and a path a `glob` pattern. Another kind, where one is given, is demanded.
    """
    if names is not None:
        return NamedSource(uri, names)
    if listed is not None:
        return KeptSource(uri, listed)
    with trouble.at(uri):
        return _open_source(uri, kind)


def _open_source(uri: str, kind: Kind | None) -> Source:
    told: Kind = kind if kind == "list" or kind == "glob" else _kind(uri)
    if kind not in (None, told):
        raise ArchiveError(
            "changed", f"{uri} was changed: it is no longer a {kind} but a {told}; submit again"
        )
    return _SOURCES[told](uri)


def root_of(kind: Kind, uri: str) -> str:
    """Where an archive of a kind lies: its path, or the folder that a pattern begins with."""
    return base_of(uri) if kind == "glob" else uri


def read_as(kind: Kind, *, named: bool) -> Kind:
    """As what a source is read; its files were `named` where no list's file names them."""
    return "folder" if named else kind


def open_reader(kind: Kind, uri: str) -> Reader:
    """A reader of an archive of known kind; raises ArchiveError.

    A compressed tar is read through windows instead: see `open_spool`.
    """
    return open_folder(kind, uri) if kind in BY_NAME else reader_of(kind, open_file(uri))


def open_folder(kind: Kind, uri: str) -> FolderReader:
    """The folder of members that are files of their own (BY_NAME); raises ArchiveError.

    A `list` is a file, which may be gone; the files of a folder that were named are read as a
    `folder`'s (`read_as`).
    """
    with trouble.at(uri):
        match kind:
            case "folder":
                return FolderReader(uri)
            case "glob":
                return FolderReader(base_of(uri))
            case "file":
                return FolderReader(str(Path(uri).absolute().parent))
            case "list":
                return ListReader(str(Path(uri).absolute().parent))
            case _:
                raise ValueError(f"a {kind} is no folder")


def reader_of(kind: Kind, fd: int) -> Reader:
    """A reader of the archive that is open as `fd`, which the reader's `close` closes."""
    match kind:
        case "zip":
            return ZipReader(fd)
        case "tar":
            return ExtentReader(fd, owned=True)
        case _:
            raise ValueError(f"a {kind} is not read as one file; a compressed one by open_spool")


def open_spool(kind: Kind, uri: str, index: bytes | None) -> Spool:
    """Windows into a compressed tar, by the index made when it was listed.

    Without an index the first window is inflated from the beginning. Raises ArchiveError where the
    archive is not the one that the index was made of.
    """
    fd = open_file(uri)
    try:
        with trouble.at(uri):
            points = [Point(0, 0)] if index is None else unpack_points(fd, uri, index)
    except ArchiveError:
        trouble.close(fd)
        raise
    return Spool(fd, uri, _STREAMS[kind], points)
