"""The training process as its worker sees it: started with an order, read, stopped, ended.

Which messages go which way is said in worker.training.child.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worker import config
from worker.archive import apart

#: The module that is run as the training process.
CHILD = "worker.training.child"

#: A training process that was told to stop, or closed its reports, is killed after this many
#: seconds.
GRACE_S = 30.0

#: A killed process that is still there after so many seconds is left to itself.
REAP_S = 5.0


class TrainingProcess:
    """One training process, from its start to its end."""

    def __init__(self, order: Mapping[str, Any], gpu_lease: int | None = None) -> None:
        """Start it. `gpu_lease` is the open file of the GPU's lease, which it keeps too: so the
        lease lives until the GPU's memory is free, also where this process is killed."""
        self._reports, theirs = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", CHILD, str(os.getpid()), str(theirs)],
            stdin=subprocess.PIPE,
            pass_fds=(theirs,) if gpu_lease is None else (theirs, gpu_lease),
            env=config.training_environment(),
            cwd="/",  # a folder named like one of our packages must not be found first
        )
        os.close(theirs)
        self._unfinished = b""
        #: The processor time it has used, and since when it is so much (time.monotonic).
        self._used: tuple[list[str], float] = ([], time.monotonic())
        assert self._process.stdin is not None
        self._input = self._process.stdin
        with contextlib.suppress(BrokenPipeError):  # it ended at once; its exit status tells
            self._input.write(json.dumps(order).encode() + b"\n")
            self._input.flush()

    @property
    def status(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        return self._process.returncode

    def idle_s(self) -> float:
        """Seconds for which it has used no processor, as far as this was asked; at least 10 ms of
        it count (proc(5))."""
        with contextlib.suppress(OSError):
            stat = Path(f"/proc/{self._process.pid}/stat").read_text()
            used = stat.rpartition(")")[2].split()[11:13]
            if used != self._used[0]:
                self._used = (used, time.monotonic())
        return time.monotonic() - self._used[1]

    def events(self, within_s: float) -> list[dict[str, Any]] | None:
        """What it has reported, waiting so many seconds for a report; None once it has ended."""
        if not select.select([self._reports], [], [], within_s)[0]:
            return []
        chunk = os.read(self._reports, 1 << 16)
        if not chunk:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE_S)
            return None
        *lines, self._unfinished = (self._unfinished + chunk).split(b"\n")
        return [json.loads(line) for line in lines]

    def stop(self) -> None:
        """Tell it to write a checkpoint and end."""
        with contextlib.suppress(BrokenPipeError):
            self._input.close()

    def end(self) -> None:
        """Kill it if it still runs; one that waits for a share, and cannot be ended, is left."""
        self._process.kill()
        try:
            self._process.wait(REAP_S)
        except subprocess.TimeoutExpired:
            process = self._process
            apart.leave(lambda: process.poll() is None, f"training process {process.pid}")
        os.close(self._reports)
        self.stop()
