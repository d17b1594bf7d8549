"""How a model does on films that were acquired otherwise than those it was trained on.

    python -m tests.bench.shift MODEL.onnx --data FOLDER [--originals FOLDER] [--seed 0]

FOLDER is the labelled folder that the model was trained on, the seed that of its training: only
patients that it held out are scored, as they are and as other rooms would have made them. The
hardest rows are the counter-shifts: films of healthy children get the acquisition of the sick
(wider than high, softer), and films of the sick that of the healthy (squarer, crisper). A network
that looks at lungs loses a little there; one that looks at the shape and the sharpness of a film
turns its verdicts round. ORIGINALS holds the same file names at their original size.
"""

from __future__ import annotations

import argparse
import io
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.bench.parts import report
from trainer import card as cards
from trainer.data import dataset
from trainer.film import rules
from trainer.judging import figures
from trainer.shift.counter import SHIFTS as COUNTER
from trainer.shift.counter import Change, Plane, stretched
from worker.engine import open_engine
from worker.training import precisions


def toned(gamma: float, then: Change = lambda plane: plane) -> Change:
    """Another exposure: gray levels from 0 to 1 to the power of gamma."""
    table = np.round(255 * (np.arange(256) / 255) ** gamma).astype(np.uint8)
    return lambda plane: table[then(plane)]


def noisy(sigma: float) -> Change:
    """A lower dose; `sigma` is on the scale 0 to 1."""

    def change(plane: Plane) -> Plane:
        draw = np.random.default_rng(int(plane.sum()))
        return np.clip(plane + draw.normal(0, 255 * sigma, plane.shape), 0, 255).astype(np.uint8)

    return change


def compressed(plane: Plane) -> Plane:
    """JPEG at quality 30."""
    file = io.BytesIO()
    Image.fromarray(plane).save(file, "JPEG", quality=30)
    return np.asarray(Image.open(file))


def nearest(plane: Plane) -> Plane:
    """Shrunk to 160 px without antialiasing."""
    image = Image.fromarray(plane).resize((160, 160), Image.Resampling.NEAREST)
    return np.asarray(image.resize(plane.shape[::-1], Image.Resampling.BILINEAR))


def same(plane: Plane) -> Plane:
    """As it is."""
    return plane


#: Name → what becomes of a healthy film, and of a sick one.
SHIFTS: dict[str, tuple[Change, Change]] = {
    "as they are": (same, same),
    "gamma 0.7": (toned(0.7),) * 2,
    "gamma 1.4": (toned(1.4),) * 2,
    "noise 0.03": (noisy(0.03),) * 2,
    "half resolution": (stretched(1, 1, 0.5),) * 2,
    "no antialiasing": (nearest,) * 2,
    "JPEG quality 30": (compressed,) * 2,
    "wider by 1.2": (stretched(1, 1 / 1.2),) * 2,
    "squarer by 1.2": (stretched(1 / 1.2, 1),) * 2,
    **{f"counter-shift, {strength}": changes for strength, changes in COUNTER.items()},
    "counter-shift, dark": (toned(1.4, stretched(1, 0.9)), toned(0.7, stretched(0.9, 1))),
    "counter-shift, light": (toned(0.7, stretched(1, 0.9)), toned(1.4, stretched(0.9, 1))),
}


def main() -> None:
    """Print a line for each shift, for each source of healthy films, and for the originals."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--originals", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    card = cards.read(given.model)
    engine = open_engine(given.model, batch=16, threads=2)

    def score(planes: list[Plane]) -> NDArray[np.float32]:
        scores, _ = precisions.scores(engine, np.stack(planes)[:, None])
        return scores[:, card.positive_index]

    def row(name: str, p: NDArray[np.float32], truth: NDArray[np.bool_]) -> list[str]:
        m = figures.summary(p, truth, card.threshold)
        keys = ("auroc", "accuracy", "sensitivity", "specificity", "ece")
        return [name, str(len(p)), *(f"{m[key]:.4f}" for key in keys)]

    data = dataset.read(given.data, seed=given.seed, positive=card.positive)
    held_out = data.of(dataset.VAL)
    truth = np.array([f.label == data.positive_index for f in held_out])
    planes = [rules.decode((data.root / f.path).read_bytes(), card.size) for f in held_out]
    print(f"{len(planes)} films of held-out patients, threshold {card.threshold:.4f}")
    rows = []
    as_they_are = None
    for name, changes in SHIFTS.items():
        shifted = [changes[int(sick)](plane) for plane, sick in zip(planes, truth, strict=True)]
        p = score(shifted)
        as_they_are = p if as_they_are is None else as_they_are
        rows.append(row(name, p, truth))
    assert as_they_are is not None
    sources = [re.split(r"[-_\d]", Path(f.path).name)[0] for f in held_out]
    for source in sorted({s for s, sick in zip(sources, truth, strict=True) if not sick}):
        chosen = truth | np.array([s == source for s in sources])
        rows.append(row(f"healthy of {source} only", as_they_are[chosen], truth[chosen]))
    report.table(["films", "n", "AUROC", "accuracy", "sens.", "spec.", "ECE"], rows)

    if given.originals:
        large = {path.name: path for path in sorted(given.originals.glob("*/*"))}
        pairs = [(large[Path(f.path).name], f) for f in data.films if Path(f.path).name in large]
        p = score([rules.decode(path.read_bytes(), card.size) for path, _ in pairs])
        q = score([rules.decode((data.root / f.path).read_bytes(), card.size) for _, f in pairs])
        mine = np.array([f.split == dataset.VAL for _, f in pairs])
        same_side = (p >= card.threshold) == (q >= card.threshold)
        print(
            f"{len(pairs)} originals ({mine.sum()} of held-out patients) against their small "
            f"copies: {same_side.sum()} decisions equal, |Δp| {np.abs(p - q).mean():.4f} on average"
        )
        labels = np.array([f.label == data.positive_index for _, f in pairs])
        report.table(
            ["films", "n", "AUROC", "accuracy", "sens.", "spec.", "ECE"],
            [row("originals", p, labels), row("their copies", q, labels)],
        )


if __name__ == "__main__":
    main()
