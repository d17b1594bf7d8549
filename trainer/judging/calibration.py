"""Calibration: what turns a network's logits into numbers that a person may act on.

A temperature, so that 0.9 means nine in ten, and an operating point, above which a film is called
positive. Which films it should not judge at all is `trainer.network.ood`'s. NumPy only.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.judging import metrics

Floats = NDArray[np.floating[Any]]

#: Temperatures between which the best is sought; outside, the network has learned nothing.
TEMPERATURES = (0.05, 20.0)

#: How the operating point is chosen where nobody says otherwise.
YOUDEN = "youden"


def softmax(logits: Floats, temperature: float = 1.0) -> NDArray[np.float64]:
    """Probabilities `[N, C]` of logits `[N, C]`."""
    z = logits.astype(np.float64) / temperature
    z = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(z / z.sum(axis=1, keepdims=True))


def scaling(logits: Floats, labels: NDArray[np.integer[Any]]) -> tuple[float, NDArray[np.float64]]:
    """Temperature and bias `[C]` under which `softmax(logits + bias, temperature)` suits `labels`
    best.

    The temperature is Guo et al. 2017's. The bias brings the classes' mean probabilities to their
    shares, which weighting the classes in training has moved. As in Platt 1999 a class of n films
    counts as (n + 1) / (n + C) certain, because a network that is right about every validation film
    would otherwise become endlessly sure of itself.
    """
    n, classes = logits.shape
    size = np.bincount(labels, minlength=classes)
    target = np.repeat((1 / (size + classes))[labels][:, None], classes, axis=1)
    target[np.arange(n), labels] = ((size + 1) / (size + classes))[labels]

    share = target.mean(axis=0)

    def loss(log_temperature: float) -> float:
        t = math.exp(log_temperature)
        p = softmax(logits + _bias(logits, share, t), t)
        return -float((target * np.log(np.maximum(p, 1e-300))).sum(axis=1).mean())

    # Golden section: the loss has one minimum in the temperature's logarithm.
    shrink = (math.sqrt(5) - 1) / 2
    low, high = (math.log(t) for t in TEMPERATURES)
    left, right = high - shrink * (high - low), low + shrink * (high - low)
    at_left, at_right = loss(left), loss(right)
    while high - low > 1e-3:
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - shrink * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + shrink * (high - low)
            at_right = loss(right)
    temperature = math.exp((low + high) / 2)
    return temperature, _bias(logits, share, temperature)


def _bias(logits: Floats, share: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """What makes the mean probabilities `share [C]`.

    Newton's steps where they come nearer, else iterative scaling's (Darroch 1972), which always do.
    """
    bias = np.zeros(logits.shape[1])
    p = softmax(logits, temperature)
    for _ in range(200):
        found = p.mean(axis=0)
        step = temperature * np.log(share / np.maximum(found, 1e-300))
        if np.abs(step).max() < 1e-6:
            break
        slope = (np.diag(found) - p.T @ p / len(p)) / temperature
        newton = np.linalg.pinv(slope, hermitian=True) @ (share - found)
        tried = softmax(logits + bias + newton, temperature)
        if np.abs(tried.mean(axis=0) - share).max() < np.abs(found - share).max() / 2:
            bias, p = bias + newton, tried
        else:
            bias = bias + step
            p = softmax(logits + bias, temperature)
    return np.asarray(bias - bias.mean())


def operating_point(score: metrics.Scores, truth: metrics.Truth, rule: str = YOUDEN) -> float:
    """The threshold on P(positive): `youden`, `sensitivity=0.95`, `specificity=0.95` or `cost=5`.

    Youden's maximises sensitivity + specificity; the next two reach their goal and give up as
    little as possible of the other; the last has the least cost where missing a positive costs that
    many times what a false alarm does, at the share of positives in `truth`. Halfway between the
    two scores that it separates, so that a film a little unlike them falls on the right side.
    Raises ValueError for any other rule.
    """
    values = np.unique(score)
    edges = np.concatenate(([0.0], (values[1:] + values[:-1]) / 2, [1.0]))
    positives, negatives = np.sort(score[truth]), np.sort(score[~truth])
    sensitivity = 1 - np.searchsorted(positives, edges) / max(1, len(positives))
    specificity = np.searchsorted(negatives, edges) / max(1, len(negatives))
    name, _, goal = rule.partition("=")
    if rule == YOUDEN or name == "cost":
        worth = 1.0 if rule == YOUDEN else _cost(rule) * len(positives) / max(1, len(negatives))
        good = worth * sensitivity + specificity
        best = np.flatnonzero(good > good.max() - 1e-9)
        return float(edges[best[len(best) // 2]])
    try:
        wanted = float(goal)
    except ValueError:
        wanted = math.nan
    if name not in ("sensitivity", "specificity") or not 0 < wanted <= 1:
        raise ValueError(
            f"the operating point's rule is {rule!r}; give youden, or one like sensitivity=0.95 or "
            "cost=5"
        )
    if name == "sensitivity":
        return float(edges[np.flatnonzero(sensitivity >= wanted - 1e-9)[-1]])
    return float(edges[np.flatnonzero(specificity >= wanted - 1e-9)[0]])


def _cost(rule: str) -> float:
    """What a missed positive costs in false alarms; raises ValueError."""
    try:
        cost = float(rule.partition("=")[2])
    except ValueError:
        cost = math.nan
    if not 0 < cost < math.inf:
        raise ValueError(
            f"the operating point's rule is {rule!r}; give the cost of a missed positive in false "
            "alarms, like cost=5"
        )
    return cost
