"""What it costs that training's films are decoded by processes that may die, and not by threads.

    python -m tests.bench.labelled FOLDER [--films 1200] [--size 224] [--rounds 10]

FOLDER has films, which are taken again and again. Both ways decode the same of them, in turn, two
at a time. Seconds of the processor are of all processes together, less what a process costs that
decodes none. What it costs to start the decoders is measured on one film, and told apart.

Claim: after its start a film costs no more of the processor, and takes no longer.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from tests.bench.parts import report
from trainer.data import decoding
from trainer.data.decoding import Wanted
from trainer.film import rules
from worker.decoding import labelled
from worker.decoding.labelled import Limits

#: What two ways that cost the same differ by, on a machine with other work.
ALIKE = 1.05

#: prctl(2): whoever loses its parent below this process becomes its child.
_SUBREAPER = 36


def decode(way: str, folder: Path, count: int, size: int) -> None:
    """Decode so many films, and print the seconds that it takes."""
    found = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".md")
    films = [Wanted(file=path) for path in (found * (count // len(found) + 1))[:count]]
    limits = Limits(decoders=2, deadline_s=30.0, limit_mb=2048)
    decoder = decoding.threads(2) if way == "threads" else labelled.processes(limits)
    began = time.perf_counter()
    for one in decoder(films, size=size, rule=rules.DEFAULT_RULE):
        if one is not None and not isinstance(one.outcome, Exception):
            one.outcome.tobytes()
    print(time.perf_counter() - began)


def measured(way: str, folder: Path, count: int, size: int) -> tuple[float, float]:
    """Seconds of the processor, of all processes, and seconds that so many films take."""
    before = _spent_s()
    command = [sys.executable, "-m", "tests.bench.labelled", str(folder), "--only", way,
               "--films", str(count), "--size", str(size)]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        # Decoders' openers are reaped here, when their decoders have ended.
        while True:
            try:
                if os.waitpid(-1, 0)[0] == process.pid:
                    process.returncode = 0
            except ChildProcessError:
                break
        assert process.stdout is not None
        seconds = float(process.stdout.read())
    return _spent_s() - before, seconds


def _spent_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> int:
    """Measure and judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--films", type=int, default=1200)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        decode(given.only, given.folder, given.films, given.size)
        return 0
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)

    def median(way: str, films: int) -> tuple[float, float]:
        tries = [measured(way, given.folder, films, given.size) for _ in range(3)]
        return statistics.median(t[0] for t in tries), statistics.median(t[1] for t in tries)

    nothing, _ = median("threads", 0)
    cpu_s, wall_s = median("processes", 1)
    start = (cpu_s - nothing, wall_s)
    rounds: dict[str, list[tuple[float, float]]] = {"threads": [], "processes": []}
    for _ in range(given.rounds):
        for way, found in rounds.items():
            cpu_s, wall_s = measured(way, given.folder, given.films, given.size)
            found.append((cpu_s - nothing, wall_s))
    print(
        f"{given.films} films at {given.size} px; to start the decoders takes {start[0]:.2f} s of "
        f"the processor and {start[1]:.2f} s"
    )
    claims = report.Claims()
    for n, what in enumerate(("seconds of the processor", "seconds")):
        old, new = ([one[n] for one in rounds[way]] for way in rounds)
        ms = [1000 * statistics.median(column) / given.films for column in (old, new)]
        whole = statistics.median(b / a for a, b in zip(old, new, strict=True))
        ratio = statistics.median((b - start[n]) / a for a, b in zip(old, new, strict=True))
        claims.check(
            ratio <= ALIKE,
            f"after the start at most {ALIKE} × the {what} of threads",
            f"{ratio:.2f} × (with it {whole:.2f} ×; ms per film: threads {ms[0]:.2f}, processes "
            f"{ms[1]:.2f})",
        )
    return claims.end()


if __name__ == "__main__":
    sys.exit(main())
