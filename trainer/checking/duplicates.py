"""Duplicates: which films show the same picture, whatever their size, format and brightness.

A print is the low frequencies of a film (discrete cosine transform of 64 × 64 pixels, 16 × 16
coefficients less the mean), each weighted by its frequency, because natural pictures hold energy in
inverse proportion to it and chest films differ least where they hold most. Two films are the same
picture where their prints correlate by SAME or more.

Measured on the public paediatric set (Kermany et al. 2018): an original of up to 2890 × 2570 and
its 224 × 224 copy made without antialiasing correlate by 0.996 or more, a copy of JPEG quality 30
by 0.995 or more; of 13.6 million pairs of other films the closest has 0.952.

Not all pairs are compared. The signs of the coefficients are cut into keys of a few bits; films
that share a key are compared, each with the next few of its key. So the work grows as the number of
films. Two signs differ with probability arccos(correlation) / pi: of 10,000 films, two that
correlate by 0.97 have no key in common once in a million.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from trainer.data.disjoint import DisjointSets

#: Side of the pixels that a print is made of, and of the square of coefficients that is kept.
SIDE, KEPT = 64, 16

#: Prints that correlate so are of one picture.
SAME = 0.97

#: How often the coefficients are cut into keys, each time in another order.
ROUNDS = 3

#: Films compared with the next so many that share a key: films that are all alike need no more.
NEXT = 16

#: Candidate pairs compared at a time.
BATCH = 1 << 15

#: A film whose print has less than this length, in gray levels, is blank: it is like any other.
BLANK = 64.0

Print = NDArray[np.float32]


def _cosines() -> Print:
    """The first KEPT rows of the orthonormal DCT-II of SIDE values."""
    n, k = np.arange(SIDE), np.arange(KEPT)[:, None]
    rows = np.cos(np.pi * (2 * n + 1) * k / (2 * SIDE)) * math.sqrt(2 / SIDE)
    rows[0] /= math.sqrt(2)
    return rows.astype(np.float32)


_DCT = _cosines()
_FREQUENCY = np.hypot(np.arange(KEPT)[:, None], np.arange(KEPT)).astype(np.float32)


def prints(films: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Prints of films `uint8 [N, 64, 64]`, `float32 [N, 255]` of length 1; zeros where blank."""
    found = _DCT @ films.astype(np.float32) @ _DCT.T * _FREQUENCY
    found = found.reshape(len(films), -1)[:, 1:]
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    return np.asarray(np.where(lengths >= BLANK, found / np.maximum(lengths, BLANK), 0), np.float32)


def groups(prints: NDArray[np.float32]) -> list[list[int]]:
    """Rows of `prints`, `float32 [N, 255]`, that show one picture, two or more in each group."""
    alike_rows: DisjointSets[int] = DisjointSets()
    for pairs in _candidates(prints):
        for start in range(0, len(pairs), BATCH):
            left, right = pairs[start : start + BATCH].T
            alike = np.einsum("ij,ij->i", prints[left], prints[right]) >= SAME
            for a, b in zip(left[alike].tolist(), right[alike].tolist(), strict=True):
                alike_rows.join(a, b)
    found: dict[int, list[int]] = {}
    for row in range(len(prints)):
        found.setdefault(alike_rows.find(row), []).append(row)
    return [rows for rows in found.values() if len(rows) > 1]


def _candidates(prints: NDArray[np.float32]) -> Iterator[NDArray[np.int64]]:
    """Pairs of rows worth comparing, `int64 [pairs, 2]`, key by key."""
    rows = np.flatnonzero(prints.any(axis=1))
    signs = prints[rows] > 0
    bits = max(6, math.ceil(math.log2(max(2, len(rows)))) + 2)
    places = np.int64(1) << np.arange(bits)
    draw = np.random.default_rng(0)
    for _ in range(ROUNDS):
        order = draw.permutation(prints.shape[1])
        for start in range(0, len(order) - bits + 1, bits):
            keys = signs[:, order[start : start + bits]] @ places
            sequence = np.argsort(keys, kind="stable")
            keys = keys[sequence]
            for step in range(1, min(NEXT, len(rows) - 1) + 1):
                same = np.flatnonzero(keys[step:] == keys[:-step])
                if not len(same):
                    break
                yield np.stack((rows[sequence[same]], rows[sequence[same + step]]), axis=1)
