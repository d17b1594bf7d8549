"""What an archive is, told from its content; extensions are not trusted.

A file that is no archive is refused with what it seems to be, because the usual cause is a download
that fetched something else.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from worker.archive import trouble
from worker.archive.gz import GzipStream
from worker.archive.source import Kind, open_file, pread
from worker.archive.stream import Point, Stream
from worker.archive.tar import BLOCK, looks_like_tar
from worker.archive.zip import has_end
from worker.archive.zst import MAGIC, SKIPPED, ZstdStream
from worker.errors import ArchiveError

SUPPORTED = "a folder, a .zip, a .tar, a .tar.gz, a .tar.zst, or one image file"

#: An empty tar is nothing but zero bytes: two blocks, or GNU tar's record of twenty.
_EMPTY_TAR = (2 * BLOCK, 20 * BLOCK)

#: Images, by offset and first bytes; whether it can be decoded is the film rule's business.
_IMAGES = (
    (0, b"\xff\xd8\xff"),
    (0, b"\x89PNG"),
    (0, b"BM"),
    (0, b"GIF8"),
    (0, b"II*\x00"),
    (0, b"MM\x00*"),
    (8, b"WEBP"),
    (128, b"DICM"),
)

#: What people pass by mistake, by first bytes, and what to do about it.
_OTHERS = (
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; pack it again as .zip"),
    (b"Rar!", "a RAR archive; pack it again as .zip"),
    (b"\xfd7zXZ", "xz-compressed; decompress it first with `xz -d`"),
    (b"BZh", "bzip2-compressed; decompress it first with `bzip2 -d`"),
    (b"%PDF", "a PDF document"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself; run `git lfs pull`"),
)

#: Others that are told by bytes further on.
_FURTHER = (
    (32_769, b"CD001", "an ISO image of a disc; mount it (`mount -o loop`), and give the folder"),
    (32_769, b"BEA01", "an image of a disc (UDF); mount it (`mount -o loop`), and give the folder"),
)

#: A name of one part of an archive that was split; its number or letters are the last group.
_PART = re.compile(
    r"\.(?:zip|7z|rar|tar|tgz|gz|zst)\.(\d{2,4}|a[a-z])$|\.part(\d+)\.rar$|\.[rz](\d\d)$",
    re.IGNORECASE,
)

#: Parts that come first.
_FIRST = re.compile(r"0*[01]|a+")

#: How an answer of several parts begins: a line that parts them, and what the first part is.
_MULTIPART = re.compile(
    rb"\s*--[^\r\n]{1,200}\r?\n(?:[\w-]+:[^\r\n]*\r?\n)*Content-", re.IGNORECASE
)

_WEB_PAGE = (b"<!doctype html", b"<html", b"<?xml", b"<head", b"<body")


def kind(uri: str) -> Kind:
    """What lies at a path; raises ArchiveError where it is nothing that can be listed."""
    try:
        mode = Path(uri).stat().st_mode
    except (OSError, ValueError) as error:
        raise trouble.at_root(uri, error) from error
    if stat.S_ISDIR(mode):
        return "folder"
    if not stat.S_ISREG(mode):
        raise _unsupported(uri, "neither a file nor a folder")
    fd = open_file(uri)
    try:
        return _kind_of_file(fd, uri)
    except OSError as error:
        raise trouble.at_root(uri, error) from error
    finally:
        trouble.close(fd)


def _kind_of_file(fd: int, uri: str) -> Kind:
    head = pread(fd, 2 * BLOCK, 0)
    if not head:
        raise ArchiveError(
            "empty", f"{uri}: the file is empty (0 bytes); copy or download it again"
        )
    if any(head[at : at + len(magic)] == magic for at, magic in _IMAGES):
        return "file"
    _check_whole(fd, uri, head)
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08"):
        return "zip"
    if head[:2] == b"\x1f\x8b":
        if _holds_tar(GzipStream(fd, uri, Point(0, 0))):
            return "tar.gz"
        raise _unsupported(uri, "gzip-compressed, but no tar is inside; decompress it first")
    if head[:4] == MAGIC or (head[1:4] == SKIPPED and head[0] >> 4 == 5):
        if _holds_tar(ZstdStream(fd, uri, Point(0, 0))):
            return "tar.zst"
        raise _unsupported(uri, "Zstandard-compressed, but no tar is inside; decompress it first")
    if looks_like_tar(head):
        return "tar"
    if len(head) < BLOCK and head[257:262] == b"ustar":
        raise ArchiveError(
            "truncated",
            f"{uri}: the tar ends within its first header, so it was cut short: copy or download "
            "it again",
        )
    for at, magic, what in _FURTHER:
        if pread(fd, len(magic), at) == magic:
            raise _unsupported(uri, what)
    if not any(head):
        if os.fstat(fd).st_size in _EMPTY_TAR:
            return "tar"
        raise _unsupported(uri, "zero bytes at its beginning, as an unfinished download has")
    for magic, what in _OTHERS:
        if head.startswith(magic):
            raise _unsupported(uri, what)
    if _MULTIPART.match(head):
        raise _unsupported(
            uri,
            "an answer of several parts, as DICOMweb (WADO-RS) gives it, saved as one file; save "
            "each part as a file of its own (dicomweb-client does), and give the folder",
        )
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_WEB_PAGE):
        raise _unsupported(uri, "a web page, as a download makes that needed a login")
    if has_end(fd):  # a program that unpacks itself, with the zip behind it
        return "zip"
    if not any(byte < 32 and byte not in b"\t\r\n\f" for byte in head):
        raise _unsupported(uri, "a text; to score the files that it names, give it by --list")
    raise _unsupported(uri, f"a file that begins with {head[:12]!r}")


def _check_whole(fd: int, uri: str, head: bytes) -> None:
    """Raise ArchiveError for one part of an archive that was split, by its name.

    A first part may be all there is: of a zip that is seen at its end.
    """
    name = Path(uri).name
    match = _PART.search(name)
    if match is None:
        return
    is_first = _FIRST.fullmatch(match[match.lastindex or 0]) is not None
    if is_first and head[:2] == b"PK" and has_end(fd):
        return
    if match[3] and name[match.start() + 1] in "zZ":
        advice = "join the parts first: `zip -s 0 first.zip --out whole.zip`"
    elif match[1]:
        whole = name[: -len(match[1]) - 1]
        advice = f"join the parts first: `cat {whole}.* > {whole}`"
    else:
        advice = "unpack it from its first part, and give the folder"
    raise ArchiveError("multi_disk", f"{uri}: one part of an archive that was split; {advice}")


def _holds_tar(stream: Stream) -> bool:
    """Whether a compressed stream begins as a tar does; inflates no more than that."""
    head = b""
    while len(head) < BLOCK and (more := stream.read(BLOCK - len(head))):
        head += more
    return looks_like_tar(head) or (len(head) == BLOCK and not any(head))


def _unsupported(uri: str, what: str) -> ArchiveError:
    return ArchiveError("unsupported", f"{uri}: this is {what}. What can be read: {SUPPORTED}")
