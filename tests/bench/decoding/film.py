"""What the film rule costs and what its shortcut saves: `film.decode` beside Pillow's `draft` alone
and beside a full decode, on the same files; and microseconds for a film of 64 × 64 pixels.

    python -m tests.bench.decoding.film [FOLDER] [--size 224]

FOLDER holds JPEG originals; without it ../shared/data/originals is taken, or phantoms where that is
absent.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
import timeit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.support.paths import SHARED
from trainer import phantom
from trainer.film import rules

ORIGINALS = SHARED / "data" / "originals"

#: Each film is decoded this often both ways, in turn; the fastest counts, so that neighbours on the
#: machine disturb neither.
REPEATS = 5

#: Upper limits of the table's rows, in megapixels.
MEGAPIXELS = (0.5, 1.0, 2.0, 4.0, float("inf"))

#: Patients that are drawn where there are no originals.
PHANTOMS = 20


def full(data: bytes, size: int) -> NDArray[np.uint8]:
    """The rule without its shortcut: every pixel is decoded before the film is shrunk."""
    with Image.open(io.BytesIO(data)) as image:
        gray = image.convert("L")
    return np.asarray(gray.resize((size, size), Image.Resampling.BILINEAR))


def draft(data: bytes, size: int) -> NDArray[np.uint8]:
    """What Pillow alone needs at the least: its own shortcut, no check of anything."""
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        image.draft("L", (round(size * rules.DRAFT_GAP), round(size * rules.DRAFT_GAP)))
        gray = image if image.mode == "L" else image.convert("L")
        return np.asarray(gray.resize((size, size), Image.Resampling.BILINEAR))


def best_ms(decode: Callable[[bytes, int], NDArray[np.uint8]], data: bytes, size: int) -> float:
    """Milliseconds of this thread in one decode."""
    started = time.thread_time()
    decode(data, size)
    return (time.thread_time() - started) * 1000


@contextmanager
def films_in(folder: Path | None) -> Iterator[Path]:
    """The folder that was given, the originals, or one of phantoms where these are absent."""
    if folder is not None or ORIGINALS.is_dir():
        yield folder or ORIGINALS
        return
    with tempfile.TemporaryDirectory() as made:
        phantom.write_folder(Path(made), PHANTOMS)
        yield Path(made)


def small() -> None:
    """Print what films of 64 × 64 pixels take at S = 32."""
    ramp = Image.fromarray(np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8))
    place = np.zeros(32 * 32, np.uint8)
    for kind in ("JPEG", "PNG"):
        for mode in ("L", "RGB"):
            buffer = io.BytesIO()
            ramp.convert(mode).save(buffer, kind)
            data = buffer.getvalue()
            best = min(
                timeit.repeat(
                    lambda data=data: rules.decode(data, 32, out=place),
                    number=200,
                    repeat=20,
                    timer=time.thread_time,
                )
            )
            print(f"64 × 64 {mode} {kind}: {best / 200 * 1e6:.0f} µs")


def measure(folder: Path, size: int, repeats: int) -> None:
    """Print the table for the JPEG files below `folder`."""
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    if not paths:
        raise SystemExit(f"{folder} holds no JPEG files")
    rows = []
    for path in paths:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            megapixels = image.width * image.height / 1e6
        apart = np.abs(rules.decode(data, size).astype(int) - full(data, size))
        times = [
            [best_ms(way, data, size) for way in (rules.decode, draft, full)]
            for _ in range(repeats)
        ]
        rows.append((megapixels, *np.min(times, axis=0), apart.mean(), apart.max()))
    table = np.array(rows)
    print(f"{len(paths)} films in {folder}, S = {size}; gray levels run from 0 to 255\n")
    print("megapixels  films   rule ms  draft ms   full ms  of draft  of full  mean apart  largest")
    low = 0.0
    for high in (*MEGAPIXELS, None):
        if high is None:
            part, name = table, "all"
        else:
            part = table[(table[:, 0] > low) & (table[:, 0] <= high)]
            name, low = (f"over {low:g}" if np.isinf(high) else f"to {high:g}"), high
        if len(part):
            rule, least, whole = part[:, 1:4].mean(0)
            print(
                f"{name:>10} {len(part):6} {rule:9.2f} {least:9.2f} {whole:9.2f}"
                f" {rule / least:9.1%} {rule / whole:8.0%}"
                f" {part[:, 4].mean():11.2f} {part[:, 5].max():8.0f}"
            )


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--quick", action="store_true", help="each film is decoded once")
    given = parser.parse_args()
    repeats = 1 if given.quick else REPEATS
    small()
    with films_in(given.folder) as folder:
        measure(folder, given.size, repeats)


if __name__ == "__main__":
    main()
