"""The processes that a process has started."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path


def children(parent: int, command: str) -> list[int]:
    """Child processes whose command line holds this text, without those that have ended."""
    found = []
    for pid, ppid in _running():
        try:
            command_line = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue  # it ended meanwhile
        if ppid == parent and command.encode() in command_line:
            found.append(pid)
    return found


def descendants(of: Collection[int]) -> set[int]:
    """What these processes have started, and what those have."""
    parents = dict(_running())
    found: set[int] = set()
    while more := {pid for pid, ppid in parents.items() if ppid in {*of, *found}} - found:
        found |= more
    return found


def alive(pids: Collection[int]) -> list[int]:
    """Those of these processes that have not ended."""
    running = dict(_running())
    return [pid for pid in pids if pid in running]


def _running() -> Iterator[tuple[int, int]]:
    """Number and parent of each process that has not ended."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, ppid = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue  # it ended meanwhile
        if state != "Z":
            yield int(folder.name), int(ppid)
