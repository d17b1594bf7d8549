"""Whether films of one unit and one class are found among those of a labelled folder.

    python -m tests.bench.acquisition.groups --data FOLDER [--seeds 20]
        [--sides 64 224] [--permutations 1000]

On 2 % of FOLDER's films, all of one class and each of another patient, something is laid: letters,
a white rectangle, a tone curve, a frame, or the blur of a coarser detector; what exactly, where,
and which class by the seed. Found means: one named group holds at least 0.8 of these films, and at
least 0.8 of it are such films. Then the classes are exchanged between patients, and it is counted
how often any group is named. What is named of the films as they are is printed.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tests.bench.parts import report
from tests.support.acquired import Films, looked_at, scaled
from trainer.acquisition import groups, marks, one_sided
from trainer.acquisition.looks import Looks
from trainer.acquisition.marks import Marks
from trainer.data import gathering
from trainer.film import rules

Rng = np.random.Generator

#: Share of the films that is planted, and of which found is spoken.
PLANTED, FOUND = 0.02, 0.8


def letters(films: Films, rng: Rng) -> Films:
    """One to three letters or digits, white, in one corner."""
    side = films.shape[1]
    text = "".join(rng.choice(list("ABCDEFGHKLMPQSTX0123456789"), rng.integers(1, 4)))
    font = ImageFont.load_default(size=int(rng.integers(12, 24)) * max(side, 112) // 224)
    down, across = rng.integers(2, max(3, side // 8), 2)
    upper, left = rng.random(2) < 0.5
    made = []
    for film in films:
        image = Image.fromarray(film)
        pen = ImageDraw.Draw(image)
        width, height = pen.textbbox((0, 0), text, font=font)[2:]
        at = (across if left else side - width - across, down if upper else side - height - down)
        pen.text(at, text, fill=255, font=font)
        made.append(np.asarray(image))
    return np.stack(made)


def rectangle(films: Films, rng: Rng) -> Films:
    """A white rectangle near a corner."""
    side = films.shape[1]
    height, width = (
        max(3, int(n) * side // 224) for n in (rng.integers(6, 24), rng.integers(8, 40))
    )
    down, across = rng.integers(0, side // 10 + 1, 2)
    upper, left = rng.random(2) < 0.5
    top = down if upper else side - height - down
    first = across if left else side - width - across
    made = films.copy()
    made[:, top : top + height, first : first + width] = 255
    return made


def tone(films: Films, rng: Rng) -> Films:
    """A power law on the gray levels."""
    gamma = rng.choice([0.6, 0.7, 0.8, 1.25, 1.5, 1.8])
    return np.rint(255 * (np.arange(256) / 255) ** gamma).astype(np.uint8)[films]


def frame(films: Films, rng: Rng) -> Films:
    """A black, gray or white frame."""
    width = max(2, int(rng.integers(4, 13)) * films.shape[1] // 224)
    made = np.full_like(films, rng.choice([0, 128, 255]))
    made[:, width:-width, width:-width] = films[:, width:-width, width:-width]
    return made


def resolution(films: Films, rng: Rng) -> Films:
    """A coarser detector, by 1.5, 2 or 3."""
    side = films.shape[1]
    return scaled(scaled(films, round(side / rng.choice([1.5, 2, 3]))), side)


PLANTS: dict[str, Callable[[Films, Rng], Films]] = {
    "letters": letters,
    "rectangle": rectangle,
    "tone curve": tone,
    "frame": frame,
    "resolution": resolution,
}


def replaced(whole: Looks, rows: NDArray[np.int64], part: Looks) -> Looks:
    """`whole` with the looks of some films in the place of those at `rows`."""
    other = ~np.isin(whole.marks.film, rows)
    fields = ("kind", "box", "picture")
    film = np.concatenate([whole.marks.film[other], rows[part.marks.film].astype(np.int32)])
    order = np.argsort(film, kind="stable")
    both = [
        np.concatenate([getattr(whole.marks, name)[other], getattr(part.marks, name)])[order]
        for name in fields
    ]
    kept = ~np.isin(whole.ends[0], rows)
    ends = np.concatenate([whole.ends[0][kept], rows[part.ends[0]].astype(np.int32)])
    places = np.concatenate([whole.ends[1][kept], part.ends[1]])
    by_film = np.argsort(ends, kind="stable")
    changed = {}
    for name in ("frames", "sharpness", "tone", "sizes"):
        changed[name] = getattr(whole, name).copy()
        changed[name][rows] = getattr(part, name)
    return dataclasses.replace(
        whole,
        marks=Marks(film[order], *both),
        ends=(ends[by_film], places[by_film]),
        **changed,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 224])
    parser.add_argument("--permutations", type=int, default=1000)
    given = parser.parse_args()
    gathered = gathering.gather([given.data])
    films = list({film.sha256: film for film in gathered.films}.values())
    labels = np.array([film.label for film in films])
    patients = [film.patient for film in films]
    large = np.stack(
        [rules.decode((gathered.root / f.path).read_bytes(), marks.SIDE) for f in films]
    )
    rows = []
    for side in given.sides:
        base = scaled(large, side)
        whole = looked_at(base)
        found = groups.find(whole)
        named = one_sided.find(found, labels, patients, len(gathered.labels))
        print(f"at {side} px, nothing planted:")
        for one in named:
            print(f"  {len(one.group.films)} films, {one.counts}, {one.group.what}")
        for name, plant in PLANTS.items():
            hits = 0
            for seed in range(given.seeds):
                hits += _is_found(base, whole, labels, patients, plant, seed)
            rows.append((f"{side} px", name, f"{hits} of {given.seeds}"))
        warned = _warned(found, labels, patients, given.permutations)
        rows.append((f"{side} px", "classes exchanged", f"{warned} of {given.permutations}"))
    report.table(("films", "planted", "named"), rows)


def _is_found(
    base: Films,
    whole: Looks,
    labels: NDArray[np.int64],
    patients: list[str],
    plant: Callable[[Films, Rng], Films],
    seed: int,
) -> bool:
    rng = np.random.default_rng(100 + seed)
    _, first = np.unique(patients, return_index=True)
    of_class = first[labels[first] == seed % 2]
    rows = np.sort(rng.choice(of_class, round(PLANTED * len(labels)), replace=False))
    found = groups.find(replaced(whole, rows, looked_at(plant(base[rows], rng))))
    for one in one_sided.find(found, labels, patients, int(labels.max()) + 1):
        its = np.isin(one.group.films, rows)
        if its.sum() >= FOUND * len(rows) and its.mean() >= FOUND:
            return True
    return False


def _warned(
    found: list[groups.Group], labels: NDArray[np.int64], patients: list[str], times: int
) -> int:
    """How often groups are named when classes are exchanged between patients."""
    classes = int(labels.max()) + 1
    _, who = np.unique(patients, return_inverse=True)
    counts = np.zeros((int(who.max()) + 1, classes), np.int64)
    np.add.at(counts, (who, labels), 1)
    of_patient = counts.argmax(axis=1)
    rng = np.random.default_rng(0)
    return sum(
        bool(one_sided.find(found, rng.permutation(of_patient)[who], patients, classes))
        for _ in range(times)
    )


if __name__ == "__main__":
    main()
