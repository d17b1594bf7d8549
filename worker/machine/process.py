"""What a process gives up: a life beyond its parent's, however that ends, and more rights.

And whether it is still there.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38


def die_with_parent(parent_pid: int, signal_number: int = signal.SIGKILL) -> None:
    """Have the kernel kill this process when its parent dies; called first thing in the child.

    The kernel watches the *thread* that made this process: make children from threads that live as
    long as the children should. Where the parent is gone already this process ends here. Source:
    prctl(2), PR_SET_PDEATHSIG. Does nothing on systems other than Linux.
    """
    try:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal_number), 0, 0, 0)
    except (AttributeError, OSError):
        return
    if os.getppid() != parent_pid:
        os._exit(1)


def renounce_privileges() -> None:
    """Neither this process nor what it starts can get rights that it has not, by setuid say.

    Source: prctl(2), PR_SET_NO_NEW_PRIVS. Does nothing on systems other than Linux.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def since(pid: int) -> str | None:
    """When a process was started, which tells it from a later one of its number; None once ended.

    In the kernel's own count: proc(5), /proc/PID/stat.
    """
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else fields[18]
