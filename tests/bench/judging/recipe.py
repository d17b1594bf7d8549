"""What a way of training leaves of a network where films are acquired otherwise.

    python -m tests.bench.judging.recipe --data FOLDER --init WEIGHTS [--size 224] [--epochs 3]
        [--seeds 1] [--first-seed 0] [--no-defend] [--keep FOLDER]
        [--set trainer.learning.defence.LEAST=0.05 ...] [--sides 128 160 224]

Trains on FOLDER, whose films are divided by seed 0 whatever the seed of the training, and prints a
line for each seed: AUROC of the held-out films as they are, in the worst of all groups that the
healthy or the sick are dressed as, in the worst with the tone of the spectrum, which training never
changes, and in the full counter-shift; and mean P of the films that are dressed, before and after.
A constant of a module is set by its full name. With `--sides` the network is shown films of the
first side in the first epoch, and so on; held-out films keep theirs. FOLDER of `--keep` gets each
seed's model file, and its weights as `tests.bench.judging.judge` reads them.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from tests.bench.parts import report
from trainer import checkpoint
from trainer.card import Card
from trainer.data import dataset
from trainer.learning import loop
from trainer.modelfile import export
from trainer.network import augment
from trainer.shift.measure import COUNTER, SPECTRUM, UNIT


def growing(sides: Sequence[int]) -> None:
    """Have the films of each epoch be brought to its side before they are augmented."""
    real = augment.augment

    def smaller(image: Tensor, *, epoch: int, **options: Any) -> Tensor:
        side = sides[min(epoch, len(sides)) - 1]
        if side < image.shape[-1]:
            image = F.interpolate(image.float(), size=side, mode="area")
        return real(image, epoch=epoch, **options)

    augment.augment = smaller


def row(name: str, card: Card, took: float, films_per_s: float) -> list[str]:
    """One line of the table, by a model's shift report."""
    shift = card.shift
    assert shift is not None
    found = [name, f"{shift['plain']['value']:.4f}"]
    for kind in (UNIT, SPECTRUM):
        those = [one for one in shift["dressings"] if one["kind"] == kind]
        if not those:
            found += ["", ""]
            continue
        worst = min(those, key=lambda one: float(one["auroc"]["value"]))
        means = worst["mean_p"].values()
        found += [
            f"{worst['auroc']['value']:.4f}",
            ", ".join(f"{mean['before']:.3f} → {mean['after']:.3f}" for mean in means),
        ]
    full = [one for one in shift["dressings"] if one["name"] == f"{COUNTER} full"]
    return [*found, *(f"{one['auroc']['value']:.4f}" for one in full), f"{took:.0f}",
            f"{films_per_s:.1f}"]  # fmt: skip


def main() -> None:
    """Train and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--init", required=True)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=loop.Options.epochs)
    parser.add_argument("--lr", type=float, default=loop.Options.lr)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--no-defend", dest="defend", action="store_false")
    parser.add_argument("--set", dest="constants", action="append", default=[])
    parser.add_argument("--sides", type=int, nargs="+", default=[])
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    for constant in given.constants:
        name, _, value = constant.partition("=")
        module, _, attribute = name.rpartition(".")
        setattr(importlib.import_module(module), attribute, float(value))
    if given.sides:
        growing(given.sides)
    data = dataset.read(given.data, seed=0)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(given.first_seed, given.first_seed + given.seeds):
            options = loop.Options(
                size=given.size, epochs=given.epochs, lr=given.lr, seed=seed, init=given.init,
                defend=given.defend,
            )  # fmt: skip
            run = Path(folder) / str(seed)
            trained = loop.train(options, data, run, cache=Path(folder) / "films")
            card = export.export(trained, run / "model.onnx")
            if given.keep is not None:
                given.keep.mkdir(parents=True, exist_ok=True)
                shutil.copy(run / "model.onnx", given.keep / f"seed{seed}.onnx")
                checkpoint.save(given.keep / f"seed{seed}.pth", dict(trained.net.state_dict()))
            took = sum(one.seconds for one in trained.epochs)
            # Films per second of all epochs together: each has as many.
            rate = len(trained.epochs) / sum(1 / one.films_per_s for one in trained.epochs)
            rows.append(row(f"seed {seed}", card, took, rate))
            print(rows[-1], flush=True)
    report.table(
        [
            "",
            "as they are",
            "worst group",
            "P",
            "worst spectrum",
            "P",
            "counter-shift",
            "s",
            "films/s",
        ],
        rows,
    )


if __name__ == "__main__":
    main()
