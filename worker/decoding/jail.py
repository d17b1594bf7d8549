"""What a decoder gives up before it is given the first film, since a film may take it over.

It has no network, starts no program, touches no other process, writes nothing, and opens no file
but those of Python and its libraries: what films are in is opened for it (`opener`). It is closed
while the process has one thread, since the kernel denies to a thread and to what that starts. Of a
decoder on a GPU less can be denied, because CUDA opens devices, files and sockets as it likes: see
docs/concepts/patient-data.md.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

from worker import config
from worker.machine import landlock, process, seccomp

log = logging.getLogger(__name__)  # in a decoder without a handler: warnings go to standard error

#: Where shared libraries lie, what finds them, and what Python reads of the system.
_SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache",
           "/dev/null", "/dev/urandom")  # fmt: skip

#: What the libraries of NVIDIA's GPUs read beside these, on servers and on Jetsons.
_OF_A_GPU = ("/usr/local", "/usr/share", "/opt/nvidia", "/sys", "/etc/nv_tegra_release",
             "/proc/driver", "/proc/devices", "/proc/modules", "/proc/meminfo", "/proc/cpuinfo",
             "/proc/stat", "/proc/sys", "/proc/version", "/proc/device-tree")  # fmt: skip

#: Memory with names, which CUDA and torch write to.
_SCRATCH = "/dev/shm"

#: A rule for /proc/self holds as long as the kernel keeps the entry that it was made of.
_kept: list[int] = []


def lacking() -> list[str]:
    """What this kernel cannot deny a decoder; nothing where it can all that is asked of it."""
    lacks = []
    if not landlock.abi():
        lacks.append("no Landlock: decoders can read whatever the worker's user can read")
    if not seccomp.available():
        lacks.append(
            "no seccomp: decoders can open network connections, start programs, and signal other "
            "processes of the worker's user"
        )
    return lacks


def close(*, gpu: bool) -> None:
    """Give up for good all that this process does not need; what the kernel cannot is logged.

    `gpu`: it is to use a GPU.
    """
    if gpu:
        tempfile.tempdir = _SCRATCH  # torch makes a folder there when it is imported
    process.renounce_privileges()
    if landlock.abi():
        with contextlib.suppress(OSError):  # then it is not allowed
            _kept.append(os.open("/proc/self", os.O_PATH | os.O_CLOEXEC))
        try:
            landlock.restrict(_allowed(gpu))
        except OSError as error:
            log.warning("decoders are not kept from files: %s", error)
    close_calls(gpu=gpu)


def close_calls(*, gpu: bool = False) -> None:
    """Of what `close` gives up, all but files, for a process that is to open these."""
    process.renounce_privileges()
    if seccomp.available():
        try:
            seccomp.restrict(unix_sockets=gpu, writing=gpu)
        except OSError as error:
            log.warning("decoders are not kept from system calls: %s", error)


def _allowed(gpu: bool) -> Iterator[tuple[Path, int]]:
    for path in (*_libraries(), *map(Path, _SYSTEM), Path("/proc/self")):
        yield path, landlock.READING
    if gpu:
        for name in _OF_A_GPU:
            yield Path(name), landlock.READING
        yield Path("/dev"), landlock.DEVICES
        yield Path(_SCRATCH), landlock.SCRATCH


def _libraries() -> set[Path]:
    """Folders of Python and of what it imports.

    Of a folder that is no more than on the way to packages, such as a checkout, only the packages
    that are loaded: anything may lie beside them.
    """
    paths = sysconfig.get_paths()
    found = {Path(paths[name]) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    found |= {Path(p) for p in sys.path if Path(p).name in ("site-packages", "dist-packages")}
    for name, module in list(sys.modules.items()):
        if "." not in name and name != "__main__":
            found |= {Path(p) for p in getattr(module, "__path__", ())}
    found |= {Path(p) for p in config.library_path()}
    return {path for path in found if path.is_absolute() and path != Path("/")}
