"""A clock that can be set: processes with its environment tell the time by it (libfaketime).

Only the time of day is stepped, as by a person, a time server or a battery that is flat. What the
kernel counts on (monotonic time, and so waits and time limits) goes on, and so do files' times.
"""

from __future__ import annotations

from pathlib import Path

from tests.support.absent import absent
from tests.support.paths import ROOT

#: Where distributions keep it.
_PLACES = (
    "/usr/lib/*/faketime",
    "/usr/lib/faketime",
    "/usr/lib64/faketime",
    "/usr/local/lib/faketime",
)

#: What Python runs at its start.
_PRELOADED = ROOT / "tests" / "support" / "broken" / "preloaded"


def library() -> Path | None:
    """The library, or None where it is not installed (Debian: apt-get install libfaketime)."""
    for place in _PLACES:
        found = sorted(Path("/").glob(f"{place[1:]}/libfaketimeMT.so.1"))
        if found:
            return found[0]
    return None


def tidy() -> None:
    """Remove what the library left in shared memory for processes that were killed."""
    for path in Path("/dev/shm").glob("*faketime_s*_*"):
        pid = path.name.rpartition("_")[2]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            path.unlink(missing_ok=True)


class Clock:
    """What some processes take for the time of day; right at first."""

    def __init__(self, file: Path) -> None:
        """`file` is kept here; the processes must be able to read it."""
        self._file = file
        self.step(0)

    def within(self) -> list[str]:
        """The beginning of a command line whose process tells the time by it.

        Skips the test where the library is not installed.
        """
        if library() is None:
            absent("libfaketime is not installed: apt-get install libfaketime")
        return ["env", *(f"{name}={value}" for name, value in self.environment.items())]

    def step(self, seconds: float) -> None:
        """From now on it is so many seconds ahead; below 0 behind."""
        new = self._file.with_name(f"{self._file.name}.new")
        new.write_text(f"{seconds:+f}\n")
        new.chmod(0o644)
        new.replace(self._file)

    @property
    def environment(self) -> dict[str, str]:
        """Variables that have a process tell the time by it."""
        found = library()
        if found is None:
            raise LookupError("libfaketime is not installed: apt-get install libfaketime")
        return {
            "LD_PRELOAD": str(found),
            "PYTHONPATH": str(_PRELOADED),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
            "FAKE_UTIME": "0",
        }
