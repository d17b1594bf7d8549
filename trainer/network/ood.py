"""Out of distribution: one number that says how unlike a film is to those trained on.

Two answers to one question, of which the greater counts. How far are the film's features from the
training films' (Lee et al. 2018, Mahalanobis distance)? That is known without having seen anything
else. And do they look rather like a negative's, as `trainer.network.negatives` makes them? That
knows what a distance is blind to: a film upside down is made of the same bone and air. Features are
the film's own gray levels and what each layer makes of it, averaged over a few cells. Fitted in
seconds, when the network is done.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from trainer.network import augment, model, negatives, optimizers
from trainer.network import device as devices

Floats = NDArray[np.floating[Any]]
Films = NDArray[np.uint8]

#: Cells per side over which each of `model.Stages` is averaged: where the heart is shows in gray
#: levels and the first layers; the last ones say what there is.
CELLS = model.Stages(gray=8, layer1=1, layer2=2, layer3=1, layer4=1)

#: Training films and negatives that are enough, a fraction of an epoch's time.
FILMS, NEGATIVES = 700, 880

#: Films that are looked at at once: what the layers make of more overflows a processor's caches.
BATCH = 16

#: Negatives per training film, at most.
NEGATIVES_PER_FILM = 4

#: Share of the films that are looked at a second time as another room would have made them: what
#: training makes of a film is not strange.
AUGMENTED = 0.5

#: How much of what training does to films: all of it would hide what is strange.
STRENGTH = 0.5

#: Spreads from the mean beyond which a feature tells the head no more.
CLIP = 6.0

#: Weight of the head's squared weights, which a loss of mean 1 stands against.
DECAY = 1e-3

#: Least spread of a feature, as a share of the median one of its stage: channels that are dead on
#: films would make rounding look like a strange film.
LEAST_SPREAD = 0.05

#: Share of validation films that lie within `Detector.threshold`, and the room left beyond: films
#: of other hospitals differ more than those held out.
TYPICAL, ROOM = 0.995, 1.2

#: Share of validation films at which distance and head are made to say the same.
_EQUAL_AT = 0.98


@dataclass(frozen=True, kw_only=True)
class Part:
    """What is known of one stage's D features."""

    #: Which of `model.Stages`.
    stage: str
    #: Cells per side.
    cells: int
    #: `float32 [D]`
    mean: NDArray[np.float32]
    #: `float32 [D]`: 1 / spread.
    gain: NDArray[np.float32]
    #: `float32 [D, D]`: standardised features to what the distance is the length of.
    map: NDArray[np.float32]
    #: `float32 [D]`: weights of the head, for standardised features clipped to ±CLIP.
    head: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Detector:
    """`max(sqrt(sum of squared mapped features), bias + head · clipped features)`."""

    parts: tuple[Part, ...]
    bias: float
    #: Beyond it a film is flagged.
    threshold: float

    def __call__(self, features: list[Floats]) -> NDArray[np.float64]:
        """How unusual films are, `[N]`, by `observe`'s features; 1 is typical of a chest film."""
        squared = np.zeros(len(features[0]))
        head = np.full(len(features[0]), self.bias)
        for part, x in zip(self.parts, features, strict=True):
            z = (x - part.mean) * part.gain
            squared = squared + np.square(z @ part.map, dtype=np.float64).sum(axis=1)
            head = head + z.clip(-CLIP, CLIP) @ part.head
        return np.asarray(np.maximum(np.sqrt(squared), head), np.float64)


class Features:
    """What is looked at of films, collected batch by batch on the network's device."""

    def __init__(self) -> None:
        self._found: list[list[Tensor]] = [[] for _ in CELLS]

    def add(self, stages: model.Stages) -> None:
        """Look at a batch."""
        for list_, x, cells in zip(self._found, stages, CELLS, strict=True):
            list_.append(F.adaptive_avg_pool2d(x, cells).flatten(1))

    def arrays(self) -> list[Floats]:
        """Features `[N, D]` of each stage."""
        return [torch.cat(list_).cpu().numpy() for list_ in self._found]


@torch.no_grad()
def observe(
    net: model.ResNet18, films: Iterable[NDArray[np.uint8]], batch: int = BATCH
) -> list[Floats]:
    """Features `[N, D]` of each stage of films, `uint8 [S, S]` each.

    No more than `batch` are held at a time, of large ones fewer.
    """
    device = next(net.parameters()).device
    net = model.folded(net)
    seen = Features()
    rest = iter(films)
    some = list(itertools.islice(rest, 1))
    while some:
        most = devices.looked_at(torch.device("cpu"), some[0].shape[-1], batch)
        some += itertools.islice(rest, most - 1)
        seen.add(net.stages(torch.from_numpy(np.stack(some)[:, None]).to(device)))
        some = list(itertools.islice(rest, 1))
    return seen.arrays()


def fit(
    net: model.ResNet18,
    planes: Films,
    train: NDArray[np.int64],
    val: list[Floats],
    seed: int = 0,
) -> Detector:
    """A detector for chest films like those of `train`; unit and threshold come from `val`.

    The former are rows of `planes`, `uint8 [films, S, S]`, the latter features of films that were
    held out, which are looked at for other reasons too. At most FILMS of either are taken.
    """
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(train)[:FILMS])
    held_out = np.sort(rng.permutation(len(val[0]))[:FILMS])
    # Looked at where they lie: of large films so many would fill a small machine.
    films = list(map(np.asarray(planes).__getitem__, rows))
    count = min(NEGATIVES, NEGATIVES_PER_FILM * len(films))
    strange = observe(net, negatives.draw(films, count, seed))
    again = _augmented(films[:: round(1 / AUGMENTED)], seed)
    good = observe(net, itertools.chain(films, again))
    return fit_features(good, strange, [x[held_out] for x in val])


