"""What a fast device would wait for: tiny films by a model that costs nothing, scored by today's
worker and by that of an earlier commit, in turns.

    python -m tests.bench.plumbing [--before FOLDER] [--items 20000] [--rounds 10]
                                   [--database sqlite|postgresql] [--cache FOLDER]

FOLDER is a checkout of the earlier commit, without which today's is measured alone. Each has an
installation of its own with the product's settings for this machine: a private Valkey, and SQLite
or PostgreSQL, which flushes to disk. Films are gray JPEG and PNG of 32 × 32 pixels in a zip, all
different, scored anew each time, from the submission to the last row.

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
from tests.support.paths import ROOT

FASTER = 1.4


#: Items per second, and milliseconds of the processor per item, round by round.
Rounds = tuple[list[float], list[float]]


def run(kind: str, trees: dict[str, Path], cache: Path, given: argparse.Namespace) -> list[Rounds]:
    """Measure each checkout's worker."""
    source, warm = cache / f"tiny-{given.items}.zip", cache / f"warm-{given.items}.zip"
    for path, count, first in ((source, given.items, 0), (warm, WARM, given.items)):
        if not path.exists():
            archives.write(path, count, archives.tiny(SIZE), (".jpg", ".png"), first)
    model = cache / "constant.onnx"
    constant.write(model, SIZE)
    found: list[Rounds] = [([], []) for _ in trees]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        children = []
        for name, tree in trees.items():
            words = [kind, "fp32", source, warm, f"fp32={model}"]
            child = beside.process(tree, beside.SCORING, *words, folder=folder / name)
            children.append(stack.enter_context(child))
            beside.answer(children[-1])
        for turn in range(given.rounds):
            # Who goes first takes turns.
            order = list(zip(children, found, strict=True))
            for child, (rates, cpu) in order if turn % 2 else order[::-1]:
                beside.tell(child)
                rate, cpu_ms = map(float, beside.answer(child).split())
                rates.append(rate)
                cpu.append(cpu_ms)
            said = ", ".join(
                f"{name} {f[0][-1]:,.0f}" for name, f in zip(trees, found, strict=True)
            )
            print(f"{kind}, round {turn + 1}, items/s: {said}", flush=True)
    return found


def main() -> int:
    """Run from the command line; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--before", type=Path, help="checkout of an earlier commit")
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], action="append")
    parser.add_argument("--cache", type=Path, help="folder to keep the zip for the next run")
    parser.add_argument("--quick", action="store_true", help="two rounds of 5,000 items")
    given = parser.parse_args()
    if given.quick:
        given.items, given.rounds = min(given.items, 5_000), 2
    trees = {"now": ROOT} if given.before is None else {"before": given.before, "now": ROOT}
    trees = {name: tree.resolve() for name, tree in trees.items()}
    claims = report.Claims()
    rows: list[list[object]] = []
    with site.cache(given.cache) as cache:
        for kind in given.database or ["sqlite", "postgresql"]:
            found = run(kind, trees, cache.resolve(), given)
            for name, (rates, cpu) in zip(trees, found, strict=True):
                rows.append([f"{kind}, {name}", statistics.median(rates), statistics.median(cpu)])
            if given.before is not None:
                faster = beside.paired(found[0][0], found[1][0])
                less = beside.paired(found[0][1], found[1][1])
                what = f"{kind}: {FASTER} × the items/s of the commit before"
                claims.check(faster.middle >= FASTER, what, f"{faster}; processor per item {less}")
    print()
    report.table(("", "items/s", "processor ms per item"), rows)
    return claims.end()


if __name__ == "__main__":
    sys.exit(main())
