"""Thousands of films that are as large as real ones: re-encodings of a few originals.

    python -m tests.bench.parts.films --cache FOLDER [--originals FOLDER] [--films N]

Each film is an original at its own size, made lighter or darker by a few gray levels and encoded
anew at a JPEG quality near its own, so that no two have the same bytes and each costs as much to
decode as the original does. They are made once and found again in the cache folder, as a folder and
as a zip whose members are stored.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import random
import zipfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from tests.support.paths import SHARED

ORIGINALS = SHARED / "data" / "originals"

#: Gray levels that are added.
SHIFTS = (0, 1, -1, 2, -2, 3, -3)

#: Steps of JPEG quality around the original's.
QUALITIES = (0, 1, -1, 2, -2, 3, -3, -4)

#: Above this a JPEG grows fast, and scanners do not go there.
BEST_QUALITY = 97

#: Bump when other bytes are made.
EDITION = 1


@dataclass(frozen=True, kw_only=True)
class Films:
    """Films on disk, the same ones twice."""

    folder: Path
    archive: Path
    paths: list[Path]

    @property
    def mean_bytes(self) -> float:
        """Mean size of a film."""
        return self.archive.stat().st_size / len(self.paths)


def add_options(parser: argparse.ArgumentParser, films: int) -> None:
    """The options of a benchmark that works on these films."""
    parser.add_argument("--films", type=int, default=films, help="how many re-encodings")
    parser.add_argument(
        "--originals", type=Path, default=ORIGINALS, help="folder of JPEG films to re-encode"
    )
    parser.add_argument("--cache", type=Path, help="folder to keep what is made for the next run")


def prepare(cache: Path, count: int, originals: Path = ORIGINALS) -> Films:
    """At least `count` films (as many of each original), made unless the cache has them."""
    sources = sorted(p for p in originals.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    if not sources:
        raise SystemExit(f"{originals} holds no JPEG films; name a folder with --originals")
    each = -(-count // len(sources))
    if each > len(SHIFTS) * len(QUALITIES):
        raise SystemExit(
            f"{len(sources)} originals give {len(sources) * len(SHIFTS) * len(QUALITIES):,} films "
            f"at most, not {count:,}; ask for fewer with --films"
        )
    key = hashlib.sha256(f"{EDITION} {originals.resolve()} {each}".encode()).hexdigest()[:8]
    base = cache / f"films-{len(sources) * each}-{key}"
    folder, archive, done = base / "films", base / "films.zip", base / "complete"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        digests: set[bytes] = set()
        with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            work = [(source, number, folder, each) for number, source in enumerate(sources)]
            for made in pool.map(_encode, work):
                digests.update(made)
        if len(digests) != len(sources) * each:
            raise RuntimeError(f"of {len(sources) * each} films {len(digests)} are distinct")
    # Large and small films take turns, as in any archive that was not sorted by size.
    paths = sorted(folder.iterdir())
    random.Random(0).shuffle(paths)
    if not done.exists():
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as target:
            for path in paths:
                target.write(path, path.name)
        done.touch()
    return Films(folder=folder, archive=archive, paths=paths)


def _encode(work: tuple[Path, int, Path, int]) -> list[bytes]:
    """Write the films of one original; their digests."""
    source, number, folder, each = work
    digests = []
    with Image.open(source) as image:
        quality = _quality(image)
        pixels = image.convert("L" if image.mode == "L" else "RGB")
    for n, (shift, setting) in enumerate(_settings(quality)):
        if n == each:
            break
        shifted = pixels.point([min(max(v + shift, 0), 255) for v in range(256)] * len(pixels.mode))
        encoded = io.BytesIO()
        shifted.save(encoded, "JPEG", quality=setting)
        (folder / f"film{number:03d}-{n:02d}.jpeg").write_bytes(encoded.getbuffer())
        digests.append(hashlib.blake2b(encoded.getbuffer(), digest_size=16).digest())
    return digests


def _settings(quality: int) -> Iterator[tuple[int, int]]:
    middle = min(quality, BEST_QUALITY - max(QUALITIES))
    for shift in SHIFTS:
        for step in QUALITIES:
            yield shift, middle + step


def _quality(image: Image.Image) -> int:
    """The libjpeg quality whose luma table is most like this film's."""
    tables = getattr(image, "quantization", None)
    if not tables:
        return 90
    mean = float(sum(tables[0])) / 64
    # Annex K's luma table has a mean of 57.6; libjpeg scales it by (200 - 2 × quality) %.
    scale = mean / 57.6 * 100
    return round(min(max((200 - scale) / 2 if scale <= 100 else 5000 / scale, 50), 100))


def main() -> None:
    """Make the films, and say how large they are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_options(parser, 5000)
    given = parser.parse_args()
    if given.cache is None:
        parser.error("give --cache FOLDER: what is made should stay")
    films = prepare(given.cache, given.films, given.originals)
    print(
        f"{len(films.paths):,} films of {films.mean_bytes / 1e3:,.0f} kB in {films.folder.parent}"
    )


if __name__ == "__main__":
    main()
