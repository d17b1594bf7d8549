"""The recipe of the tool that people come from: ImageFolder, DataLoader, fp32, SGD.

    python -m tests.bench.parts.reference_recipe FOLDER [--epochs 1] [--batch-size 32]

What jetson-inference's `train.py` does with its defaults (two loader processes, RandomResizedCrop,
a mirror image, SGD with learning rate 0.1, momentum 0.9 and decay 1e-4), on the processor. Prints
JSON: films per second of the passes, without the start of the loaders.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from torchvision import datasets, models, transforms


def main() -> None:
    """Train on FOLDER."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=32)
    given = parser.parse_args()
    films = datasets.ImageFolder(
        str(given.folder),
        transforms.Compose(
            [
                transforms.RandomResizedCrop(224),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            ]
        ),
    )
    loader = DataLoader(films, batch_size=given.batch_size, shuffle=True, num_workers=2)
    torch.manual_seed(0)
    net = models.resnet18(num_classes=len(films.classes)).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    criterion = torch.nn.CrossEntropyLoss()
    done, spent = 0, 0.0
    for _ in range(given.epochs):
        began = 0.0
        for images, target in loader:
            if not began:  # the loaders have started
                began = time.perf_counter()
            loss = criterion(net(images), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += len(target)
        spent += time.perf_counter() - began
    print(json.dumps({"films_per_s": done / spent}))


if __name__ == "__main__":
    main()
