"""What a fast device would wait for: tiny films by a model that costs nothing, scored by today's
worker and by that of an earlier commit, in turns.

    python -m tests.bench.plumbing --before FOLDER [--items 40000] [--rounds 10]
                                   [--database sqlite|postgresql] [--cache FOLDER]

FOLDER is a checkout of the earlier commit. Each has an installation of its own with the product's
settings for this machine: a private Valkey, and SQLite or PostgreSQL, which flushes to disk. Films
are gray JPEG and PNG of 32 × 32 pixels in a zip, all different, scored anew each time, from the
submission to the last row.

Claim: 1.4 × the items/s of the commit before.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.bench.parts import archives, beside, constant, report, site
from tests.bench.scale import SIZE, WARM
from tests.bench.speed import OURS
from tests.support.paths import ROOT

FASTER = 1.4


def run(kind: str, before: Path, cache: Path, given: argparse.Namespace) -> list[list[float]]:
    """Items per second of both, and milliseconds of the processor per item, round by round."""
    source, warm = cache / f"tiny-{given.items}.zip", cache / "tiny-warm.zip"
    for path, count, first in ((source, given.items, 0), (warm, WARM, given.items)):
        if not path.exists():
            archives.write(path, count, archives.tiny(SIZE), (".jpg", ".png"), first)
    model = cache / "constant.onnx"
    constant.write(model, SIZE)
    words = [kind, "fp32", source, warm, f"fp32={model}"]
    found: list[list[float]] = [[], [], [], []]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        trees = []
        for name, tree in (("before", before), ("now", ROOT)):
            child = beside.process(tree, OURS, *words, folder=folder / name)
            trees.append(stack.enter_context(child))
            beside.answer(trees[-1])
        for turn in range(given.rounds):
            # Who goes first takes turns.
            for which in (0, 1) if turn % 2 else (1, 0):
                beside.tell(trees[which])
                rate, cpu_ms = map(float, beside.answer(trees[which]).split())
                found[which].append(rate)
                found[2 + which].append(cpu_ms)
            now = f"{found[0][-1]:,.0f} items/s before, {found[1][-1]:,.0f} now"
            print(f"{kind}, round {turn + 1}: {now}", flush=True)
    return found


def main() -> int:
    """Run from the command line; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--before", type=Path, required=True)
    parser.add_argument("--items", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], action="append")
    parser.add_argument("--cache", type=Path, help="folder to keep the zip for the next run")
    given = parser.parse_args()
    claims = report.Claims()
    rows = []
    with site.cache(given.cache) as cache:
        for kind in given.database or ["sqlite", "postgresql"]:
            rates_before, rates, cpu_before, cpu = run(
                kind, given.before.resolve(), cache.resolve(), given
            )
            faster = beside.paired(rates_before, rates)
            what = f"{kind}: {FASTER} × the items/s of the commit before"
            claims.check(faster.middle >= FASTER, what, str(faster))
            rows.append(
                (kind, *map(statistics.median, (rates_before, rates, cpu_before, cpu)),
                 str(beside.paired(cpu_before, cpu)))
            )  # fmt: skip
    print()
    report.table(
        ("", "items/s before", "now", "processor ms per item before", "now", "of it"), rows
    )
    return claims.end()


if __name__ == "__main__":
    sys.exit(main())
