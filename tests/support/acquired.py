"""Looks of films that are at hand as arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer.acquisition import looks, measures
from trainer.acquisition.looks import Looks

Films = NDArray[np.uint8]


def scaled(films: Films, side: int) -> Films:
    """Films, uint8 [N, S, S], at another side."""
    if films.shape[1] == side:
        return films
    size = (side, side)
    return np.stack(
        [np.asarray(Image.fromarray(f).resize(size, Image.Resampling.BILINEAR)) for f in films]
    )


def looked_at(films: Films) -> Looks:
    """What is kept of films, uint8 [N, S, S]."""
    parts = []
    for start in range(0, len(films), 64):
        part = films[start : start + 64]
        parts.append(
            looks.of(
                looks.sides(part),
                measures.tone(part).astype(np.float16),
                np.full((len(part), 2), films.shape[1], np.int32),
                small=films.shape[1] < looks.SMALL_FILMS,
            )
        )
    return looks.joined(parts)
