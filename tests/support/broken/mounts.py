"""Disks and shares that fail: real mounts, to be broken by tests. They need root.

`share` mounts a small file system in user space (FUSE) over a folder: what lies in that folder can
be read through it, until the test has it answer with errors, late, or not at all. `disk` mounts an
empty tmpfs, which can be taken away and put back, so that its mount point is empty without an
error. `without` is a command prefix that starts a process in a mount namespace of its own, in which
a mount point is empty while everybody else sees what is there.

Everything is unmounted at the end, whatever hangs: whoever waits for a share then gets an error.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.absent import absent
from tests.support.paths import ROOT

#: Longest wait for a file system to be there or to do as it is told, in seconds.
PATIENCE_S = 20.0

_MNT_DETACH = 2

#: What can be made to fail: looking an entry up (also examining it), opening a file, reading it,
#: and listing a folder. `close`, a file's, may be named besides: whoever closes it hangs too.
OPERATIONS = ("examine", "open", "read", "list")


def needed() -> None:
    """Skip the test where nothing can be mounted, saying why; in CI fail it."""
    if os.geteuid() != 0:
        absent("mounting needs root: run the tests as root")
    if not Path("/dev/fuse").exists():
        absent("there is no /dev/fuse: load the kernel's module fuse")
    if shutil.which("unshare") is None or shutil.which("umount") is None:
        absent("unshare and umount are not installed: apt-get install util-linux mount")
    # Whether it is allowed is known only by trying: containers often may not.
    tried = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"],
        capture_output=True,
        text=True,
    )
    if tried.returncode != 0:
        absent(f"this machine does not allow mounting: {tried.stderr.strip()}")


class Share:
    """A share over a folder, and what it is told. Made by `share`."""

    def __init__(self, folder: Path, at: Path, log: Path) -> None:
        #: What can be read through it.
        self.folder = folder
        #: Where it is mounted.
        self.at = at
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    @property
    def mounted(self) -> bool:
        """Whether it is there."""
        return self._process is not None

    def mount(self) -> None:
        """Put it there, in good order."""
        if self._process is not None:
            raise RuntimeError("it is mounted already")
        self._control, theirs = socket.socketpair()
        self._control.settimeout(PATIENCE_S)
        with theirs, self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    "setpriv", "--pdeathsig", "KILL", "--",
                    sys.executable, "-m", "tests.support.broken.fuse",
                    str(self.folder), str(self.at), str(theirs.fileno()),
                ],
                pass_fds=[theirs.fileno()],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )  # fmt: skip
        self._answered()

    def unmount(self) -> None:
        """Take it away: its mount point is an empty folder. Who waits for it gets ENOTCONN."""
        if self._process is None:
            return
        assert self._control is not None
        self._process.kill()
        self._process.wait()
        self._process = None
        self._control.close()
        unmount(self.at)

    def die(self) -> None:
        """End what serves it, and leave the mount there: all that is asked of it is ENOTCONN."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def errs(
        self,
        number: int = errno.EIO,
        *,
        names: str = "*",
        on: Sequence[str] = OPERATIONS,
        after: int = 0,
        every: int = 1,
    ) -> None:
        """Answer with an errno.

        That is for entries whose path below the share matches the pattern `names` (`*` is all of
        them, the share's root too, which is `.`), for these OPERATIONS, after so many of them have
        gone well; and of those at one entry for one of so many (`every`), not the same for all.
        """
        self._tell(
            {"errno": number, "names": names, "on": list(on), "after": after, "every": every}
        )

    def delays(
        self,
        seconds: float | None,
        *,
        names: str = "*",
        on: Sequence[str] = OPERATIONS,
        after: int = 0,
        every: int = 1,
    ) -> None:
        """Answer rightly, but so late (None: not at all); the rest is as of `errs`."""
        self._tell(
            {"seconds": seconds, "names": names, "on": list(on), "after": after, "every": every}
        )

    def hangs(self, *, names: str = "*", on: Sequence[str] = OPERATIONS, after: int = 0) -> None:
        """Give no answer until it `recovers`; the rest is as of `errs`."""
        self.delays(None, names=names, on=on, after=after)

    def recovers(self) -> None:
        """Be in order again, and answer all who wait."""
        self._tell({})

    def _tell(self, what: dict[str, object]) -> None:
        assert self._control is not None
        self._control.sendall(json.dumps(what).encode() + b"\n")
        self._answered()

    def _answered(self) -> None:
        assert self._control is not None
        if self._control.recv(1) != b"+":
            raise RuntimeError(f"the share does not answer: {self._log.read_text()[-2000:]}")


@contextmanager
def share(folder: Path, at: Path) -> Iterator[Share]:
    """A folder mounted as a share at another one, which is made where it is not there."""
    needed()
    at.mkdir(exist_ok=True)
    made = Share(folder, at, at.with_name(f"{at.name}.log"))
    made.mount()
    try:
        yield made
    finally:
        made.unmount()


class Disk:
    """A disk in memory that can be taken away. Made by `disk`."""

    def __init__(self, at: Path, kept: Path) -> None:
        #: Its mount point.
        self.at = at
        self._kept = kept

    def mount(self) -> None:
        """Put it back, with all that is on it."""
        _mount(str(self._kept), str(self.at), None, _MS_BIND)

    def unmount(self) -> None:
        """Take it away: its mount point is an empty folder."""
        unmount(self.at)


@contextmanager
def disk(at: Path) -> Iterator[Disk]:
    """An empty disk mounted at a folder, which is made where it is not there."""
    needed()
    at.mkdir(exist_ok=True)
    kept = at.with_name(f"{at.name}.kept")
    kept.mkdir()
    _mount("none", str(kept), "tmpfs", 0)
    made = Disk(at, kept)
    try:
        made.mount()
        yield made
    finally:
        unmount(at)
        unmount(kept)


def without(*mount_points: Path) -> list[str]:
    """The beginning of a command line: what follows runs where nothing is mounted at these."""
    needed()
    return [
        *("unshare", "--mount", "--propagation", "private", "--", "sh", "-c"),
        " && ".join(f"umount --lazy '{point}'" for point in mount_points) + ' && exec "$@"',
        "sh",
    ]


_MS_BIND = 4096


def _mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    _check(
        ctypes.CDLL(None, use_errno=True).mount(
            source.encode(), target.encode(), kind and kind.encode(), ctypes.c_ulong(flags),
            options.encode(),
        ),
        target,
    )  # fmt: skip


def unmount(at: Path) -> None:
    """Take away whatever is mounted at a folder, also where somebody has files of it open."""
    with contextlib.suppress(OSError):  # it is unmounted already
        while True:
            _check(ctypes.CDLL(None, use_errno=True).umount2(str(at).encode(), _MNT_DETACH), at)


def _check(result: int, target: object) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))
