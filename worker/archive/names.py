"""Names of members: how they are shown, which are clutter, which are unsafe, which came before.

A name is what an archive says, so it may be anything: no text at all, a path that climbs out of the
folder it is unpacked to, or the name of another member.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

#: Bytes of a path; Linux opens none that is longer.
LONGEST_PATH = 4096

#: Characters that are kept of each end of a path that is too long.
_KEPT = 100

#: Files that systems leave behind everywhere, by lower-case name.
_CLUTTER = {
    ".ds_store": "macos_metadata",
    "thumbs.db": "windows_metadata",
    "ehthumbs.db": "windows_metadata",
    "desktop.ini": "windows_metadata",
    ".directory": "linux_metadata",
}

#: Folders that systems leave behind, with all that is in them.
_CLUTTER_FOLDERS = {
    "__MACOSX": "macos_metadata",
    ".AppleDouble": "macos_metadata",
    ".Spotlight-V100": "macos_metadata",
    ".fseventsd": "macos_metadata",
    "@eaDir": "nas_metadata",
    "$RECYCLE.BIN": "trash",
    "System Volume Information": "windows_metadata",
}


def skipped_as(name: str) -> str | None:
    """Why an entry of this name is no film by construction, or None for a member.

    The reasons are the keys of `Source.skipped`: `directory`, `macos_metadata` (`__MACOSX/`,
    `.DS_Store`, AppleDouble `._*`), `windows_metadata` (`Thumbs.db`, `desktop.ini`),
    `linux_metadata` (`.directory`), `nas_metadata` (`@eaDir/`) and `trash` (`.Trash*/`,
    `$RECYCLE.BIN/`).
    """
    folder, _, base = name.rpartition("/")
    if "\\" in base:
        folder, base = name.replace("\\", "/").rpartition("/")[::2]
    if not base:
        return "directory"
    if folder and (reason := _folder_skipped_as(folder)):
        return reason
    if base[0] == "." and base.startswith("._"):
        return "macos_metadata"
    return _CLUTTER.get(base.lower())


@functools.lru_cache(maxsize=1024)
def _folder_skipped_as(folder: str) -> str | None:
    for part in folder.replace("\\", "/").split("/"):
        if part in _CLUTTER_FOLDERS:
            return _CLUTTER_FOLDERS[part]
        if part.startswith(".Trash"):
            return "trash"
    return None


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
