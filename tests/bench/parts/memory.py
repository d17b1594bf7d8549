"""What a process has in memory, by /proc."""

from __future__ import annotations

import re
from pathlib import Path


def resident_mb(pid: int, field: str = "VmRSS") -> float:
    """A field of /proc/PID/status in MiB: `VmRSS` is what is resident, `VmHWM` its peak."""
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)
    assert found is not None, f"no {field} in /proc/{pid}/status"
    return int(found[1]) / 1024


def decoders_of(worker_pid: int) -> list[int]:
    """Process ids of a worker's decoders."""
    children = [
        int(child)
        for thread in Path(f"/proc/{worker_pid}/task").iterdir()
        for child in (thread / "children").read_text().split()
    ]
    return sorted(
        pid
        for pid in children
        if b"worker.decoding.child" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )
