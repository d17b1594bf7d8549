"""A terminal in which `pneumoq up` runs and commands are typed, all with one home."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.support import processes
from tests.support.site import processes_with

#: Longest wait for one step, in seconds.
PATIENCE_S = 90.0


class Terminal:
    """Types commands in one home."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("PNEUMOQ_")},
            "PNEUMOQ_HOME": str(home),
            "PNEUMOQ_DECODERS": "1",
            # A second thread would only wait, spinning, for the first beside other tests.
            "PNEUMOQ_TRAIN_THREADS": "1",
            "PNEUMOQ_ENGINE_THREADS": "1",
            "PNEUMOQ_LEASE_S": "3",
            "PNEUMOQ_SWEEP_S": "1",
        }
        self._up: list[subprocess.Popen[str]] = []
        self._seen: set[int] = set()

    def type(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "scheduler", *words],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )

    def up(self) -> subprocess.Popen[str]:
        """Start `pneumoq up` and wait until it is ready."""
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "scheduler", "up"],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._up.append(process)
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if line.startswith("Ready"):
                return process
        raise AssertionError("".join(said))

    def processes(self) -> list[int]:
        """Everything that runs with this home, and what of it has been seen before."""
        self._seen.update(processes_with(f"PNEUMOQ_HOME={self.home}"))
        return processes.alive(self._seen)

    def workers(self, queue: str) -> list[int]:
        """Worker processes of this queue."""
        words = f"--queues\0{queue}\0".encode()
        return [
            pid for pid in self.processes() if words in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]

    def end(self) -> None:
        """Leave nothing behind."""
        for process in self._up:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def wait(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S:.0f} s for {what}"
        time.sleep(0.05)
