"""The block of memory in which pixels arrive, shared by the scoring process and its decoders."""

from __future__ import annotations

import mmap
import os

import numpy as np
from numpy.typing import NDArray


class PixelMemory:
    """Shared memory for pixels. It is freed when the last process that has it mapped ends."""

    def __init__(self, size: int) -> None:
        """`size` is in bytes; pages that are never touched cost nothing."""
        self.fd = os.memfd_create("pneumoq-pixels", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, size)
        self.size = size
        #: `uint8 [size]`; it stays valid when this is closed.
        self.pixels: NDArray[np.uint8] = map_pixels(self.fd, size)

    def close(self) -> None:
        """Share it with no further process."""
        os.close(self.fd)


def map_pixels(fd: int, size: int) -> NDArray[np.uint8]:
    """The memory behind a file descriptor as `uint8 [size]`."""
    return np.frombuffer(mmap.mmap(fd, size), np.uint8)
