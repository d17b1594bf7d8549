"""Files and folders that appear in one step: after a crash there is the old one or the new one.

Until then what is written has a hidden name beside it, `.NAME.` and something random; a killed
process leaves it behind.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path


def replace(path: Path, data: bytes) -> None:
    """Replace `path` by `data` in one step; raises OSError."""
    with replacing(path) as part:
        part.write_bytes(data)


@contextlib.contextmanager
def replacing(
    path: Path, *, private: bool = False, sync: bool = False, previous: Path | None = None
) -> Iterator[Path]:
    """An empty file to write to, which replaces `path` when the block ends without an error.

    `private`: readable to nobody else. `sync`: on the disk before it replaces anything, for a
    machine that is switched off at the wall. With `previous` the old file is kept under that name
    (after a crash perhaps under that name alone). Raises OSError.
    """
    part = _beside(path)
    try:
        mode = 0o600 if private else 0o666
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode))
        yield part
        if sync:
            _sync(part)
        if previous is not None and path.exists():
            path.replace(previous)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """An empty folder to fill, which becomes `path` when the block ends without an error.

    There must be nothing at `path`, or an empty folder. Raises OSError.
    """
    part = _beside(path.absolute())
    part.mkdir()
    try:
        yield part
        part.replace(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def is_part_of(part: Path, path: Path) -> bool:
    """Whether a file beside `path` is what was to replace it."""
    return part.name.startswith(_prefix(path))


def _beside(path: Path) -> Path:
    return path.with_name(f"{_prefix(path)}{uuid.uuid4().hex}")


def _prefix(path: Path) -> str:
    # Names have at most 255 bytes.
    return f".{os.fsdecode(os.fsencode(path.name)[:200])}."


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
