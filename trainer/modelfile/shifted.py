"""Shifted: the shift report of a trained network, on the films that it was not trained on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.data import dataset
from trainer.judging import calibration
from trainer.learning.loop import Trained
from trainer.network import device as devices
from trainer.network import model
from trainer.shift import measure, units
from trainer.shift import report as reports

#: Films that are scored, as a share of those that were trained on in all epochs. A film takes about
#: three times as long to train on as to be scored, so that the report takes a thirtieth of it.
SHARE = 0.1


def report(
    trained: Trained,
    temperature: float,
    bias: NDArray[np.float64],
    threshold: float,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any] | None:
    """What is left of a network where held-out films are dressed; None without both classes.

    Logits are calibrated by `temperature` and `bias` [C]. Raises Stopped.
    """
    data, seed = trained.dataset, trained.options.seed
    trained_on, every = data.of(dataset.TRAIN), data.of(dataset.VAL)
    learned, held_out = units.at_hand(trained_on, every, seed)
    at_hand = (*learned, *held_out)
    films = units.Films(
        planes=trained.films.planes,
        rows=trained.films.rows(at_hand),
        labels=np.array([film.label for film in at_hand], dtype=np.int64),
        patients=[film.patient for film in at_hand],
        held_out=np.arange(len(at_hand)) >= len(learned),
        names=data.labels,
        positive=data.positive_index,
        patients_are=data.patients,
        drawn_of=len(every),
    )
    found = units.find(films, units.look(films, stop), seed=seed)
    most = round(SHARE * len(trained.epochs) * len(trained_on))
    with devices.settings(trained.options.threads):
        scored = measure.measure(
            films, found, _scorer(trained, temperature, bias), seed=seed, most=most, stop=stop
        )
    if scored is None:
        return None
    return reports.of(films, found, scored, threshold=threshold, seed=seed)


def _scorer(trained: Trained, temperature: float, bias: NDArray[np.float64]) -> measure.Score:
    """P(positive) by the network, on the device and in the precision that it was trained in."""
    net = model.folded(trained.net)
    device = next(net.parameters()).device
    positive = trained.dataset.positive_index

    @torch.no_grad()
    def score(planes: NDArray[np.uint8]) -> NDArray[np.float64]:
        batch = devices.looked_at(device, planes.shape[-1])
        logits = []
        for start in range(0, len(planes), batch):
            # A copy: they may be read-only.
            image = torch.tensor(planes[start : start + batch, None], device=device)
            with devices.autocast(device, trained.precision):
                logits.append(net(image).float().cpu().numpy())
        scores = calibration.softmax(np.concatenate(logits) + bias, temperature)
        return np.asarray(scores[:, positive])

    return score
