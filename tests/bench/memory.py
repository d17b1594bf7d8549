"""A worker's memory over 100,000 films: whether anything grows.

    python -m tests.bench.memory [--films 100000] [--database sqlite] [--cache FOLDER]

The films are JPEG of 256 × 256 pixels, re-encoded from originals (phantoms where there are none),
all with different bytes, in one zip and one job. They are really decoded; the model is a constant
of 64 × 64 pixels. What is resident in the worker and in each of its decoders is read every half
second.

Claim: after all films it is within 10 % of what it was after 5,000.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import time
from pathlib import Path

from PIL import Image

from tests.bench.parts import archives, constant, memory, report, site
from tests.bench.parts import films as film_files
from tests.worker import samples
from trainer import phantom

#: Side of a film in pixels, and S of the model.
SIDE, SIZE = 256, 64

#: Templates; each film is one of them with a number in it.
TEMPLATES = 94

#: Films after which the worker counts as warm, and how much may be added to that.
WARM, MORE = 5_000, 0.10

#: What is resident is the median of so many samples: it flickers by a batch or a shard.
AROUND = 5


def templates(originals: Path) -> list[bytes]:
    """Small films as JPEG."""
    paths = sorted(p for p in originals.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    found = [p.read_bytes() for p in paths[:TEMPLATES]]
    if not found:
        found = [f.data for f in phantom.films(TEMPLATES // 2, 0)][:TEMPLATES]
    made = []
    for data in found:
        encoded = io.BytesIO()
        with Image.open(io.BytesIO(data)) as image:
            image.convert("L").resize((SIDE, SIDE)).save(encoded, "JPEG", quality=75)
        made.append(encoded.getvalue())
    return made


def measure(kind: str, source: Path, films: int, claims: report.Claims) -> None:
    """Score the archive and print what was resident on the way."""
    readings: list[tuple[int, float, list[float]]] = []
    with site.installation(kind) as at:
        path = at.logs / "constant.onnx"
        constant.write(path, SIZE)
        model_id = samples.register(at.engine, {"fp32": path})
        worker = at.worker()
        decoders: list[int] = []

        def look(_: float, done: int) -> None:
            nonlocal decoders
            decoders = decoders or memory.decoders_of(worker.pid)
            if decoders and done:
                readings.append(
                    (
                        done,
                        memory.resident_mb(worker.pid),
                        [memory.resident_mb(pid) for pid in decoders],
                    )
                )

        began = time.monotonic()
        course = site.follow(at, site.submit(at, model_id, source), began, look, look_s=0.5)
        if memory.decoders_of(worker.pid) != decoders:
            raise RuntimeError(f"a decoder was replaced\n{at.tail()}")
        # The last shard was committed after the last look.
        look(course.seconds, course.items)
    first = next(n for n, s in enumerate(readings) if s[0] >= min(WARM, films // 4))
    chosen = sorted({first + n * (len(readings) - 1 - first) // 10 for n in range(11)})
    names = ["worker", *(f"decoder {n + 1}" for n in range(len(decoders)))]
    report.table(
        (f"MB resident, {kind}", *names),
        [(f"after {readings[n][0]:,} films", *_around(readings, n)) for n in chosen],
    )
    before, after = _around(readings, first), _around(readings, len(readings) - 1)
    for name, early, late in zip(names, before, after, strict=True):
        claims.check(
            late <= early * (1 + MORE),
            f"{kind}: {name} within {MORE:.0%} of its memory after {readings[first][0]:,} films",
            f"{late / early - 1:+.1%} after {course.items:,} ({early:.0f} → {late:.0f} MB), "
            f"at {course.rate:,.0f} films/s",
        )


def _around(readings: list[tuple[int, float, list[float]]], n: int) -> list[float]:
    """The medians of the readings from n on, or up to the last."""
    start = max(0, min(n, len(readings) - AROUND))
    near = readings[start : start + AROUND]
    rows = [[worker, *decoders] for _, worker, decoders in near]
    return [statistics.median(column) for column in zip(*rows, strict=True)]


def main() -> int:
    """Run from the command line; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--films", type=int, default=100_000)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], action="append")
    parser.add_argument("--originals", type=Path, default=film_files.ORIGINALS)
    parser.add_argument("--cache", type=Path, help="folder to keep the zip for the next run")
    parser.add_argument("--quick", action="store_true", help="20,000 films")
    given = parser.parse_args()
    films = min(given.films, 20_000) if given.quick else given.films
    claims = report.Claims()
    with site.cache(given.cache) as folder:
        source = folder / f"small-{films}.zip"
        if not source.exists():
            makers = [archives.jpeg(data) for data in templates(given.originals)]
            archives.write(source, films, makers, [".jpeg"])
        size = source.stat().st_size
        print(f"{films:,} films of {SIDE} × {SIDE} pixels in a zip of {size / 1e6:,.0f} MB\n")
        for kind in given.database or ["sqlite", "postgresql"]:
            measure(kind, source, films, claims)
    return claims.end()


if __name__ == "__main__":
    sys.exit(main())
