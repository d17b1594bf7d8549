"""What it costs a decoder to go from one source to the next: 200 films, each a source of its own.

    python -m tests.bench.sources [--films 200] [--decoders 2] [--rounds 5]

The same films are decoded, by the same warm decoders, as so many sources of one file each, as one
folder and as one zip, in turn; the best round of each counts, so that neighbours on the machine
disturb none of them. The films are phantoms of 1,300 × 1,000 pixels as JPEG.

Claim: sources of one film each are decoded at no less than 0.8 times the films/s of the zip.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from tests.bench.parts import report
from trainer import phantom
from trainer.film import rules
from worker import archive
from worker.decoding.pool import Decoders, Film, Place

#: S that the films are decoded to.
SIZE = 224

#: The zip's films/s that single files must reach at least.
SHARE = 0.8

#: Different films; each is there many times.
TEMPLATES = 8


def write(folder: Path, count: int) -> None:
    """So many films as files."""
    made = []
    for film in list(phantom.films(TEMPLATES, 0))[:TEMPLATES]:
        encoded = io.BytesIO()
        with Image.open(io.BytesIO(film.data)) as image:
            image.convert("L").resize((1300, 1000)).save(encoded, "JPEG", quality=90)
        made.append(encoded.getvalue())
    for n in range(count):
        (folder / f"{n:04}.jpeg").write_bytes(made[n % len(made)])


def listed(uri: Path, edition: str) -> list[tuple[Place, archive.Member]]:
    """The films of a source, and where they are."""
    with archive.open_source(str(uri)) as source:
        place = Place(kind=source.kind, uri=str(uri), edition=edition)
        return [(place, member) for member in source.members()]


def seconds(decoders: Decoders, films: list[tuple[Place, archive.Member]]) -> float:
    """What it takes to decode films; RuntimeError where one cannot be."""
    began = time.perf_counter()
    decoders.give(
        Film(token=n, place=place, member=member, rule=rules.DEFAULT_RULE, size=SIZE,
             offset=n * SIZE * SIZE)
        for n, (place, member) in enumerate(films)
    )  # fmt: skip
    through = 0
    while through < len(films):
        for decoded in decoders.collect(1.0):
            if decoded.failure is not None:
                raise RuntimeError(f"a film was not decoded: {decoded.failure.message}")
            through += 1
    return time.perf_counter() - began


def main() -> int:
    """Run from the command line; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--films", type=int, default=200)
    parser.add_argument("--decoders", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round")
    asked = parser.parse_args()
    claims = report.Claims()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "films"
        folder.mkdir()
        write(folder, asked.films)
        files = sorted(folder.iterdir())
        with zipfile.ZipFile(Path(place) / "films.zip", "w") as packed:
            for file in files:
                packed.write(file, file.name)
        # Every round is another job to the decoders.
        ways: dict[str, Callable[[str], list[tuple[Place, archive.Member]]]] = {
            "one file each": lambda job: [
                one for n, file in enumerate(files) for one in listed(file, f"{job}.{n}")
            ],
            "a folder": lambda job: listed(folder, job),
            "a zip": lambda job: listed(Path(place) / "films.zip", job),
        }
        decoders = Decoders(asked.decoders, asked.films * SIZE * SIZE, deadline_s=60, limit_mb=2048)
        seconds(decoders, listed(folder, "warm"))
        best = dict.fromkeys(ways, 0.0)
        for round_ in range(1 if asked.quick else asked.rounds):
            for name, films in ways.items():
                given = films(f"{name} {round_}")
                best[name] = max(best[name], len(given) / seconds(decoders, given))
        decoders.close()
    report.table(["films as", "films/s"], best.items())
    share = best["one file each"] / best["a zip"]
    claims.check(share >= SHARE, f"one file each at {SHARE} × the zip's films/s", f"{share:.2f} ×")
    return claims.end()


if __name__ == "__main__":
    sys.exit(main())
