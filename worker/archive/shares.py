"""Shares: where what a path leads to is mounted, found out without asking the share."""

from __future__ import annotations

import os
from pathlib import Path

#: File systems of this machine's own disks and memory, whose driver answers with an error where
#: there is no other answer. All others are taken for shares.
_LOCAL = frozenset(
    {
        *("bcachefs", "btrfs", "devtmpfs", "erofs", "exfat", "ext2", "ext3", "ext4", "f2fs"),
        *("iso9660", "ntfs3", "overlay", "proc", "ramfs", "rootfs", "squashfs", "sysfs", "tmpfs"),
        *("vfat", "xfs", "zfs"),
    }
)

#: Links on the way of one path that are followed, as many as the kernel follows.
_LINKS = 40


def share_of(path: str) -> str | None:
    """Where the share is mounted that a path leads to; None where it leads to none.

    Links on the way are followed, and nothing is asked of a share.
    """
    mounts = _mounts()
    rest = [part for part in reversed(os.path.abspath(path).split("/")) if part]  # noqa: PTH100
    at, links = "/", 0
    while True:
        point = at
        while point not in mounts and point != "/":
            point = os.path.dirname(point)  # noqa: PTH120
        if mounts.get(point, "rootfs") not in _LOCAL:
            return point
        if not rest:
            return None
        part = rest.pop()
        if part == "..":
            at = os.path.dirname(at)  # noqa: PTH120
            continue
        below = at.rstrip("/") + "/" + part
        try:
            # What is mounted there is no link, and would have to be asked.
            target = None if below in mounts else os.readlink(below)  # noqa: PTH115
        except (OSError, ValueError):
            target = None
        if target is None:
            at = below
            continue
        links += 1
        if links > _LINKS:
            return None
        if target.startswith("/"):
            at = "/"
        rest += [part for part in reversed(target.split("/")) if part not in ("", ".")]


def _mounts() -> dict[str, str]:
    """Mount point → type of what is mounted there last."""
    found = {}
    try:
        lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return {}
    for line in lines:
        fields, _, tail = line.partition(" - ")
        point = fields.split(" ")[4]
        for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
            point = point.replace(code, character)
        found[point] = tail.split(" ")[0]
    return found
