"""What is expensive to make is made once a run, by whichever test process asks for it first."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path


def folder(base: Path) -> Path:
    """The folder that all processes of this run share; `base` is pytest's base of this process."""
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "once"
    shared.mkdir(exist_ok=True)
    return shared


def made(folder: Path, name: str, make: Callable[[Path], object]) -> Path:
    """What `make(path)` wrote to a path, file or folder; nobody may change it.

    The other processes wait for the one that makes it. What one failed to make the next one tries
    again.
    """
    path = folder / name
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            # A name of its own: what a process that died left behind is not added to.
            unfinished = folder / f"unfinished-{os.getpid()}" / name
            unfinished.parent.mkdir(exist_ok=True)
            make(unfinished)
            unfinished.rename(path)
    return path
