"""Clutter: what desktops, file servers and notebooks leave among films, told by its name.

The one list of it: what trains, checks, watches and scores skips the same names, so that a folder
has the same films for all of them. Names are those below what a person gave: that itself may be
called anything.
"""

from __future__ import annotations

import functools

#: Files, by lower-case name.
_FILES = {
    ".ds_store": "macos_metadata",
    "icon\r": "macos_metadata",
    "thumbs.db": "windows_metadata",
    "ehthumbs.db": "windows_metadata",
    "ehthumbs_vista.db": "windows_metadata",
    "desktop.ini": "windows_metadata",
    "picasa.ini": "windows_metadata",
    ".directory": "linux_metadata",
}

#: Folders, by lower-case name, with all that is in them.
_FOLDERS = {
    "__macosx": "macos_metadata",
    ".appledouble": "macos_metadata",
    ".appledb": "macos_metadata",
    ".appledesktop": "macos_metadata",
    ".spotlight-v100": "macos_metadata",
    ".fseventsd": "macos_metadata",
    ".documentrevisions-v100": "macos_metadata",
    ".temporaryitems": "macos_metadata",
    "temporary items": "macos_metadata",
    "network trash folder": "trash",
    "system volume information": "windows_metadata",
    "lost+found": "linux_metadata",
    "@eadir": "nas_metadata",
    "@tmp": "nas_metadata",
    ".@__thumb": "nas_metadata",
    "#recycle": "trash",
    "@recycle": "trash",
    "$recycle.bin": "trash",
    "recycler": "trash",
    "#snapshot": "snapshot",
    ".snapshot": "snapshot",
    ".snapshots": "snapshot",
    "~snapshot": "snapshot",
    ".zfs": "snapshot",
    "@recently-snapshot": "snapshot",
    "recycled": "trash",
    "network recycle bin": "trash",
    "found.000": "windows_metadata",
    "__pycache__": "notebook",
    ".ipynb_checkpoints": "notebook",
}


#: What `reason` may answer.
REASONS = frozenset({*_FILES.values(), *_FOLDERS.values(), "hidden"})

#: What the names of other files begin with.
_MARKS = frozenset(".~")

#: The last letters of files that begin with no mark: others need no look at the list.
_LAST = frozenset("".join(name[-1] + name[-1].upper() for name in _FILES))

#: Those, in lower case, whose names begin as any other.
PLAIN = tuple(name for name in (*_FILES, *_FOLDERS) if name[0].isalnum() or name[0] == "_")


def reason(path: str) -> str | None:
    r"""Why a path, with `/` or `\` between folders, is not that of a film; None where it may be.

    `directory` where it ends with what parts folders; for clutter one of REASONS:
    `macos_metadata` (`__MACOSX/`, `.DS_Store`, AppleDouble `._*`), `windows_metadata` (`Thumbs.db`,
    `desktop.ini`, `System Volume Information/`), `linux_metadata` (`lost+found/`), `nas_metadata`
    (`@eaDir/`), `trash` (`#recycle/`, `$RECYCLE.BIN/`, `.Trash*/`), `snapshot` (`.snapshot/`),
    `notebook` (`.ipynb_checkpoints/`), or `hidden` (any other name that begins with one dot).
    """
    folder, _, base = path.rpartition("/")
    if "\\" in base:
        folder, base = path.replace("\\", "/").rpartition("/")[::2]
    if not base:
        return "directory"
    if folder and (found := _of_folders(folder)):
        return found
    if base[:1] in _MARKS:
        return of_file(base)
    return _FILES.get(base.lower()) if base[-1:] in _LAST else None


def of_file(name: str) -> str | None:
    """Why a file of this name is clutter, wherever it lies."""
    if name[:1] in _MARKS:
        if name.startswith("._"):
            return "macos_metadata"
        if name.startswith("~$"):  # beside a document that is open
            return "windows_metadata"
        if _is_hidden(name):
            return _FILES.get(name.lower(), "hidden")
    return _FILES.get(name.lower()) if name[-1:] in _LAST else None


def of_folder(name: str) -> str | None:
    """Why a folder of this name is clutter, with all that is in it."""
    found = _FOLDERS.get(name.lower())
    if found is None and _is_hidden(name):
        return "trash" if name.startswith(".Trash") else "hidden"
    return found


def _is_hidden(name: str) -> bool:
    # Two dots climb, or are a film's own name.
    return name[:1] == "." and name[1:2] not in ("", ".")


@functools.lru_cache(maxsize=1024)
def _of_folders(path: str) -> str | None:
    return next(filter(None, map(of_folder, path.replace("\\", "/").split("/"))), None)
