"""How much memory a decoder process may take for a film."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path


class MemoryLimit:
    """Limits the address space of this process; beyond it Python raises MemoryError."""

    def __init__(self, more: int) -> None:
        """Allow `more` bytes beside what is mapped now, which depends on the machine."""
        self._hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        self._limit = _mapped_bytes() + more
        self._set()

    def _set(self) -> None:
        limit = self._limit
        if self._hard != resource.RLIM_INFINITY:
            limit = min(limit, self._hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, self._hard))

    @contextlib.contextmanager
    def lifted(self) -> Iterator[None]:
        """Not in here; what is mapped in here, and stays, does not count afterwards."""
        before = _mapped_bytes()
        resource.setrlimit(resource.RLIMIT_AS, (self._hard, self._hard))
        try:
            yield
        finally:
            self._limit += _mapped_bytes() - before
            self._set()


def _mapped_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()
