"""Member: one file inside an archive, and the compact listing of many that a shard stores.

Knows names, offsets and sizes; opens nothing.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

#: `Member.method`: the bytes are stored as they are.
STORED = 0
#: `Member.method`: raw deflate, in a zip.
DEFLATED = 8
#: `Member.method`: a link; its own bytes are only the name of another member.
LINK = -1
#: `Member.method`: a tar member whose bytes are not one plain run (sparse, multi-volume).
SCATTERED = -2

#: Version of the listing that `pack` writes.
LISTING_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One file inside an archive: where its bytes lie and how many they are."""

    #: Name as in the archive, `/` between folders; bytes that are no text are lone surrogates
    #: (`surrogateescape`). Not safe to print or to store as it is: see `display`.
    name: str
    #: Folder: 0. Zip: of the local header, in the file. Tar: of the first byte of data, in the
    #: file. Compressed tar: of the first byte of data, in the uncompressed stream.
    offset: int
    #: Bytes that the data takes in the archive.
    stored: int
    #: Bytes of the file once read. 0 where a folder entry could not be examined.
    size: int
    #: `STORED`, `DEFLATED`, another zip method number, or `LINK` or `SCATTERED` (below zero).
    method: int
    #: CRC-32 of the file, where the archive states one (zip).
    crc: int | None


def passed_over_as(name: str) -> str | None:
    """Why an entry of this name is no film by construction, or None for a member.

    The reasons are the keys of `Source.passed_over`: `directory`, `macos_metadata` (`__MACOSX/`,
    `.DS_Store`, AppleDouble `._*`) and `windows_metadata` (`Thumbs.db`, `desktop.ini`).
    """
    base = name.rpartition("/")[2].rpartition("\\")[2]
    if not base:
        return "directory"
    if "__MACOSX" in name and "__MACOSX" in name.replace("\\", "/").split("/"):
        return "macos_metadata"
    if base[0] == "." and (base.startswith("._") or base == ".DS_Store"):
        return "macos_metadata"
    if base.lower() in ("thumbs.db", "desktop.ini"):
        return "windows_metadata"
    return None


def display(name: str) -> str:
    r"""The name, safe for a database's text column and for a terminal.

    Whatever is not printable is escaped with a backslash: bytes that are no text as `\xNN`,
    control characters (NUL too), line and text-direction marks as Python writes them.
    """
    if name.isprintable():
        return name
    return "".join(c if c.isprintable() else _escaped(c) for c in name)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that surrogateescape carried
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def pack(members: Iterable[Member]) -> bytes:
    """The compressed listing of a shard; about 13 bytes a member for usual names.

    JSON columns, because equal kinds of number lie together; differences in place of offsets and
    sizes, because they are nearly constant; zlib level 1, because listing is on the critical path.
    """
    names, gaps, stored, savings, methods, crcs = [], [], [], [], [], []
    end = 0
    for m in members:
        names.append(m.name)
        gaps.append(m.offset - end)
        stored.append(m.stored)
        savings.append(m.size - m.stored)
        methods.append(m.method)
        crcs.append(m.crc)
        end = m.offset + m.stored
    columns = [LISTING_VERSION, names, gaps, stored, savings, methods, crcs]
    return zlib.compress(json.dumps(columns, separators=(",", ":")).encode("ascii"), 1)


def unpack(listing: bytes) -> list[Member]:
    """The members that `pack` was given; raises ValueError where the bytes are no listing."""
    try:
        version, *columns = json.loads(zlib.decompress(listing))
    except (zlib.error, ValueError, TypeError) as error:
        raise ValueError(f"a shard's listing is damaged: {error}") from error
    if version != LISTING_VERSION:
        raise ValueError(f"a listing of version {version}; this build reads {LISTING_VERSION}")
    members = []
    end = 0
    for name, gap, stored, saving, method, crc in zip(*columns, strict=True):
        offset = end + gap
        end = offset + stored
        members.append(
            Member(
                name=name,
                offset=offset,
                stored=stored,
                size=stored + saving,
                method=method,
                crc=crc,
            )
        )
    return members
