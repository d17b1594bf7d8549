"""The whole service as a person or an init system runs it: `pneumoq up`, started again by need."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tests.support import processes, servers
from tests.support.paths import ROOT
from worker import config
from worker.config import Settings

#: An init system waits so long before it starts again what has ended, in seconds.
RESTART_S = 1.0


class Service:
    """`pneumoq up` with some scoring workers, beat and its own broker; no training."""

    def __init__(
        self, settings: Settings, log: Path, environment: Mapping[str, str], *, workers: int
    ) -> None:
        """`environment` are more variables of all its processes."""
        self._settings = settings
        self._log = log
        self._environment = dict(environment)
        self._count = workers
        self._process: subprocess.Popen[bytes] | None = None
        self._again_at = 0.0
        #: How often it was started.
        self.starts = 0
        #: Exit statuses of those that ended by themselves.
        self.ended: list[int] = []

    def keep(self) -> None:
        """Start it where it is not running. To be called often."""
        if self._process is not None:
            status = self._process.poll()
            if status is None:
                return
            self.ended.append(status)
            self._process = None
            self._again_at = time.monotonic() + RESTART_S
        if time.monotonic() >= self._again_at:
            self.starts += 1
            self._process = servers.spawn(
                [sys.executable, "-m", "scheduler", "up", "--no-train",
                 "--scoring-workers", str(self._count)],
                log=self._log,
                env=config.child_environment(self._settings, **self._environment),
                cwd=ROOT,
            )  # fmt: skip

    def kill(self) -> None:
        """SIGKILL: the kernel takes all that it has started with it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self._again_at = time.monotonic() + RESTART_S

    def stop(self) -> None:
        """End it in good order."""
        if self._process is not None:
            servers.end(self._process)
            self._process = None

    def workers(self) -> list[int]:
        """Process ids of its scoring workers."""
        return self._members("worker.app\0worker\0")

    def beats(self) -> list[int]:
        """Process id of its beat, if it has one now."""
        return self._members("worker.app\0beat\0")

    def brokers(self) -> list[int]:
        """Process id of its broker, if it has one now."""
        return self._members("valkey.sock")

    @staticmethod
    def decoders(worker: int) -> list[int]:
        """Process ids of a worker's decoders."""
        return sorted(processes.children(worker, "worker.decoding.child"))

    def _members(self, command: str) -> list[int]:
        if self._process is None:
            return []
        return sorted(processes.children(self._process.pid, command))


def signalled(number: signal.Signals, *pids: int) -> None:
    """Send a signal to processes, those left out that have ended meanwhile."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
