"""From the claim of a training job to its first step, beside what cannot be saved.

    python -m tests.bench.first_step [--data FOLDER] [--init WEIGHTS] [--rounds 3] [--quick]

A training process is started as a worker starts it, on films that an earlier one has decoded, and
ended when it says that it trains. Beside it, in turns: a bare Python that imports torch and reads
the decoded films from the cache. Where the time goes is told by what the process reports.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.bench.parts import report
from tests.support.paths import SHARED
from trainer import phantom
from trainer.data.labelled import NAMING
from trainer.learning.options import INCIDENTAL, Options
from worker.training.process import TrainingProcess

#: Times the bare Python.
TIMES = 1.5


_BARE = """
import sys, torch
from pathlib import Path
for path in Path(sys.argv[1]).rglob("*"):
    if path.is_file():
        path.read_bytes()
"""


def order(data: Path, init: str, home: Path, name: str, size: int) -> dict[str, Any]:
    """What a worker tells the process; a job of the defaults."""
    options = {
        field.name: field.default
        for field in dataclasses.fields(Options)
        if isinstance(field.default, int | float | str) and field.name not in INCIDENTAL
    }
    spec = options | {
        "data": str(data), "init": init, "size": size, "operating_point": "youden",
        "positive": "PNEUMONIA", "naming": NAMING,
    }  # fmt: skip
    return {
        "spec": spec, "night": "", "folder": str(home / name), "cache": str(home / "cache"),
        "resume_from": "", "threads": 0, "film_deadline_s": 60.0, "film_memory_mb": 2048,
        "engine_batch": 8, "names_key": "00" * 32,
    }  # fmt: skip


def begin(asked: dict[str, Any]) -> list[tuple[float, str]]:
    """Start a process, and end it when it trains; (seconds since its start, what it said)."""
    began = time.monotonic()
    process = TrainingProcess(asked)
    said: list[tuple[float, str]] = []
    try:
        while not said or "training on" not in said[-1][1]:
            events = process.events(0.05)
            if events is None:
                raise RuntimeError(f"it ended before it trained: {said}")
            for event in events:
                text = str(event.get("text") or event["event"])
                if event["event"] == "failed":
                    raise RuntimeError(str(event["reason"]))
                said.append((time.monotonic() - began, text))
                if "training on" in text:
                    break
    finally:
        process.end()
    return said


def bare(cache: Path) -> float:
    """Seconds of a Python that imports torch and reads the cache."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", _BARE, str(cache)], check=True)
    return time.monotonic() - began


def main() -> int:
    """Run from the command line; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=SHARED / "data" / "kermany_224")
    parser.add_argument("--init", default=str(SHARED / "weights" / "resnet18-imagenet-approx.pth"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round on 400 made-up films")
    given = parser.parse_args()
    claims = report.Claims()
    with tempfile.TemporaryDirectory(prefix="pneumoq-measured-") as folder:
        home = Path(folder)
        data, init, size = given.data, given.init, 224
        if given.quick or not data.is_dir():
            given.rounds, data, init, size = 1, home / "films", "scratch", 64
            phantom.write_folder(data, 160)
        begin(order(data, init, home, "first", size))  # it decodes
        took: dict[str, list[float]] = {"claim to the first step": [], "bare": []}
        for number in range(given.rounds):
            said = begin(order(data, init, home, f"run{number}", size))
            took["claim to the first step"].append(said[-1][0])
            took["bare"].append(bare(home / "cache"))
            for at, text in said:
                print(f"  {at:6.2f} s  {text[:90]}")
    middle = {name: statistics.median(found) for name, found in took.items()}
    report.table(
        ("seconds", "median", "least", "most"),
        [(name, middle[name], min(found), max(found)) for name, found in took.items()],
    )
    ratio = middle["claim to the first step"] / middle["bare"]
    claims.check(ratio <= TIMES, f"≤ {TIMES} × the bare Python", f"{ratio:.2f} ×")
    return claims.end()


if __name__ == "__main__":
    sys.exit(main())
