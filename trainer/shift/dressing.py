"""Dressing: films get the tone, the sharpness, the marks or the spectrum of other films.

Everywhere `films` and `donors` are uint8 [N, S, S]: each film is dressed as the donor at its place.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trainer.acquisition.marks import SIDE

Films = NDArray[np.uint8]
#: Rings from no cycles to one per two pixels; those of coarse detail, which is left as it is.
RINGS, COARSE = 16, (3, 5)

#: Share of the side around the middle whose gray levels make a film's tone.
MIDDLE = 0.7

#: By how much the amplitudes of a ring are multiplied or divided at most.
GAIN = 4.0

#: Amplitudes are exchanged up to this share of the side in cycles. Yang and Soatto (Fourier Domain
#: Adaptation, CVPR 2020) take 0.01, 0.05 and 0.09; from 0.02 on a film gets patches that are as
#: large as opacities, and what it is called may rightly change.
SPECTRUM = 0.01

#: A mark that differs by fewer gray levels from what is around it is not copied.
FAINT = 20

#: Films whose spectra are held at once.
AT_ONCE = 16


def toned(films: Films, donors: Films) -> Films:
    """Films with their donors' histograms, by matching ranks.

    Of the middle: where one film has a wide black border and the other none, lungs would turn
    black. What is darker or brighter than all of it is stretched to black and white.
    """
    edge = round(films.shape[1] * (1 - MIDDLE) / 2)
    inside = slice(edge, films.shape[1] - edge)
    made = np.empty_like(films)
    for n, (film, donor) in enumerate(zip(films, donors, strict=True)):
        own = np.bincount(film[inside, inside].reshape(-1), minlength=256)
        theirs = np.cumsum(np.bincount(donor[inside, inside].reshape(-1), minlength=256))
        rank = (np.cumsum(own) - own / 2) / own.sum()
        low, high = np.flatnonzero(own)[[0, -1]]
        curve = np.searchsorted(theirs / theirs[-1], rank).clip(0, 255).astype(np.float64)
        curve[: low + 1] = np.linspace(0, curve[low], low + 1) if low else curve[low]
        curve[high:] = np.linspace(curve[high], 255, 256 - high) if high < 255 else curve[high]
        made[n] = np.rint(curve).astype(np.uint8)[film]
    return made


def sharpened(films: Films, donors: Films) -> Films:
    """Films whose fine detail is as strong beside coarser detail as in their donors.

    Amplitudes of each ring of frequencies are multiplied by one factor, as a detector or a
    resampling does by its transfer function; phases, and what is coarse, stay.
    """
    side = films.shape[1]
    radius = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :])
    ring = (radius * 2 * RINGS).astype(np.int64)
    rings = np.arange(int(ring.max()) + 1)
    made = np.empty_like(films)
    for start in range(0, len(films), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        gain = _strengths(donors[part], ring) - _strengths(films[part], ring)
        gain = np.clip(gain, -np.log(GAIN), np.log(GAIN))
        gain[:, : COARSE[1]] = 0
        spectra = np.fft.rfft2(films[part].astype(np.float32))
        for spectrum, its in zip(spectra, gain, strict=True):
            spectrum *= np.exp(np.interp(radius * 2 * RINGS, rings + 0.5, its))
        back = np.fft.irfft2(spectra, s=(side, side))
        made[part] = np.clip(np.rint(back), 0, 255)
    return made


def marked(
    films: Films,
    donors: Films,
    boxes: Sequence[NDArray[np.int16]],
    frames: NDArray[np.int16],
) -> Films:
    """Films with what was burned into their donors.

    `boxes` int16 [M, 4] are where each donor has marks: top, left, height and width in pixels of
    SIDE. `frames` int16 [N, 8] is as `measures.frames` gives them there. Of a mark is taken what
    stands out from the ring around it.
    """
    side = films.shape[1]
    scale = side / SIDE
    made: Films = films.copy()
    for n, (donor, places) in enumerate(zip(donors, boxes, strict=True)):
        for top, left, height, width in places * scale:
            y, x = max(0, round(top) - 1), max(0, round(left) - 1)
            inside = (
                slice(y, min(side, round(top + height) + 1)),
                slice(x, min(side, round(left + width) + 1)),
            )
            _copied(made[n][inside], donor[inside])
        for number, width in enumerate(frames[n, ::2] * scale):
            lines = slice(0, int(np.ceil(width)))
            edge = [(lines, slice(None)), (slice(None), lines)][number % 2]
            turn = slice(None, None, -1 if number > 1 else 1)
            made[n][turn, turn][edge] = donor[turn, turn][edge]
    return made


def as_unit(
    films: Films,
    donors: Films,
    boxes: Sequence[NDArray[np.int16]],
    frames: NDArray[np.int16],
) -> Films:
    """Films as the unit of their donors would have made them: sharpness, tone and marks."""
    return marked(toned(sharpened(films, donors), donors), donors, boxes, frames)


def by_spectrum(
    films: Films,
    donors: Films,
    boxes: Sequence[NDArray[np.int16]],
    frames: NDArray[np.int16],
) -> Films:
    """As `as_unit`, with the tone of the spectrum in the place of the histogram's."""
    return marked(spectrum(sharpened(films, donors), donors), donors, boxes, frames)


def spectrum(films: Films, donors: Films) -> Films:
    """Films with the low-frequency amplitudes of their donors, and their own phases.

    Training changes nothing in this way.
    """
    side = films.shape[1]
    reach = max(1, round(SPECTRUM * side))
    high = np.abs(np.fft.fftfreq(side, 1 / side)) <= reach
    wide = np.arange(side // 2 + 1) <= reach
    low = high[:, None] & wide[None, :]
    made = np.empty_like(films)
    for start in range(0, len(films), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        mine = np.fft.rfft2(films[part].astype(np.float32))
        theirs = np.fft.rfft2(donors[part].astype(np.float32))
        share = np.abs(theirs[:, low]) / np.maximum(np.abs(mine[:, low]), 1e-3)
        mine[:, low] *= share
        back = np.fft.irfft2(mine, s=(side, side))
        made[part] = np.clip(np.rint(back), 0, 255)
    return made


def _strengths(films: Films, ring: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean log amplitude of each ring beside that of the coarse ones; float64 [N, rings].

    A mean of logarithms is of what most frequencies of a ring have: letters weigh little.
    """
    window = np.hanning(films.shape[1] + 2)[1:-1]
    level = films - films.mean(axis=(1, 2), keepdims=True)
    found = np.log(np.abs(np.fft.rfft2(level * window * window[:, None])) + 1)
    counts = np.bincount(ring.reshape(-1))
    mean = np.stack([np.bincount(ring.reshape(-1), one.reshape(-1)) / counts for one in found])
    return np.asarray(mean - mean[:, slice(*COARSE)].mean(axis=1, keepdims=True))


def _copied(film: Films, donor: Films) -> None:
    """Lay onto a part of a film what stands out from the edge of the donor's part [h, w]."""
    if min(donor.shape) < 3:
        return
    ring = np.concatenate([donor[0], donor[-1], donor[1:-1, 0], donor[1:-1, -1]])
    ground = float(np.median(ring))
    above, below = float(donor.max()) - ground, ground - float(donor.min())
    # The mark is what more of the inside goes towards.
    upwards = float(donor[1:-1, 1:-1].mean()) >= ground
    reach = above if upwards else -below
    if abs(reach) < FAINT:
        return
    share = np.clip((donor.astype(np.float32) - ground) / reach, 0, 1)
    film[:] = np.rint(share * donor + (1 - share) * film)
