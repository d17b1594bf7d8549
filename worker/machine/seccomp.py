"""seccomp: system calls that this process, and what it starts, gives up for good (seccomp(2)).

A filter is a small program that the kernel runs before each call, over `struct seccomp_data`: the
number of the call, the architecture, and the arguments. What it denies fails with EPERM, as if it
were a matter of rights; a call that it does not know is allowed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from worker.machine import process

_PR_GET_SECCOMP, _PR_SET_SECCOMP, _MODE_FILTER = 21, 22, 2

# linux/bpf_common.h and linux/seccomp.h: load a word of seccomp_data; jump where what was loaded is
# equal, at least so large, or has a bit of it; end, allowing the call or with an errno.
LOAD, EQUAL, AT_LEAST, HAS_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16

#: Calls of x86_64's other table (x32) have this bit.
_X32 = 0x40000000

#: machine → linux/audit.h's number of the architecture, and where its numbers are in CALLS.
ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}

#: Calls by group: name → its number on x86_64 and on aarch64, None where there is no such call.
CALLS: dict[str, dict[str, tuple[int | None, int | None]]] = {
    "network": {
        "connect": (42, 203), "bind": (49, 200), "listen": (50, 201), "accept": (43, 202),
        "accept4": (288, 242),
        # One of datagrams could still be sent to any socket of the machine.
        "socketpair": (53, 199),
    },
    # Other programs, other processes, and what they share.
    "processes": {
        "execve": (59, 221), "execveat": (322, 281), "ptrace": (101, 117),
        "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
        "pidfd_send_signal": (424, 424), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
        "process_madvise": (440, 440), "process_mrelease": (448, 448), "tkill": (200, 130),
        "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
        # How much of the machine others get.
        "setpriority": (141, 140), "sched_setaffinity": (203, 122), "sched_setparam": (142, 118),
        "sched_setscheduler": (144, 119), "sched_setattr": (314, 274), "ioprio_set": (251, 30),
        "migrate_pages": (256, 238), "move_pages": (279, 239),
        "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195),
        "semget": (64, 190), "semop": (65, 193), "semctl": (66, 191), "semtimedop": (220, 192),
        "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187),
        "mq_open": (240, 180), "mq_unlink": (241, 181),
        "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
    },
    # What changes the machine, and doors of the kernel that only attacks need.
    "kernel": {
        "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "mount": (165, 40),
        "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
        "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
        "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
        "mount_setattr": (442, 442), "unshare": (272, 97), "setns": (308, 268),
        "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142),
        "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
        "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
        "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
        "io_uring_register": (427, 427), "fanotify_init": (300, 262), "syslog": (103, 116),
        "personality": (135, 92), "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89),
        "quotactl": (179, 60), "quotactl_fd": (443, 443), "settimeofday": (164, 170),
        "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171),
        "sethostname": (170, 161), "setdomainname": (171, 162), "iopl": (172, None),
        "ioperm": (173, None), "modify_ldt": (154, None),
    },
    # Of files, what Landlock does not know of.
    "attributes": {
        "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
        "chown": (92, None), "lchown": (94, None), "fchown": (93, 55), "fchownat": (260, 54),
        "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
        "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
        "setxattrat": (463, 463), "removexattrat": (466, 466), "file_setattr": (469, 469),
        "utime": (132, None), "utimes": (235, None), "futimesat": (261, None),
        "utimensat": (280, 88),
        "getxattr": (191, 8), "lgetxattr": (192, 9), "fgetxattr": (193, 10),
        "listxattr": (194, 11), "llistxattr": (195, 12), "flistxattr": (196, 13),
        "getxattrat": (464, 464), "listxattrat": (465, 465),
        # Who watches a folder is told the names of what others open there.
        "inotify_init": (253, None), "inotify_init1": (294, 26), "inotify_add_watch": (254, 27),
    },
    "writing": {
        "creat": (85, None), "truncate": (76, 45), "rename": (82, None), "renameat": (264, 38),
        "renameat2": (316, 276), "unlink": (87, None), "unlinkat": (263, 35), "mkdir": (83, None),
        "mkdirat": (258, 34), "rmdir": (84, None), "link": (86, None), "linkat": (265, 37),
        "symlink": (88, None), "symlinkat": (266, 36), "mknod": (133, None), "mknodat": (259, 33),
    },
}  # fmt: skip

#: Flags of clone that make namespaces; clone3's cannot be seen by a filter, and C libraries do
#: with clone where there is no clone3.
_NAMESPACES = 0x7E020000
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_F_SETOWN, _F_SETOWN_EX, _FIOSETOWN, _SIOCSPGRP = 8, 15, 0x8901, 0x8902


class _Program(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rule:
    """Denies a call whose argument has a bit of `bits`, is among `equal`, or is not in `unless`."""

    call: tuple[int | None, int | None]
    argument: int
    bits: int = 0
    equal: tuple[int, ...] = ()
    unless: tuple[int, ...] = ()


def _rules(own: int, *, unix_sockets: bool, writing: bool) -> list[_Rule]:
    """What is denied by its arguments; `own` is the process that it may send signals to."""
    write = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
    rules = [
        _Rule(call=(62, 129), argument=0, unless=(own,)),  # kill
        _Rule(call=(234, 131), argument=0, unless=(own,)),  # tgkill
        _Rule(call=(302, 261), argument=0, unless=(0, own)),  # prlimit64
        _Rule(call=(56, 220), argument=0, bits=_NAMESPACES),  # clone
        # Typing into the terminal; having the kernel send signals.
        _Rule(call=(16, 29), argument=1, equal=(_TIOCSTI, _TIOCLINUX, _FIOSETOWN, _SIOCSPGRP)),
        _Rule(call=(72, 25), argument=1, equal=(_F_SETOWN, _F_SETOWN_EX)),  # fcntl
        _Rule(call=(41, 198), argument=0, unless=(socket.AF_UNIX,) if unix_sockets else ()),
    ]
    if not writing:
        rules += [
            _Rule(call=(2, None), argument=1, bits=write),  # open
            _Rule(call=(257, 56), argument=2, bits=write),  # openat
        ]
    return rules


#: Denied as unknown, so that C libraries do with an older call whose flags a filter sees.
_UNKNOWN = {"clone3": (435, 435), "openat2": (437, 437)}


def available() -> bool:
    """Whether this kernel filters calls, and this architecture's are known here."""
    libc = ctypes.CDLL(None, use_errno=True)
    return _architecture() is not None and libc.prctl(_PR_GET_SECCOMP, 0, 0, 0, 0) >= 0


