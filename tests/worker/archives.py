"""Archives that tests make, and how they list and read them."""

from __future__ import annotations

import io
import os
import random
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zstandard

from worker import archive
from worker.errors import ArchiveError, MemberError

#: Name → bytes: text that deflates, noise that does not, an empty file, deep folders, no extension.
FILES = {
    "NORMAL/IM-0001.jpeg": random.Random(1).randbytes(30_000),
    "NORMAL/IM-0002.jpeg": b"a film that deflates well " * 2_000,
    "PNEUMONIA/bacteria/deep/er/person1.jpeg": random.Random(2).randbytes(70_000),
    "PNEUMONIA/empty.jpeg": b"",
    "no-extension": b"x",
    "größe Ä.png": b"umlauts",
}


def as_folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def as_zip(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as out:
        for name, data in files.items():
            out.writestr(name, data)
    return path


def as_tar_zst(path: Path, files: dict[str, bytes]) -> Path:
    path.write_bytes(
        zstandard.ZstdCompressor(write_checksum=True).compress(as_tar(path, files).read_bytes())
    )
    return path


def as_tar(path: Path, files: dict[str, bytes], compress: str = "") -> Path:
    with tarfile.open(path, f"w:{compress}") as out:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return path


def chained(depth: int) -> bytes:
    """A tar that begins with so many headers in a row of which each is the next one's long name."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2
    link = info.tobuf(tarfile.GNU_FORMAT) + b"x\0" + bytes(510)
    film = tarfile.TarInfo("film.png")
    return link * depth + film.tobuf(tarfile.GNU_FORMAT) + bytes(1024)


def sparse(name: str, size: int, data: bytes) -> bytes:
    """A sparse file of `size` bytes as GNU tar writes it: a header, and the data at its start."""
    info = tarfile.TarInfo(name)
    info.type, info.size = tarfile.GNUTYPE_SPARSE, len(data)
    head = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    head[386:410] = b"%011o\0%011o\0" % (0, len(data))
    head[483:495] = b"%011o\0" % size
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + data + bytes(-len(data) % 512)


MAKERS: dict[str, Callable[[Path, dict[str, bytes]], Path]] = {
    "folder": as_folder,
    "zip": as_zip,
    "zip stored": lambda p, f: as_zip(p, f, zipfile.ZIP_STORED),
    "tar": as_tar,
    "tar.gz": lambda p, f: as_tar(p, f, "gz"),
    "tar.zst": as_tar_zst,
}


def listed(path: Path) -> list[archive.Member]:
    with archive.open_source(str(path)) as source:
        return list(source.members())


@contextmanager
def reading(path: Path) -> Iterator[archive.Reader]:
    """A reader, whatever the kind: a compressed tar through one window of the whole stream."""
    kind = archive.kind(str(path))
    if kind not in archive.WINDOWED:
        reader = archive.open_reader(kind, str(path))
        yield reader
        reader.close()
        return
    end = max(m.offset + m.size for m in listed(path))
    spool = archive.open_spool(archive.kind(str(path)), str(path), None)
    fd = spool.window([(0, end)])
    yield archive.ExtentReader(fd)
    os.close(fd)
    spool.close()


def contents(path: Path) -> dict[str, bytes]:
    with reading(path) as reader:
        return {m.name: reader.read(m) for m in listed(path)}


def refusal(path: Path) -> ArchiveError:
    """The error that the whole archive is refused with, on opening or while listing."""
    with pytest.raises(ArchiveError) as caught:
        listed(path)
    assert str(path) in str(caught.value)
    return caught.value


def failure(path: Path, member: archive.Member | None = None, **options: int) -> MemberError:
    """The error of reading one member (the first), given by name."""
    with reading(path) as reader, pytest.raises(MemberError) as caught:
        reader.read(member or listed(path)[0], **options)
    return caught.value


def lock(path: Path) -> None:
    """Take all permissions away; skip the test where that stops nobody."""
    path.chmod(0)
    if os.access(path, os.R_OK):
        path.chmod(0o700)
        pytest.skip("this user may read everything")


def patched(path: Path, where: bytes, skip: int, new: bytes, *, last: bool = True) -> Path:
    """Overwrite bytes `skip` after a signature."""
    data = bytearray(path.read_bytes())
    at = (data.rindex(where) if last else data.index(where)) + skip
    data[at : at + len(new)] = new
    path.write_bytes(data)
    return path
