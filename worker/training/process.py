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
from collections.abc import Mapping
from typing import Any

from worker import config

#: The module that is run as the training process.
CHILD = "worker.training.child"

#: A training process that was told to stop, or closed its reports, is killed after this many
#: seconds.
GRACE_S = 30.0


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
        assert self._process.stdin is not None
        self._input = self._process.stdin
        with contextlib.suppress(BrokenPipeError):  # it ended at once; its exit status tells
            self._input.write(json.dumps(order).encode() + b"\n")
            self._input.flush()

    @property
    def status(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        return self._process.returncode

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
        """Kill it if it still runs."""
        self._process.kill()
        self._process.wait()
        os.close(self._reports)
        self.stop()