def restrict(*, unix_sockets: bool = False, writing: bool = False) -> None:
    """Deny this thread, and what it starts, the calls above and all sockets.

    `unix_sockets`: save those within the machine. `writing`: what writes, and what opens files for
    it, is not denied. Raises OSError where it cannot be done here.
    """
    machine = _architecture()
    if machine is None:
        raise OSError(errno.ENOSYS, f"the system calls of {platform.machine()} are not known here")
    install(program(machine, os.getpid(), unix_sockets=unix_sockets, writing=writing))


def install(filter_: bytes) -> None:
    """Have the kernel run this filter; OSError where it does not. There is no way back."""
    instructions = ctypes.create_string_buffer(filter_)
    program = _Program(len(filter_) // 8, ctypes.addressof(instructions))
    process.renounce_privileges()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _architecture() -> str | None:
    machine = platform.machine()
    return machine if machine in ARCHITECTURES and sys.maxsize > 1 << 32 else None


def program(machine: str, own: int, *, unix_sockets: bool, writing: bool) -> bytes:
    """The filter for a machine, 8 bytes an instruction; `own` is the process's number."""
    architecture, column = ARCHITECTURES[machine]
    deny = step(RETURN, ERRNO | errno.EPERM)
    allow = step(RETURN, ALLOW)
    made = [step(LOAD, _ARCHITECTURE), step(EQUAL, architecture, 1, 0), deny]
    made.append(step(LOAD, _NUMBER))
    if machine == "x86_64":
        made += [step(AT_LEAST, _X32, 0, 1), deny]
    for name, numbers in _UNKNOWN.items():
        if writing and name == "openat2":
            continue
        made += [step(EQUAL, numbers[column], 0, 1), step(RETURN, ERRNO | errno.ENOSYS)]
    for number in _numbers(column, unix_sockets=unix_sockets, writing=writing):
        made += [step(EQUAL, number, 0, 1), deny]
    for rule in _rules(own, unix_sockets=unix_sockets, writing=writing):
        called = rule.call[column]
        if called is None:
            continue
        # The lower half of the argument: all of these are an int or smaller to the kernel.
        body = [step(LOAD, _ARGUMENTS + 8 * rule.argument)]
        if rule.bits:
            body += [step(HAS_BIT, rule.bits, 0, 1), deny]
        for value in rule.equal:
            body += [step(EQUAL, value, 0, 1), deny]
        if rule.bits or rule.equal:
            body.append(allow)
        else:
            for value in rule.unless:
                body += [step(EQUAL, value, 0, 1), allow]
            body.append(deny)
        made += [step(EQUAL, called, 0, len(body)), *body]
    return b"".join([*made, allow])


def _numbers(column: int, *, unix_sockets: bool, writing: bool) -> Iterable[int]:
    """Calls that are denied whatever their arguments."""
    for group, calls in CALLS.items():
        if (group == "network" and unix_sockets) or (group == "writing" and writing):
            continue
        for pair in calls.values():
            number = pair[column]
            if number is not None:
                yield number


def step(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    """One instruction: `struct sock_filter`."""
    return struct.pack("=HBBI", code, then, otherwise, value)