def _augmented(films: Sequence[NDArray[np.uint8]], seed: int) -> Iterator[NDArray[np.uint8]]:
    """Films `uint8 [S, S]` as another room would have made them."""
    side = films[0].shape[-1]
    for part, changes in augment.parts(
        len(films), side, seed=seed, epoch=0, step=0, strength=STRENGTH
    ):
        image = torch.from_numpy(np.stack(films[part])[:, None])
        yield from augment.apply(image, changes).round().byte().numpy()[:, 0]


def fit_features(films: list[Floats], strange: list[Floats], val: list[Floats]) -> Detector:
    """A detector from features of films, of negatives and of validation films."""
    means = [x.mean(axis=0, dtype=np.float64) for x in films]
    gains = [_gain(x) for x in films]
    good, bad, held_out = (
        [(x - mean) * gain for x, mean, gain in zip(group, means, gains, strict=True)]
        for group in (films, strange, val)
    )
    maps = [_whitening(z, v) / np.sqrt(len(films)) for z, v in zip(good, held_out, strict=True)]
    clipped = [np.concatenate(group, axis=1).clip(-CLIP, CLIP) for group in (good, bad, held_out)]
    head, bias = _logistic(clipped[0], clipped[1])

    # Both on one scale, by their median and a high quantile on films not trained on.
    mapped = np.concatenate([v @ m for v, m in zip(held_out, maps, strict=True)], axis=1)
    distance = np.sqrt(np.square(mapped).sum(axis=1))
    logit = clipped[2] @ head + bias
    wide = np.quantile(distance, _EQUAL_AT) - np.median(distance)
    scale = wide / max(np.quantile(logit, _EQUAL_AT) - np.median(logit), 1e-6)
    shift = np.median(distance) - scale * np.median(logit)
    unit = np.median(np.maximum(distance, scale * logit + shift))
    unit = max(float(unit), 1e-12)
    edges = np.cumsum([x.shape[1] for x in films])[:-1]
    parts = tuple(
        Part(
            stage=stage,
            cells=cells,
            mean=mean.astype(np.float32),
            gain=gain.astype(np.float32),
            map=(m / unit).astype(np.float32),
            head=(h * scale / unit).astype(np.float32),
        )
        for stage, cells, mean, gain, m, h in zip(
            CELLS._fields, CELLS, means, gains, maps, np.split(head, edges), strict=True
        )
    )
    detector = Detector(parts=parts, bias=float((scale * bias + shift) / unit), threshold=0.0)
    limit = float(np.quantile(detector(val), TYPICAL)) * ROOM
    return Detector(parts=parts, bias=detector.bias, threshold=limit)


def _gain(x: Floats) -> Floats:
    spread = x.std(axis=0, dtype=np.float64)
    return np.asarray(1 / np.maximum(spread, max(LEAST_SPREAD * float(np.median(spread)), 1e-6)))


def _whitening(train: Floats, val: Floats) -> Floats:
    """`[D, D]`: what makes the length of a standardised feature a distance; 1 on half of `val`."""
    spread, directions = np.linalg.eigh(shrunk_covariance(train))
    # Every direction counts: those in which films hardly vary tell a strange image best.
    whiten = directions / np.sqrt(np.maximum(spread, 1e-6))
    length = np.sqrt(np.square(val @ whiten).sum(axis=1))
    # A film that was not trained on lies further out than one that was; the former is the norm.
    return np.asarray(whiten / max(float(np.median(length)), 1e-12))


def shrunk_covariance(centred: Floats) -> NDArray[np.float64]:
    """Covariance of `[N, D]` drawn towards a multiple of the identity (Ledoit and Wolf 2004)."""
    n, d = centred.shape
    covariance = centred.T @ centred / n
    level = float(np.trace(covariance)) / d
    away = float(np.square(covariance).sum()) / d - level**2
    noise = float(np.square(np.square(centred).sum(axis=1)).sum()) / n / d
    noise = (noise - float(np.square(covariance).sum()) / d) / n
    share = min(max(noise / away, 0.0), 1.0) if away > 0 else 1.0
    return np.asarray((1 - share) * covariance + share * level * np.eye(d))


def _logistic(good: Floats, bad: Floats) -> tuple[Floats, float]:
    """Weights `[D]` and bias of a logistic regression: positive is bad. Both count the same."""
    x = torch.from_numpy(np.concatenate([good, bad]).astype(np.float32))
    y = torch.cat([torch.zeros(len(good)), torch.ones(len(bad))])
    share = torch.cat([torch.full((len(g),), 0.5 / len(g)) for g in (good, bad)])
    weights = torch.zeros(x.shape[1] + 1, requires_grad=True)
    optimizer = optimizers.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logit = x @ weights[:-1] + weights[-1]
        each = F.binary_cross_entropy_with_logits(logit, y, reduction="none")
        total = (share * each).sum() + DECAY * weights[:-1].square().sum()
        total.backward()  # type: ignore[no-untyped-call]  # torch has no hint for it
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]  # torch has no hint for it
    found = weights.detach().double().numpy()
    return found[:-1], float(found[-1])
