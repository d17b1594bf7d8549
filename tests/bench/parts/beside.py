"""Two releases in turns, each in a process of its own, and how much more the newer one takes."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from scipy.stats import t

#: Ticks of a second in /proc.
_TICKS = os.sysconf("SC_CLK_TCK")


#: It is spoken to in lines.
Child = subprocess.Popen[str]


#: In a checkout: an installation whose worker scores an archive each time that a line comes, and
#: says how many films per second and how many milliseconds of the processor per film it took.
SCORING = """
import sys
from pathlib import Path
from tests.bench.parts import beside, site
from tests.worker import samples
database, precision, archive, warm, *files = sys.argv[1:]
files = {name: Path(path) for name, _, path in (file.partition("=") for file in files)}
with site.installation(database) as at:
    model_id = samples.register(at.engine, files)
    worker = at.worker()
    site.score(at, model_id, Path(warm), precision=precision, force=True)
    print("ready", flush=True)
    for line in sys.stdin:
        cpu = beside.cpu_s(worker.pid)
        _, course = site.score(at, model_id, Path(archive), precision=precision, force=True)
        cpu = (beside.cpu_s(worker.pid) - cpu) / course.items
        print(course.rate, cpu * 1e3, flush=True)
"""


class Ratio(NamedTuple):
    """The newer one's figures over the older one's, in the middle of the rounds."""

    middle: float
    #: 95 % interval of it.
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.middle - 1:+.1%} ({self.low - 1:+.1%} to {self.high - 1:+.1%})"


def paired(before: Sequence[float], now: Sequence[float]) -> Ratio:
    """The ratio of figures that were measured in the same rounds, two or more.

    Its geometric mean, and Student's interval of the logarithms.
    """
    logs = [math.log(n / b) for b, n in zip(before, now, strict=True)]
    mean = sum(logs) / len(logs)
    spread = math.sqrt(sum((x - mean) ** 2 for x in logs) / (len(logs) - 1) / len(logs))
    half = float(t.ppf(0.975, len(logs) - 1)) * spread
    return Ratio(math.exp(mean), math.exp(mean - half), math.exp(mean + half))


@contextmanager
def process(tree: Path, program: str, *words: object, folder: Path) -> Iterator[Child]:
    """A program that runs with the modules of a checkout, in a folder that is made for it."""
    folder.mkdir()
    child = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, words)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(tree)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()


def tell(child: Child, line: str = "") -> None:
    """Let it read a line."""
    assert child.stdin is not None
    child.stdin.write(f"{line}\n")
    child.stdin.flush()


def answer(child: Child) -> str:
    """The line that it prints next."""
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line:
        raise RuntimeError("the process has ended")
    return line


def cpu_s(pid: int | None) -> float:
    """Processor seconds of a server and all that it has started, ended ones too."""
    if pid is None:
        return 0.0
    ticks = 0
    for each in Path("/proc").glob("[0-9]*/stat"):
        try:
            # After the name, which may hold anything: state, parent, … utime is the 12th.
            fields = each.read_text().rpartition(") ")[2].split()
        except OSError:
            continue  # it ended just now
        if each.parent.name == str(pid):
            ticks += sum(int(n) for n in fields[11:15])
        elif fields[1] == str(pid):
            ticks += sum(int(n) for n in fields[11:13])
    return ticks / _TICKS


def on_cpu_s(pid: int | None) -> float:
    """Processor seconds of a process alone, to the nanosecond; 0 of none."""
    if pid is None:
        return 0.0
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
