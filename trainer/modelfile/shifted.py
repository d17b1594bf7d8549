"""Shifted: the shift report of a trained network, on the films that it was not trained on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.checking.fingerprints import Found
from trainer.data import dataset
from trainer.judging import calibration
from trainer.learning import defence, outputs
from trainer.learning.loop import Trained
from trainer.network import device as devices
from trainer.network import model
from trainer.shift import measure, units
from trainer.shift import report as reports

#: Films that are scored, as a share of those that were trained on in all epochs. A film takes about
#: three times as long to train on as to be scored, so that the report takes a tenth of it.
SHARE = 0.3


def report(
    trained: Trained,
    temperature: float,
    bias: NDArray[np.float64],
    threshold: float,
    found: Found,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any] | None:
    """What is left of a network where held-out films are dressed; None without both classes.

    Logits are calibrated by `temperature` and `bias` [C]; films are dressed as the groups that were
    `found` among the training films. Raises Stopped.
    """
    data, seed = trained.dataset, trained.options.seed
    films, _ = defence.at_hand(data, trained.films, found, seed)
    looked = found.searched
    those = units.find(films, looked.looks, named=looked.named, seed=seed)
    most = round(SHARE * len(trained.epochs) * len(data.of(dataset.TRAIN)))
    with devices.settings(trained.options.threads):
        scored = measure.measure(
            films, those, _scorer(trained, temperature, bias), seed=seed, most=most, stop=stop
        )
    if scored is None:
        return None
    return reports.of(films, those, scored, threshold=threshold, seed=seed)


def _scorer(trained: Trained, temperature: float, bias: NDArray[np.float64]) -> measure.Score:
    """P(positive) by the network, on the device and in the precision that it was trained in."""
    net = model.folded(trained.net)
    positive = trained.dataset.positive_index

    def score(planes: NDArray[np.uint8]) -> NDArray[np.float64]:
        logits = outputs.logits_of(net, planes, trained.precision).numpy()
        return np.asarray(calibration.softmax(logits + bias, temperature)[:, positive])

    return score
