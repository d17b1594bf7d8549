"""Marks: which film a decoder is at, and since when.

Before each film it writes a mark (`Mark`) into memory that outlives it, from which its parent knows
(`Marks`) what it was at when it ended.
"""

from __future__ import annotations

import mmap
import os
import time

#: A mark is three aligned 64-bit numbers: films begun since the process started, when the latest
#: was (time.monotonic_ns, which all processes of a machine share), and of how many the bytes were
#: at hand. Each is written in one step, the time first: `struct` would write byte by byte, and what
#: the parent reads half-way blames a film that did nothing.
MARK_NUMBERS = 3


class Marks:
    """What each decoder was at last, in memory that outlives it: the parent's side."""

    def __init__(self, count: int) -> None:
        self.fd = os.memfd_create("pneumoq-marks", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, count * MARK_NUMBERS * 8)
        self._memory = mmap.mmap(self.fd, count * MARK_NUMBERS * 8)
        self._numbers = memoryview(self._memory).cast("q")

    def clear(self, number: int) -> None:
        """A new process with this number is at none."""
        self._numbers[number * MARK_NUMBERS] = 0
        self._numbers[number * MARK_NUMBERS + 2] = 0

    def reading(self, number: int) -> bool:
        """Whether it waits for the bytes of the film that it is at."""
        return self._numbers[number * MARK_NUMBERS + 2] < self._numbers[number * MARK_NUMBERS]

    def read(self, number: int) -> tuple[int, float]:
        """Films begun since the process started, and when (time.monotonic) the latest was."""
        # The decoder writes the time first: read last, it is that of this film or of a later one.
        begun = self._numbers[number * MARK_NUMBERS]
        return begun, self._numbers[number * MARK_NUMBERS + 1] / 1e9

    def close(self) -> None:
        """Let go of the memory."""
        self._numbers.release()
        self._memory.close()
        os.close(self.fd)


class Mark:
    """Shows which film this decoder is at, and since when: the decoder's side."""

    def __init__(self, fd: int, number: int) -> None:
        self._numbers = memoryview(mmap.mmap(fd, 0)).cast("q")
        self._at = number * MARK_NUMBERS
        self._begun = 0

    def begin(self) -> None:
        """The next film is begun."""
        self.restart_clock()
        self._begun += 1
        self._numbers[self._at] = self._begun

    def at_hand(self) -> None:
        """The bytes of the film that was begun are at hand, or cannot be had."""
        self._numbers[self._at + 2] = self._begun

    def restart_clock(self) -> None:
        """The deadline of all films that are begun and not answered for counts from now."""
        self._numbers[self._at + 1] = time.monotonic_ns()
