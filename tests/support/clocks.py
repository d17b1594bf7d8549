"""Processes whose clock is wrong, by libfaketime (Debian's package of that name).

On SQLite the clock of a process is the database's clock for all that it writes.
"""

from __future__ import annotations

from pathlib import Path

from tests.support.absent import absent

#: Where Debian keeps the library for programs with threads.
_PLACES = "*/faketime/libfaketimeMT.so.1"


def ahead(seconds: float) -> list[str]:
    """The beginning of a command line whose process has a clock that is so far ahead.

    What measures time, as opposed to telling it, is as it was. Skips the test where the library is
    not installed.
    """
    found = sorted(Path("/usr/lib").glob(_PLACES))
    if not found:
        absent("libfaketime is not installed: apt-get install libfaketime")
    return [
        "env",
        f"LD_PRELOAD={found[0]}",
        f"FAKETIME={seconds:+.0f}s",
        "FAKETIME_DONT_FAKE_MONOTONIC=1",
        f"PYTHONPATH={Path(__file__).parent / 'faketime'}",
    ]
