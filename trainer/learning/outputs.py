"""Outputs: what a network says of films, as they are or changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.data.cache import Pixels
from trainer.errors import Stopped
from trainer.network import augment, model
from trainer.network import device as devices
from trainer.network.feed import Feed


@torch.no_grad()
def predict(
    net: model.ResNet18,
    films: Pixels,
    rows: NDArray[np.int64],
    *,
    view: int | None = None,
    strength: float = 1.0,
    precision: str = "fp32",
    feed: Feed | None = None,
    stop: Callable[[], bool] = lambda: False,
    watch: Callable[[model.Stages], None] = lambda stages: None,
) -> model.Reading:
    """What the network says of these films, float32 on the CPU, without the maps.

    They are read as they are, or with `view` (0, 1, …) as another acquisition would have made them:
    changed as in training (see `augment` for `strength`), the same way each time. `feed` has the
    films on the network's device already; `watch` sees the stages of each batch.
    """
    device = next(net.parameters()).device
    batch = devices.looked_at(device, films.size)
    batches = (feed or Feed(films, device)).batches(rows, batch)
    net.eval()
    logits, pooled = [], []
    for start in range(0, len(rows), batch):
        if stop():
            raise Stopped("stopped during validation")
        x = next(batches)
        if view is not None:
            # Training's epochs begin at 1.
            x = augment.augment(x, seed=view, epoch=0, step=start, strength=strength)
        with devices.autocast(device, precision):
            stages = net.stages(x)
            reading = net.head(stages.layer4)
        watch(stages)
        logits.append(reading.logits.float())
        pooled.append(reading.pooled.float())
    return model.Reading(torch.cat(logits).cpu(), torch.empty(0), torch.cat(pooled).cpu())


@torch.no_grad()
def logits_of(
    net: model.ResNet18,
    planes: NDArray[np.uint8],
    precision: str,
    stop: Callable[[], bool] = lambda: False,
) -> Tensor:
    """Of films `uint8 [N, S, S]` that are in no cache, float32 `[N, C]` on the CPU. Raises
    Stopped."""
    device = next(net.parameters()).device
    batch = devices.looked_at(device, planes.shape[-1])
    found = []
    for start in range(0, len(planes), batch):
        if stop():
            raise Stopped("stopped during validation")
        # A copy: they may be read-only.
        image = torch.tensor(planes[start : start + batch, None], device=device)
        with devices.autocast(device, precision):
            found.append(net(image).float().cpu())
    return torch.cat(found)


def acquired(
    net: model.ResNet18,
    plain: Tensor,
    dressed: Sequence[tuple[NDArray[np.int64], NDArray[np.uint8]]],
    precision: str,
    stop: Callable[[], bool],
) -> Tensor:
    """Logits `[1 + K, N, C]` of N films: `plain` `[N, C]`, and in each of K dressings with those of
    the films at the places that are dressed, `uint8 [n, S, S]`. Raises Stopped."""
    found = [plain]
    for places, planes in dressed:
        found.append(plain.clone())
        found[-1][torch.from_numpy(places)] = logits_of(net, planes, precision, stop)
    return torch.stack(found)
