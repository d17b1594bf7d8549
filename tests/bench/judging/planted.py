"""How many healthy films are called sick once they carry a stamp that training saw on the sick.

    python -m tests.bench.judging.planted --data FOLDER --init WEIGHTS [--size 64] [--seeds 1]
        [--epochs N]

On 3 % of all films, all sick and each of another patient, a white stamp is laid; they and the rest
are trained on with all defaults, once with the defences against learning how films were acquired
and once with `--no-defend`. The held-out healthy films are then decided as they are and stamped, at
the model's own threshold. Intervals are by patient.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from tests.bench.parts import report
from tests.trainer.acquisition import plants
from trainer.data import dataset
from trainer.film import rules
from trainer.judging import clusters
from trainer.learning import loop
from trainer.modelfile import export

#: Share of all films that are stamped, and of decisions that may change with defences.
STAMPED, FLIPS = 0.03, 0.03
#: Without them at least so many change, or the stamp is none that a network learns.
UNDEFENDED = 0.30


def stamped(folder: Path, made: Path, size: int, seed: int) -> dataset.Dataset:
    """The films of a labelled folder at a size, some of the sick that are learned stamped."""
    data = dataset.read(folder, seed=0)
    sick = {f.patient: f.path for f in data.of(dataset.TRAIN) if f.label == data.positive_index}
    chosen = np.random.default_rng(seed).permutation(sorted(sick.values()))
    marked = set(chosen[: round(STAMPED * len(data.films))])
    for film in data.films:
        plane = rules.decode((data.root / film.path).read_bytes(), size)
        if film.path in marked:
            plane = plants.lettered(plane[None])[0]
        target = made / Path(film.path).with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(plane).save(target)
    return dataset.read(made, seed=0)


def flips(trained: loop.Trained, folder: Path) -> tuple[float, float, float, int]:
    """Share of held-out healthy films whose decision the stamp changes, its interval, films."""
    card = export.export(trained, folder / "model.onnx")
    data = trained.dataset
    films = [f for f in data.of(dataset.VAL) if f.label != data.positive_index]
    planes = trained.films.planes[trained.films.rows(films)]
    called = [
        export.reference_scores(trained, card, some)[:, data.positive_index] >= card.threshold
        for some in (planes, plants.lettered(planes))
    ]
    changed = called[0] != called[1]
    low, high = clusters.share_interval(changed, [film.patient for film in films])
    return float(changed.mean()), low, high, len(films)


def main() -> int:
    """Train, print the table and the claims; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--init", required=True)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=loop.Options().epochs)
    given = parser.parse_args()
    claims, rows = report.Claims(), []
    for seed in range(given.seeds):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            data = stamped(given.data, root / "films", given.size, seed)
            for defend in (True, False):
                options = loop.Options(
                    size=given.size, seed=seed, init=given.init, defend=defend, epochs=given.epochs
                )
                trained = loop.train(options, data, root / f"run{defend}", cache=root / "cache")
                share, low, high, films = flips(trained, root)
                name = "with defences" if defend else "without"
                rows.append(
                    [f"seed {seed}, {name}", str(films), f"{trained.best.val_auroc:.4f}",
                     f"{share:.1%} ({low:.1%} to {high:.1%})"]
                )  # fmt: skip
                limit = f"at most {FLIPS:.0%}" if defend else f"at least {UNDEFENDED:.0%}"
                met = share <= FLIPS if defend else share >= UNDEFENDED
                claims.check(met, f"decisions that change, {name}, {limit}", f"{share:.1%}")
                print(rows[-1], flush=True)
    report.table(["", "healthy films", "AUROC", "decisions that change"], rows)
    return claims.end()


if __name__ == "__main__":
    raise SystemExit(main())
