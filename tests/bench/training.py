"""How fast a network trains, beside the reference recipe, and what the data path costs.

    python -m tests.bench.training [--data FOLDER] [--films 960] [--rounds 3] [--quick]

1. Films per second of an epoch, ours and the reference's, in turns: the same films, size, batch and
   number of passes, nothing frozen. The reference is what jetson-inference's `train.py` does: fp32,
   ImageFolder and DataLoader with two workers, RandomResizedCrop and a mirror image, SGD
   (`tests.bench.parts.reference_recipe`). Without FOLDER the films are made up.
2. The share of an epoch in which training waits for films, once they are in the cache.
3. The cost per film of the data path (reading the folder, decoding into the cache, taking batches)
   at 1,000 and at 50,000 films of 64 px, and the memory that each run added, files mapped into
   memory not counted.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from tests.bench.parts import report
from trainer import phantom
from trainer.data import cache as pixel_cache
from trainer.data import dataset
from trainer.film import rules
from trainer.learning import loop

#: Ours over the reference's films per second, where the processor computes in bf16 and elsewhere.
FASTER, FASTER_FP32 = 1.8, 1.2

#: Share of an epoch that may be spent waiting for films.
WAITING = 0.05

#: What a film may cost more at the larger size; a shared machine is no steadier than this.
FLAT = 1.25

#: Films of the data path, and what the larger set may need more of memory, in MiB.
FEW, MANY, MORE_MB = 1_000, 50_000, 64

BATCH = 32


def folder_of_films(root: Path, films: int, size: int, data: Path | None) -> None:
    """`root/train/<class>/`: `size` × `size` JPEG films, taken from `data` or made up."""
    if data is None:
        found = [(item.label, item.data) for item in phantom.films(films // 2, seed=0)][:films]
    else:
        read = dataset.read(data)
        chosen = read.of(dataset.TRAIN)
        step = max(1, len(chosen) // films)
        found = [(read.labels[f.label], (read.root / f.path).read_bytes()) for f in chosen[::step]][
            :films
        ]
    for number, (label, content) in enumerate(found):
        target = root / "train" / label / f"patient{number:05}_1.jpeg"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rules.decode(content, size)).convert("RGB").save(target, quality=92)


def ours(data: dataset.Dataset, cache: Path, folder: Path, passes: int) -> loop.Trained:
    """A run of this many epochs, whose films are in `cache` already."""
    options = loop.Options(
        epochs=passes, batch_size=BATCH, size=224, init="scratch", patience=0, threads=0
    )
    return loop.train(options, data, folder, cache=cache)


def reference(root: Path, passes: int) -> float:
    """Films per second of the reference recipe's passes, in a process of its own."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.bench.parts.reference_recipe", str(root / "train"),
         "--epochs", str(passes), "--batch-size", str(BATCH)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return float(json.loads(run.stdout.splitlines()[-1])["films_per_s"])


def data_path(films: int) -> dict[str, float]:
    """Milliseconds per film of each step at 64 px, and MiB of memory added; run in a child."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch, "films")
        draw = np.random.default_rng(0)
        for number in range(films):
            # Noise in a few bytes: each content is another, none takes long to make.
            plane = np.kron(draw.integers(0, 255, (8, 8), np.uint8), np.ones((8, 8), np.uint8))
            file = io.BytesIO()
            Image.fromarray(plane).save(file, "PNG", compress_level=1)
            target = root / ("NORMAL", "PNEUMONIA")[number % 2] / f"patient{number // 2:06}_1.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.getvalue())
        spent = {}
        began = time.perf_counter()
        data = dataset.read(root)
        spent["read"] = time.perf_counter() - began
        before = anonymous_mb()
        began = time.perf_counter()
        data, decoded = pixel_cache.decode(data, Path(scratch, "cache"), size=64)
        spent["decode"] = time.perf_counter() - began
        rows = decoded.rows(data.of(dataset.TRAIN))
        order = np.random.default_rng(1).permutation(len(rows))
        took = []
        while sum(map(len, took)) < 20_000:
            for start in range(0, len(order) - BATCH, BATCH):
                took.append(order[start : start + BATCH])
        began = time.perf_counter()
        for batch in took:
            decoded.take(rows[batch])
        taken = time.perf_counter() - began
        return {
            **{name: seconds / films * 1000 for name, seconds in spent.items()},
            "take": taken / sum(map(len, took)) * 1000,
            "memory": anonymous_mb() - before,
        }


def anonymous_mb() -> float:
    """Memory of this process that is no file's, in MiB."""
    text = Path("/proc/self/status").read_text()
    line = next(line for line in text.splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


def main() -> int:
    """Measure and judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--films", type=int, default=960)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--passes", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only-path", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only_path:
        print(json.dumps(data_path(given.only_path)))
        return 0
    if given.quick:
        given.films, given.rounds = 320, 1
    claims = report.Claims()

    with tempfile.TemporaryDirectory() as scratch:
        root, cache = Path(scratch, "films"), Path(scratch, "cache")
        folder_of_films(root, given.films, 224, given.data)
        data = dataset.read(root)
        pixel_cache.decode(data, cache, size=224)
        rates: dict[str, list[float]] = {"ours": [], "reference": []}
        waiting = []
        for number in range(given.rounds):
            trained = ours(data, cache, Path(scratch, f"run{number}"), given.passes)
            rates["ours"].append(statistics.mean(e.films_per_s for e in trained.epochs))
            waiting += [e.waiting for e in trained.epochs]
            rates["reference"].append(reference(root, given.passes))
            print(
                f"round {number + 1}: ours {rates['ours'][-1]:.1f} films/s "
                f"({trained.precision}), reference {rates['reference'][-1]:.1f} films/s",
                flush=True,
            )
        ratios = [a / b for a, b in zip(rates["ours"], rates["reference"], strict=True)]
        wanted = FASTER if trained.precision == "bf16" else FASTER_FP32
        claims.check(
            statistics.median(ratios) >= wanted,
            f"at least {wanted} × the reference recipe, {os.cpu_count()} cores",
            f"{statistics.median(ratios):.2f} × (rounds {', '.join(f'{r:.2f}' for r in ratios)})",
        )
        claims.check(
            max(waiting) <= WAITING,
            f"at most {WAITING:.0%} of an epoch waiting for films",
            f"{max(waiting):.2%}",
        )

    sizes = (FEW, MANY // 10 if given.quick else MANY)
    found = []
    for films in sizes:
        run = subprocess.run(
            [sys.executable, "-m", "tests.bench.training", "--only-path", str(films)],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        found.append(json.loads(run.stdout.splitlines()[-1]))
    steps = ("read", "decode", "take")
    report.table(
        ["films", *(f"{s} ms/film" for s in steps), "memory added, MiB"],
        [
            [f"{n:,}", *(f[s] for s in steps), f["memory"]]
            for n, f in zip(sizes, found, strict=True)
        ],
    )
    few, many = (sum(f[s] for s in steps) for f in found)
    claims.check(
        many <= FLAT * few,
        f"a film of {sizes[1]:,} costs what one of {sizes[0]:,} does",
        f"{many:.3f} ms against {few:.3f} ms",
    )
    claims.check(
        found[1]["memory"] - found[0]["memory"] <= MORE_MB,
        f"memory bounded by the batch: {sizes[1]:,} films need at most {MORE_MB} MiB more",
        f"{found[1]['memory'] - found[0]['memory']:.0f} MiB more",
    )
    return claims.end()


if __name__ == "__main__":
    sys.exit(main())
