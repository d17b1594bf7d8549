"""What it costs to learn which films are unusual; the short way says what the long one said.

    python -m tests.bench.ood [FOLDER] [--weights FILE] [--quick]

FOLDER is a labelled folder (Kermany's 5,216 films; phantoms without). The long way looks at every
film by the network as it is trained, 64 at a time, and at those held out once more than validation
does. Both ways run in turn in one process; seconds are of the processor (all threads together), so
that other programs on the machine count little. Ends with the ratio, and with the largest
difference of a distance, as a share, over films held out and pictures that are no films.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from trainer import phantom
from trainer.data import cache, dataset
from trainer.network import augment, model, negatives, ood

SIZE = 224


@torch.no_grad()
def plainly(net: model.ResNet18, films: ood.Films, batch: int = 64) -> list[ood.Floats]:
    """Features as the network computes them in training's validation."""
    net.eval()
    seen = ood.Features()
    for start in range(0, len(films), batch):
        image = torch.from_numpy(np.ascontiguousarray(films[start : start + batch, None]))
        seen.add(net.stages(image))
    return seen.arrays()


def long_way(
    net: model.ResNet18, planes: ood.Films, train: NDArray[np.int64], val: NDArray[np.int64]
) -> ood.Detector:
    rng = np.random.default_rng(0)
    rows, held_out = (np.sort(rng.permutation(r)[: ood.FILMS]) for r in (train, val))
    films = planes[rows]
    again = torch.from_numpy(films[:: round(1 / ood.AUGMENTED), None].copy())
    changed = augment.augment(again, seed=0, epoch=0, step=0, strength=ood.STRENGTH)
    count = min(ood.NEGATIVES, ood.NEGATIVES_PER_FILM * len(films))
    strange = plainly(net, np.stack([*negatives.draw(films, count, 0)]))
    films = np.concatenate([films, changed.round().byte().numpy()[:, 0]])
    return ood.fit_features(plainly(net, films), strange, plainly(net, planes[held_out]))


def timed(fit: Callable[[], ood.Detector]) -> tuple[float, ood.Detector]:
    """Seconds of the processor, and what was fitted."""
    began = time.process_time()
    detector = fit()
    return time.process_time() - began, detector


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--weights", default=model.SCRATCH, help="a file of ResNet18's weights")
    parser.add_argument("--quick", action="store_true", help="some phantoms, one round")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = given.folder or Path(name, "films")
        if given.folder is None:
            phantom.write_folder(folder, 60 if given.quick else 400)
        data, films = cache.decode(dataset.read(folder), Path(name), size=SIZE)
        train, val = (films.rows(data.of(split)) for split in (dataset.TRAIN, dataset.VAL))
        net, _ = model.build(len(data.labels), given.weights)
        net.to(memory_format=torch.channels_last)
        by_validation = plainly(net, films.planes[val])
        ways = {
            "long": functools.partial(long_way, net, films.planes, train, val),
            "short": functools.partial(ood.fit, net, films.planes, train, by_validation),
        }
        spent: dict[str, list[float]] = {way: [] for way in ways}
        detectors = {}
        for _ in range(1 if given.quick else 3):
            for way, fit in ways.items():
                seconds, detectors[way] = timed(fit)
                spent[way].append(seconds)
        looked = np.concatenate([films.planes[val], [*negatives.draw(films.planes[val], 66, 1)]])
        features = plainly(net, looked)
        one, other = (detectors[way](features) for way in ways)
    least = {way: min(seconds) for way, seconds in spent.items()}
    print(f"{len(train)} films to learn from, {len(val)} held out, {SIZE} px")
    for way, seconds in least.items():
        print(f"{way:>5}: {seconds:.1f} s of the processor")
    print(f"ratio short : long {least['short'] / least['long']:.2f}")
    print(f"largest difference of a distance {np.abs(other / one - 1).max():.1e}")


if __name__ == "__main__":
    main()
