"""The script that a good engineer writes in an afternoon: PyTorch, torchvision, a DataLoader, fp32.

    python -m tests.bench.parts.dataloader LIST OUT.csv [--size 224]

LIST names a film a line. A dataset as torchvision's ImageFolder, Pillow for decoding, torchvision's
transforms, a worker per core, batches of 32, inference mode, and the faster of the two memory
layouts. The weights are random: they cost what trained ones do. Prints JSON: films per second from
the first batch on.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset
from torchvision import models, transforms
from torchvision.datasets.folder import default_loader

BATCH = 32


class Films(Dataset[tuple[torch.Tensor, str]]):
    """Films by their paths."""

    def __init__(self, paths: list[str], size: int) -> None:
        self._paths = paths
        self._transform = transforms.Compose(
            [
                transforms.Resize((size, size)),
                transforms.ToTensor(),
                transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            ]
        )

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        path = self._paths[index]
        return self._transform(default_loader(path)), path


def layout(net: torch.nn.Module, size: int) -> torch.memory_format:
    """The memory layout that this processor is faster with."""
    times = {}
    for chosen in (torch.contiguous_format, torch.channels_last):
        net.to(memory_format=chosen)
        images = torch.rand(BATCH, 3, size, size).to(memory_format=chosen)
        net(images)
        began = time.perf_counter()
        net(images)
        times[chosen] = time.perf_counter() - began
    return min(times, key=times.__getitem__)


def main() -> None:
    """Score the films."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("list", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, default=224)
    given = parser.parse_args()
    paths = given.list.read_text().splitlines()
    torch.manual_seed(0)
    net = models.resnet18(num_classes=2).eval()
    with torch.inference_mode(), given.out.open("w", newline="") as file:
        chosen = layout(net, given.size)
        net.to(memory_format=chosen)
        cores = len(os.sched_getaffinity(0))
        loader = DataLoader(Films(paths, given.size), batch_size=BATCH, num_workers=cores)
        table = csv.writer(file)
        table.writerow(["path", "label", "probability"])
        first, films = 0.0, 0
        for images, names in loader:
            probabilities = net(images.to(memory_format=chosen)).softmax(1)[:, 1].tolist()
            table.writerows(
                (n, int(p >= 0.5), p) for n, p in zip(names, probabilities, strict=True)
            )
            if first:
                films += len(names)
            else:
                first = time.perf_counter()
        rate = films / (time.perf_counter() - first)
    print(json.dumps({"films_per_s": rate, "layout": str(chosen)}))


if __name__ == "__main__":
    main()
