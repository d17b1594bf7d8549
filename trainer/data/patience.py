"""Patience: what a file system refuses for a moment is asked for again, a little later.

A share that hiccups says nothing about a film. Who still cannot read one leaves it out of what is
being done now, and remembers nothing.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: Seconds before a file is asked for the second and the third time.
AGAIN_S = (0.5, 2.0)

#: Seconds that are waited for all files together: a share that is gone is not waited for film by
#: film.
TOTAL_S = 30.0

#: What a file system that works says of a file that is not there, not for us, or none.
_LASTING = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP,
     errno.ENAMETOOLONG, errno.ENXIO}
)  # fmt: skip


class Patience:
    """What is left of the time that is waited for files that cannot be read. Thread safe."""

    def __init__(self, total_s: float = TOTAL_S) -> None:
        self._left_s = total_s
        self._lock = threading.Lock()

    def with_(self, read: Callable[[], T]) -> T:
        """What `read` gives, asked for up to three times; raises its last OSError."""
        for pause_s in AGAIN_S:
            try:
                return read()
            except OSError as error:
                if error.errno in _LASTING or not self._take(pause_s):
                    raise
            time.sleep(pause_s)
        return read()

    def _take(self, pause_s: float) -> bool:
        with self._lock:
            taken = self._left_s >= pause_s
            self._left_s -= pause_s if taken else 0.0
            return taken
