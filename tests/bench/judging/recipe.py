"""What a way of training leaves of a network where films are acquired otherwise.

    python -m tests.bench.judging.recipe --data FOLDER --init WEIGHTS [--size 224] [--epochs 3]
        [--seeds 1] [--no-defend] [--set trainer.learning.defence.LEAST=0.05 ...] [--keep FOLDER]

Trains on FOLDER, whose films are divided by seed 0 whatever the seed of the training, and prints a
line for each seed: AUROC of the held-out films as they are, in the worst of all groups that the
healthy or the sick are dressed as, in the worst with the tone of the spectrum, which training never
changes, and in the full counter-shift; and mean P of the films that are dressed, before and after.
A constant of a module is set by its full name. FOLDER of `--keep` gets each seed's model file, and
its weights as `tests.bench.judging.judge` reads them.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import tempfile
from pathlib import Path

from tests.bench.parts import report
from trainer import checkpoint
from trainer.card import Card
from trainer.data import dataset
from trainer.learning import loop
from trainer.modelfile import export
from trainer.shift.measure import COUNTER, SPECTRUM, UNIT


def row(name: str, card: Card, took: float) -> list[str]:
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
    return [*found, *(f"{one['auroc']['value']:.4f}" for one in full), f"{took:.0f}"]


def main() -> None:
    """Train and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--init", required=True)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=loop.Options.epochs)
    parser.add_argument("--lr", type=float, default=loop.Options.lr)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--no-defend", dest="defend", action="store_false")
    parser.add_argument("--set", dest="constants", action="append", default=[])
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    for constant in given.constants:
        name, _, value = constant.partition("=")
        module, _, attribute = name.rpartition(".")
        setattr(importlib.import_module(module), attribute, float(value))
    data = dataset.read(given.data, seed=0)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(given.seeds):
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
            rows.append(row(f"seed {seed}", card, sum(one.seconds for one in trained.epochs)))
            print(rows[-1], flush=True)
    report.table(
        ["", "as they are", "worst group", "P", "worst spectrum", "P", "counter-shift", "s"], rows
    )


if __name__ == "__main__":
    main()
