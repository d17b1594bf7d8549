"""Member: one file inside an archive, and the compact listing of many that a shard stores.

Knows names, offsets and sizes; opens nothing.
"""

from __future__ import annotations

import json
import operator
import zlib
from collections.abc import Sequence
from typing import NamedTuple

#: `Member.method`: the bytes are stored as they are.
STORED = 0
#: `Member.method`: raw deflate, in a zip.
DEFLATED = 8
#: `Member.method`: a link; its own bytes are only the name of another member.
LINK = -1
#: `Member.method`: a tar member whose bytes are not one plain run (sparse, multi-volume).
SCATTERED = -2
#: `Member.method`: a name that is absolute or climbs out of the archive; not read.
UNSAFE = -3
#: `Member.method`: an earlier member has the same name; not read, since either may be meant.
DUPLICATE = -4
#: `Member.method`: where a list names a file there is a folder or a special file, or the path is
#: too long to be one.
NO_FILE = -5

#: `Member.crc` of a file by itself that the system did not let be examined: its size is not known.
UNEXAMINED = 0

#: Version of the listing that `pack` writes.
LISTING_VERSION = 1


class Member(NamedTuple):
    """One file inside an archive: where its bytes lie and how many they are.

    A tuple, because an archive may have millions; still it is made by keyword, save in hot loops.
    """

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
    #: CRC-32 of the file, where the archive states one (zip); of a file by itself None or
    #: `UNEXAMINED`.
    crc: int | None


def pack(members: Sequence[Member]) -> bytes:
    """The compressed listing of a shard; about 13 bytes a member for usual names.

    JSON columns, because equal kinds of number lie together; differences in place of offsets and
    sizes, because they are nearly constant; zlib level 1, because listing is on the critical path.
    """
    names, offsets, stored, sizes, methods, crcs = list(zip(*members, strict=True)) or [()] * 6
    ends = [0, *map(operator.add, offsets, stored)]
    gaps = list(map(operator.sub, offsets, ends))
    savings = list(map(operator.sub, sizes, stored))
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
        members.append(Member(name, offset, stored, stored + saving, method, crc))
    return members
