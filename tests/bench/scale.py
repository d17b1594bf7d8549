"""A zip of a million small films: planning it, scoring it by a model that costs nothing, asking how
far it is meanwhile, and submitting it again.

    python -m tests.bench.scale [--items 1000000] [--database sqlite] [--cache FOLDER]

The films are gray JPEG and PNG of 32 × 32 pixels, all different, really decoded; the model is an
ONNX file that says the same of every film, run by the engine as any other. One worker process with
the product's settings, a private Valkey, and SQLite or PostgreSQL (which flushes to disk) on this
machine. `jobs show` is run as people run it, a process at a time, every two seconds.

Claims: planned in 60 s with less than 300 MB resident; 5,000 items/s; `jobs show` below 1 s; the
same zip again at 20,000 items/s.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from db.queue import jobs
from tests.bench.parts import archives, constant, memory, report, site
from tests.support.site import Site
from tests.worker import samples
from worker import config

#: S of the model, and the side of a film.
SIZE = 32

#: Films that are scored first, so that everything is warm.
WARM = 2_000

#: Seconds between two `jobs show`.
ASK_S = 2.0

PLAN_S, PLAN_MB, RATE, SHOW_S, AGAIN_RATE = 60.0, 300.0, 5_000, 1.0, 20_000


def plan(kind: str, source: Path, items: int, claims: report.Claims) -> list[object]:
    """Plan the archive in a process of its own; a row of the table."""
    with site.installation(kind) as at:
        model_id = _register(at)
        job_id = site.submit(at, model_id, source)
        answer = subprocess.run(
            [sys.executable, "-m", "tests.bench.parts.planning"],
            env=config.child_environment(at.settings),
            capture_output=True,
            text=True,
        )
        if answer.returncode:
            raise RuntimeError(f"the planner ended: {answer.stderr}")
        found = json.loads(answer.stdout)
        row = jobs.get(at.engine, job_id)
        if row["planned_items"] != items:
            raise RuntimeError(f"{row['planned_items']:,} of {items:,} items were planned")
    seconds, peak = float(found["seconds"]), float(found["peak_mb"])
    limit = PLAN_S * max(items, 1) / 1_000_000
    claims.check(
        seconds <= limit, f"{kind}: {items:,} members planned in {limit:.3g} s", f"{seconds:.1f} s"
    )
    claims.check(peak < PLAN_MB, f"{kind}: planner below {PLAN_MB:.0f} MB", f"{peak:.0f} MB peak")
    return [kind, seconds, items / seconds, float(found["before_mb"]), peak]


def run(kind: str, warm: Path, source: Path, items: int, claims: report.Claims) -> list[object]:
    """Score the archive, asking meanwhile, and once more; a row of the table."""
    with site.installation(kind) as at:
        model_id = _register(at)
        worker = at.worker()
        site.score(at, model_id, warm)
        began = time.monotonic()
        job_id = site.submit(at, model_id, source)
        with asking(at, job_id) as took:
            course = site.follow(at, job_id, began)
        _complete(at, job_id, items)
        peak = memory.resident_mb(worker.pid, "VmHWM")
        again_id, again = site.score(at, model_id, source)
        _complete(at, again_id, items)
        reused = at.rows(
            "SELECT count(*) AS n FROM predictions "
            "WHERE job_id = :job AND reused_from_job = :origin",
            job=again_id,
            origin=job_id,
        )[0].n
        if reused != items:
            raise RuntimeError(f"{reused:,} of {items:,} items were answered from job {job_id}")
    rate, slowest = course.steady(), max(took)
    claims.check(rate >= RATE, f"{kind}: {RATE:,} items/s", f"{rate:,.0f} items/s")
    claims.check(
        slowest < SHOW_S,
        f"{kind}: `jobs show` below {SHOW_S:.0f} s while they are scored",
        f"{slowest:.2f} s at most, {statistics.median(took):.2f} s in the middle of {len(took)}",
    )
    claims.check(
        again.rate >= AGAIN_RATE,
        f"{kind}: the same zip again at {AGAIN_RATE:,} items/s",
        f"{again.rate:,.0f} items/s",
    )
    return [kind, course.seconds, rate, slowest, peak, again.seconds, again.rate]


@contextmanager
def asking(at: Site, job_id: int) -> Iterator[list[float]]:
    """Run `jobs show` beside the job, again and again; the seconds that each took."""
    took: list[float] = []
    enough = threading.Event()

    def ask() -> None:
        while not enough.is_set():
            began = time.monotonic()
            answer = at.run("jobs", "show", str(job_id))
            took.append(time.monotonic() - began)
            if answer.returncode:
                raise RuntimeError(f"`jobs show` failed: {answer.stderr}")
            enough.wait(max(0.0, ASK_S - took[-1]))

    with ThreadPoolExecutor(1) as beside:
        future = beside.submit(ask)
        try:
            yield took
        finally:
            enough.set()
        future.result()


def _register(at: Site) -> int:
    path = at.logs / "constant.onnx"
    constant.write(path, SIZE)
    return samples.register(at.engine, {"fp32": path})


def _complete(at: Site, job_id: int, items: int) -> None:
    """Every film was scored."""
    row = jobs.progress(at.engine, job_id)
    if row["predictions"] != items:
        raise RuntimeError(f"job {job_id} has {row['predictions']:,} of {items:,} predictions")


def main() -> int:
    """Run from the command line; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], action="append")
    parser.add_argument("--cache", type=Path, help="folder to keep the zip for the next run")
    parser.add_argument("--quick", action="store_true", help="60,000 items")
    given = parser.parse_args()
    items = min(given.items, 60_000) if given.quick else given.items
    kinds = given.database or ["sqlite", "postgresql"]
    claims = report.Claims()
    with site.cache(given.cache) as folder:
        source, warm = folder / f"tiny-{items}.zip", folder / f"warm-{items}.zip"
        for path, count, first in ((source, items, 0), (warm, WARM, items)):
            if not path.exists():
                archives.write(path, count, archives.tiny(SIZE), (".jpg", ".png"), first)
        size = source.stat().st_size
        print(f"{items:,} films of {SIZE} × {SIZE} pixels in a zip of {size / 1e6:,.0f} MB\n")
        report.table(
            ("planning", "seconds", "items/s", "MB before", "MB at most"),
            [plan(kind, source, items, claims) for kind in kinds],
        )
        report.table(
            ("scoring", "seconds", "items/s", "slowest `jobs show`", "worker MB at most",
             "again seconds", "again items/s"),
            [run(kind, warm, source, items, claims) for kind in kinds],
        )  # fmt: skip
    return claims.end()


if __name__ == "__main__":
    sys.exit(main())
