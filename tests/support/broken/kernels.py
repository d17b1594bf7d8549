"""Kernels that can do less than this one: first lines for a program in Python."""

from __future__ import annotations

#: Landlock is kept away, as by older kernels and by the filters of older container runtimes.
WITHOUT_LANDLOCK = """
import errno
from worker.machine import seccomp

seccomp.install(b"".join([
    seccomp.step(seccomp.LOAD, 0),
    seccomp.step(seccomp.EQUAL, 444, 0, 1),
    seccomp.step(seccomp.RETURN, seccomp.ERRNO | errno.EPERM),
    seccomp.step(seccomp.RETURN, seccomp.ALLOW),
]))
"""
