"""Runs: what is set in masks, row by row, and the parts that it is made of.

Masks are sparse, so sixty-four of their pixels are looked at as one number.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Pixels of a word.
WORD = 64

#: Pixels of a row with up to so many others between them are of one run: letters of a word.
BETWEEN = 2

Bits = NDArray[np.uint64]


def empty(pixels: int) -> Bits:
    """Room for so many pixels, none of them set."""
    return np.zeros(-(-pixels // WORD), np.uint64)


def pack(bits: Bits, first: int, mask: NDArray[np.bool_]) -> None:
    """Put a mask, contiguous, to its place; `first` is the number of its first pixel, of 8 n."""
    packed = np.packbits(mask.reshape(-1), bitorder="little")
    bits.view(np.uint8)[first // 8 :][: packed.size] = packed


def places(bits: Bits) -> NDArray[np.int64]:
    """Numbers of the pixels that are set, ascending."""
    octets = bits.view(np.uint8)
    which = np.flatnonzero(octets != 0)
    bit = np.flatnonzero(np.unpackbits(octets[which], bitorder="little").view(np.bool_))
    return np.asarray(which[bit >> 3] * 8 + (bit & 7))


def ends(bits: Bits) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first and the last pixel of each run, ascending: more than BETWEEN others lie between
    two runs, also between one at the end of a row and one at the beginning of the next."""
    which = np.flatnonzero(bits != 0)
    word = bits[which]
    follows = np.diff(which) == 1
    earlier, later = np.zeros_like(word), np.zeros_like(word)
    np.copyto(earlier[1:], word[:-1], where=follows)
    np.copyto(later[:-1], word[1:], where=follows)
    before, after = np.zeros_like(word), np.zeros_like(word)
    for by in range(1, BETWEEN + 2):
        step, rest = np.uint64(by), np.uint64(WORD - by)
        before |= word << step | earlier >> rest
        after |= word >> step | later << rest
    first, last = places(word & ~before), places(word & ~after)
    number = which * WORD
    return (
        number[first // WORD] + (first & (WORD - 1)),
        number[last // WORD] + (last & (WORD - 1)),
    )


def parts(
    first: NDArray[np.int64], last: NDArray[np.int64], side: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Connected parts of masks [N, side, side]: which film int64 [K]; top, left, height, width
    int64 [K, 4], those of one film by the first of their pixels.

    `first` and `last` are the `ends` of runs. The last rows of a film are empty, and so are the
    last BETWEEN + 1 columns. Runs of neighbouring rows are of one part where they touch, also with
    up to one pixel between them.
    """
    if not first.size:
        return np.zeros(0, np.int64), np.zeros((0, 4), np.int64)
    # By pairs of runs that touch, one in the row below the other.
    low = _less(last, first + (side - 2))
    high = _less(first, last + (side + 3))
    many = np.maximum(high - low, 0)
    above = np.repeat(np.arange(first.size), many)
    below = np.arange(above.size) + np.repeat(low - np.cumsum(many) + many, many)
    part = _joined(first.size, above, below)
    # As one number they are sorted at once: by part, then by run.
    both = np.sort(part << 32 | np.arange(part.size))
    order = both & (1 << 32) - 1
    starts = np.flatnonzero(np.diff(both >> 32, prepend=-1))
    row = first // side
    left, right = first - row * side, last - row * side
    # Runs are in order, and so are those of a part: its first is at its top.
    top, bottom = row[order[starts]], row[order[np.append(starts[1:], order.size) - 1]] + 1
    film = top // side
    leftmost = np.minimum.reduceat(left[order], starts)
    width = np.maximum.reduceat(right[order], starts) + 1 - leftmost
    return film, np.stack([top - film * side, leftmost, bottom - top, width], axis=1)


def _less(sorted_: NDArray[np.int64], than: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many are less than each of `than`, which are sorted, too: a merge is quicker than a
    search."""
    order = np.argsort(np.concatenate([than, sorted_]), kind="stable")
    return np.flatnonzero(order < than.size) - np.arange(than.size)


def _joined(n: int, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    """The least of 0 … n-1 that each is joined with by the pairs `a`, `b`."""
    part = np.arange(n)
    while (differ := (one := part[a]) != (other := part[b])).any():
        a, b, one, other = a[differ], b[differ], one[differ], other[differ]
        np.minimum.at(part, np.maximum(one, other), np.minimum(one, other))
        while (part != (up := part[part])).any():
            part = up[up]
    return part
