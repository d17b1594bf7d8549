"""What is expensive to make is made once a run, by whichever test process asks for it first."""

from __future__ import annotations

import fcntl
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

#: The folder that all test processes of this run share; None outside of a test run.
_folder: Path | None = None


def share(base: Path) -> None:
    """Share a folder with the run's other processes; `base` is pytest's base of this process."""
    global _folder
    _folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "once"
    _folder.mkdir(exist_ok=True)


def made(name: str, make: Callable[[Path], object]) -> Path:
    """What `make(path)` wrote to a path, file or folder; nobody may change it.

    The other processes wait for the one that makes it. What one failed to make the next one tries
    again.
    """
    if _folder is None:
        raise RuntimeError("no test run shares a folder")
    path = _folder / name
    with (_folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            # A folder of its own: nothing is added to what a process that died left behind.
            unfinished = Path(tempfile.mkdtemp(dir=_folder)) / name
            make(unfinished)
            unfinished.rename(path)
            shutil.rmtree(unfinished.parent)
    return path


def value(name: str, make: Callable[[], T]) -> T:
    """What `make()` returned to the first that asked; outside of a test run it is called."""
    if _folder is None:
        return make()
    path = made(name, lambda path: path.write_bytes(pickle.dumps(make())))
    found: T = pickle.loads(path.read_bytes())  # noqa: S301  # this run wrote it
    return found


def copied(name: str, make: Callable[[Path], object], to: Path) -> None:
    """Copy the file that is made once to a path; outside of a test run make it there."""
    if _folder is None:
        make(to)
    else:
        shutil.copyfile(made(name, make), to)
