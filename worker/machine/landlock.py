"""Landlock: this thread, and what it starts, opens no file any more but those below some paths.

By landlock(7) and the kernel's include/uapi/linux/landlock.h, ABI 1 (Linux 5.13) to 7: of what is
asked to be denied a kernel denies what it knows of. Files that are open stay so.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from worker.machine import process

# The numbers are the same on every architecture (but alpha).
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1 << 0
_RULE_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = (1 << n for n in range(4))
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG = 1 << 4, 1 << 5, 1 << 7, 1 << 8
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15

#: ABI → what of files it can deny: all rights that it knows, each a bit.
_OF_FILES = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
#: Likewise of TCP: to bind, and to connect.
_OF_TCP = {4: 0b11}
#: Likewise of what is outside: abstract unix sockets. Signals are left to `seccomp`: with them
#: denied here the kernel would not tell a child that its parent has ended (PR_SET_PDEATHSIG).
_OF_OUTSIDE = {6: 0b01}

#: What a rule for a file that is no folder may allow.
_FOR_A_FILE = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV

READING = _READ_FILE | _READ_DIR
DEVICES = READING | _WRITE_FILE | _IOCTL_DEV
SCRATCH = DEVICES | _MAKE_REG | _MAKE_DIR | _REMOVE_FILE | _REMOVE_DIR | _TRUNCATE


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("files", ctypes.c_uint64),
        ("tcp", ctypes.c_uint64),
        ("outside", ctypes.c_uint64),
    )


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("fd", ctypes.c_int32))


def abi() -> int:
    """The kernel's version of Landlock; 0 where it has none, or a container keeps it away."""
    try:
        return _call(_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
    except OSError:
        return 0


def restrict(allowed: Iterable[tuple[Path, int]]) -> None:
    """Deny this thread every file but those below these paths, each with what is allowed there.

    What is not there, or cannot be examined, is left out: the more is denied. Also TCP, where the
    kernel can. Raises OSError where it has no Landlock.
    """
    version = abi()
    if not version:
        raise OSError(errno.ENOSYS, "this kernel has no Landlock")
    of_files = _up_to(version, _OF_FILES)
    ruleset = _Ruleset(of_files, _up_to(version, _OF_TCP), _up_to(version, _OF_OUTSIDE))
    # An older kernel takes a longer structure as long as what it does not know is zero.
    fd = _call(_CREATE_RULESET, ctypes.byref(ruleset), ctypes.sizeof(ruleset), 0)
    try:
        for path, rights in allowed:
            with contextlib.suppress(OSError):
                _allow(fd, path, rights & of_files)
        process.renounce_privileges()
        _call(_RESTRICT_SELF, fd, 0)
    finally:
        os.close(fd)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= _FOR_A_FILE
        rule = _PathBeneath(rights, fd)
        _call(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(fd)


def _up_to(version: int, rights: dict[int, int]) -> int:
    return max((known for since, known in rights.items() if since <= version), default=0)


def _call(number: int, *arguments: object) -> int:
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long
    passed = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = int(syscall(ctypes.c_long(number), *passed))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
