"""Decoding and inference alone and together, without any plumbing: what the machine can do at most.

The film rule and the engine work on bytes that are in memory: nothing is read, hashed or handed on.

Each is run on all cores for some seconds by processes of its own. Knows no database and no queue.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer.film import rules
from worker.engine import open_engine

Decode = Callable[[bytes, int, NDArray[np.uint8]], object]

#: Films per call of the engine, as the worker's default is.
BATCH = 8

#: Films that a process has in memory at most, and works on round and round.
IN_MEMORY = 256

#: Started processes must be ready within this many seconds.
START_S = 120.0


def ours(data: bytes, size: int, out: NDArray[np.uint8]) -> None:
    """The film rule, into its place."""
    rules.decode(data, size, out=out)


def pillow(data: bytes, size: int, out: NDArray[np.uint8]) -> None:
    """Pillow's shortcut as its manual shows it: the smallest scale that is not below S."""
    with Image.open(io.BytesIO(data)) as image:
        image.draft("L", (size, size))
        gray = image.convert("L").resize((size, size), Image.Resampling.BILINEAR)
    out[:] = np.asarray(gray)


def measure(
    stage: str, paths: list[Path], size: int, seconds: float, model: Path, precision: str
) -> float:
    """Films per second of one of STAGES, measured by processes that have loaded nothing else."""
    command = [
        sys.executable, "-m", "tests.bench.parts.stages", stage, str(model),
        "--size", str(size), "--seconds", str(seconds), "--precision", precision,
    ]  # fmt: skip
    listed = "\n".join(map(str, paths))
    done = subprocess.run(command, input=listed, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout)


def _together(work: Callable[..., int], seconds: float, *given: Any, processes: int = 0) -> float:
    """Run `work` in processes that begin at the same moment; the sum of their rates."""
    cores = sorted(os.sched_getaffinity(0))
    count = processes or len(cores)
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(count + 1)
    rates: Any = context.SimpleQueue()
    children = [
        context.Process(
            target=_run,
            args=(work, ready, rates, seconds, number, count,
                  None if processes else cores[number], given),
        )
        for number in range(count)
    ]  # fmt: skip
    for child in children:
        child.start()
    try:
        ready.wait(START_S)
        for child in children:
            child.join(seconds + START_S)
        if any(child.exitcode != 0 for child in children):
            raise RuntimeError("a measuring process ended early; its error is above")
        return float(sum(rates.get() for _ in children))
    finally:
        for child in children:
            child.kill()


def _run(
    work: Callable[..., int],
    ready: Any,
    rates: SimpleQueue[float],
    seconds: float,
    number: int,
    count: int,
    core: int | None,
    given: tuple[Any, ...],
) -> None:
    if core is not None:
        # Engines of several processes would all bind their thread to the same core.
        os.sched_setaffinity(0, {core})
    paths: list[Path]
    paths, *rest = given
    begun = 0.0

    def start() -> float:
        nonlocal begun
        ready.wait(START_S)
        begun = time.monotonic()
        return begun + seconds

    films = work(start, paths[number::count], *rest)
    rates.put(films / (time.monotonic() - begun))


def _decode_alone(start: Callable[[], float], paths: list[Path], size: int, how: Decode) -> int:
    out = np.empty((size, size), np.uint8)
    data = _in_memory(paths)
    how(data[0], size, out)
    end, films = start(), 0
    while time.monotonic() < end:
        how(data[films % len(data)], size, out)
        films += 1
    return films


def _in_memory(paths: list[Path]) -> list[bytes]:
    return [path.read_bytes() for path in paths[:IN_MEMORY]]


def _compute_alone(
    start: Callable[[], float], paths: list[Path], size: int, model: Path, precision: str
) -> int:
    threads = len(os.sched_getaffinity(0))
    engine = open_engine(model, batch=BATCH, threads=threads, precision=precision)
    batches = np.empty((threads + 1, BATCH, 1, size, size), np.uint8)
    for n, path in enumerate(paths[: (threads + 1) * BATCH]):
        rules.decode(path.read_bytes(), size, out=batches[n // BATCH, n % BATCH, 0])
    for _ in range(threads):
        engine.submit(batches[0]).result()
    end, films = start(), 0
    pending: deque[Any] = deque()
    while time.monotonic() < end:
        if len(pending) == engine.depth:
            pending.popleft().result()
            films += BATCH
        pending.append(engine.submit(batches[(films // BATCH) % len(batches)]))
    while pending:
        pending.popleft().result()
        films += BATCH
    engine.close()
    return films


def _decode_and_compute(
    start: Callable[[], float], paths: list[Path], size: int, model: Path, precision: str
) -> int:
    engine = open_engine(model, batch=BATCH, threads=1, precision=precision)
    batch = np.zeros((BATCH, 1, size, size), np.uint8)
    data = _in_memory(paths)
    engine.submit(batch).result()
    end, films = start(), 0
    while time.monotonic() < end:
        for place in batch[:, 0]:
            rules.decode(data[films % len(data)], size, out=place)
            films += 1
        engine.submit(batch).result()
    engine.close()
    return films


#: What each stage is, and whether a process per core does it (or one with a thread per core).
STAGES: dict[str, tuple[Callable[..., int], bool, Decode | None]] = {
    "decoding": (_decode_alone, True, ours),
    "draft": (_decode_alone, True, pillow),
    "inference": (_compute_alone, False, None),
    # A process per core decodes a batch, then computes it: nothing is shared or passed on, so no
    # work is done but that of the stages.
    "both": (_decode_and_compute, True, None),
}


def main() -> None:
    """Measure one stage on the films that standard input names; prints films per second."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("model", type=Path)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--precision", default="fp32")
    given = parser.parse_args()
    paths = [Path(line) for line in sys.stdin.read().splitlines()]
    work, per_core, how = STAGES[given.stage]
    more = (given.model, given.precision) if how is None else (how,)
    print(_together(work, given.seconds, paths, given.size, *more, processes=0 if per_core else 1))


if __name__ == "__main__":
    main()
