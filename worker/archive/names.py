"""Names of members: how they are shown, which are no films, which are unsafe, which came before.

A name is what an archive says, so it may be anything: no text at all, a path that climbs out of the
folder it is unpacked to, or the name of another member.
"""

from __future__ import annotations

import re
import struct
import zlib

import numpy as np
import numpy.typing as npt

from trainer import clutter, spelling

#: Bytes of a path; Linux opens none that is longer.
LONGEST_PATH = 4096

#: A zip's flag of names in UTF-8.
_UTF8 = 0x800

#: The first bytes of the names of clutter that begin as any other, with a bit that makes letters
#: small; by byte, whether others begin with it, and whether it parts folders.
_BEGIN = 4
_WORDS = np.frombuffer(
    b"".join(bytes(byte | 0x20 for byte in name.encode()[:_BEGIN]) for name in clutter.PLAIN), "<u4"
)
_MARKS, _PARTS = (np.isin(np.arange(256), list(of)) for of in (b".~#@$", b"/\\"))

#: What releases up to 0.2.0 skipped.
_SKIPPED_FORMERLY = re.compile(
    r"(?:^|[/\\])(?:(?:__MACOSX|\.AppleDouble|\.Spotlight-V100|\.fseventsd|@eaDir|\$RECYCLE\.BIN"
    r"|System Volume Information|\.Trash[^/\\]*)[/\\]|\._[^/\\]*$|[^/\\]*[/\\]$"
    r"|(?i:\.ds_store|thumbs\.db|ehthumbs\.db|desktop\.ini|\.directory)$)|^$"
)

#: Characters that are kept of each end of a path that is too long.
_KEPT = 100


#: Why an entry of this name is no film by construction, or None for a member: the keys of
#: `Source.skipped`.
skipped_as = clutter.reason


def of_zip(raw: bytes, flags: int, extra: bytes) -> str:
    """The name of a zip's member: UTF-8 where the entry says so (a flag, or Info-ZIP's Unicode
    field) or its bytes are; else code page 437."""
    if flags & _UTF8:
        return raw.decode("utf-8", "surrogateescape")
    field = field_of(extra, 0x7075)
    # Version 1, then the CRC of the plain name: it is stale where a program renamed the entry.
    if field[:5] == b"\x01" + zlib.crc32(raw).to_bytes(4, "little"):
        return field[5:].decode("utf-8", "surrogateescape")
    try:
        return raw.decode()  # as macOS writes it, which does not say so
    except UnicodeDecodeError:
        return raw.decode("cp437")


def field_of(extra: bytes, wanted: int) -> bytes:
    """One extra field of a zip's entry by its number; empty where it is absent."""
    at = 0
    while at + 4 <= len(extra):
        number, length = struct.unpack_from("<2H", extra, at)
        if number == wanted:
            return extra[at + 4 : at + 4 + length]
        at += 4 + length
    return b""


def are_plain(text: bytes, starts: npt.NDArray[np.intp], ends: npt.NDArray[np.intp]) -> bool:
    """Whether the names that lie in a text from `starts` to `ends` are all ASCII, and none clutter.

    False also where one only looks so.
    """
    data = np.frombuffer(text, np.uint8)
    edges = np.zeros(len(data) + 1, np.int8)
    edges[starts] += 1
    edges[ends] -= 1
    names = data[np.cumsum(edges[:-1], dtype=np.int8).view(bool)]
    if (names > 127).any():
        return False
    begins = np.concatenate(
        (np.cumsum(ends - starts) - (ends - starts), np.flatnonzero(_PARTS[names]) + 1)
    )
    padded = np.concatenate((names, np.zeros(_BEGIN, np.uint8)))
    first = padded[begins[:, None] + np.arange(_BEGIN)]
    words = (first | 0x20).view("<u4")[:, 0]
    return not (_MARKS[first[:, 0]] | np.isin(words, _WORDS)).any()


def as_formerly(raw: bytes, flags: int, extra: bytes) -> bool:
    """Whether releases up to 0.2.0 read this name of a zip's member so, and skipped it if it is
    skipped now."""
    name = of_zip(raw, flags, extra)
    if not (raw.isascii() or flags & _UTF8):
        field = field_of(extra, 0x7075)[5:].decode("utf-8", "replace")
        if name not in (raw.decode("cp437"), field):
            return False
    return skipped_as(name) is None or _SKIPPED_FORMERLY.search(name) is not None


def formerly(name: str) -> str:
    """How releases up to 0.2.0 read a UTF-8 name of a zip that does not say that it is UTF-8."""
    return name if name.isascii() else name.encode("utf-8", "surrogateescape").decode("cp437")


def known_as(name: str) -> tuple[str, ...]:
    """The names by which a member may have been listed before, its own first: by an older release,
    or by a list that writes it otherwise."""
    if name.isascii():
        return (name,)
    return tuple(dict.fromkeys((name, formerly(name), *spelling.spellings(name))))


def place(name: str) -> tuple[str, ...]:
    """Where a file stands in the listing of a folder, which goes depth first by name."""
    return tuple(name.split("/"))


def unsafe(name: str) -> bool:
    """Whether an archive's name for a member is absolute or climbs out of the archive.

    Nothing is ever unpacked to disk, so such a name does no harm here. But nobody packs films that
    way by accident, and the name would do harm to whoever unpacks by it.
    """
    if name[:1] in ("/", "\\") or name[1:2] == ":":
        return True
    return ".." in name and ".." in name.replace("\\", "/").split("/")


def fits(path: str) -> bool:
    """Whether a path is short enough to be opened anywhere."""
    if len(path) <= LONGEST_PATH // 4:
        return True
    return len(path.encode("utf-8", "surrogateescape")) <= LONGEST_PATH


def shortened(path: str) -> str:
    """Both ends of a path that is too long: where it begins, and what kind of file it names."""
    return f"{path[:_KEPT]}…{path[-_KEPT:]}"


class Seen:
    """Which names came before, in 8 bytes each.

    Names are told apart by their 64-bit hash, with a key of this process, so that no archive can be
    made to collide: among a million names two would be mistaken for one in 1 of 37 million
    archives. The hashes lie in sorted runs of which each is larger than the next, and are merged as
    they grow: numpy does the rest.
    """

    def __init__(self) -> None:
        self._runs: list[npt.NDArray[np.int64]] = []

    @property
    def nbytes(self) -> int:
        """Bytes that the hashes take."""
        return sum(run.nbytes for run in self._runs)

    def again(self, names: list[str]) -> npt.NDArray[np.intp]:
        """The indexes of those that are not the first of their name, ascending."""
        hashes = np.fromiter(map(hash, names), np.int64, len(names))
        run, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
        known = np.zeros(len(run), bool)
        for earlier in self._runs:
            at = np.searchsorted(earlier, run)
            at[at == len(earlier)] = 0
            known |= earlier[at] == run
        if not known.all():
            self._runs.append(run[~known])
        while len(self._runs) > 1 and 2 * len(self._runs[-1]) >= len(self._runs[-2]):
            last = self._runs.pop()
            merged = np.concatenate((self._runs.pop(), last))
            merged.sort()
            self._runs.append(merged)
        repeated = known[inverse]
        repeated |= first[inverse] != np.arange(len(names))
        return np.flatnonzero(repeated)


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
