"""A process that asks for the plan of a network, for tests that end it or race it.

python -m tests.worker.engine.plan_child HOME NETWORK WHAT FOLDER

WHAT is `plain`; `build`: it stops within the build; `write`: it stops half-way through writing;
`wait`: it builds on once the file `waiting` is in FOLDER. What it reports is there as files of that
name, so that whoever started it can wait for one. It ends with a line of what it got.
"""

from __future__ import annotations

import hashlib
import io
import sys
import time
from pathlib import Path
from typing import Any

from tests.worker.engine import rtx
from worker.engine import flavour, plans, progress, signed

#: Seconds; whoever started it ends it before.
FOREVER_S = 120.0


def main(home: Path, network: Path, what: str, folder: Path) -> None:
    progress.PACE_S = 0.0
    seen: list[str] = []

    def report(words: str, step: int, steps: int) -> None:
        seen.append(words)
        if words.startswith("another process"):
            (folder / "waiting").touch()
        elif len(seen) == 5 and what in ("build", "wait"):
            (folder / "building").touch()
            if what == "build":
                time.sleep(FOREVER_S)
            while not (folder / "waiting").exists():
                time.sleep(0.01)

    if what == "write":
        _write_half(folder)
    plan = plans.obtain(
        home,
        network,
        hashlib.sha256(network.read_bytes()).hexdigest(),
        flavour.load("tensorrt_rtx"),
        rtx.GPU,
        rtx.options(),
        report,
    )
    print("built" if plan.built else "kept", hashlib.sha256(plan.data).hexdigest())


def _write_half(folder: Path) -> None:
    """Files that are written from now on get no further than half of what is written."""

    class Half(io.FileIO):
        def writelines(self, parts: Any) -> None:
            whole = b"".join(parts)
            self.write(whole[: len(whole) // 2])
            if len(whole) > signed.SECRET_BYTES:
                (folder / "writing").touch()
                time.sleep(FOREVER_S)
            self.write(whole[len(whole) // 2 :])

    real = Path.open

    def opened(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        return Half(path, mode) if mode == "wb" else real(path, mode, *arguments, **options)

    Path.open = opened  # type: ignore[method-assign,assignment]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
