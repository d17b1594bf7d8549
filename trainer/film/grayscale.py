"""Grayscale: stored values of more than eight bits, or of a DICOM, become eight-bit gray.

Every step from a stored value to a gray level looks at one pixel alone. So the steps are worked out
in floating point once for each value that 8 or 16 bits can have, and a film of any size is then one
look-up in that table: exact, and several times faster than computing with the pixels, or than
shrinking them first in 16 or 32 bits, which would also blur across the edges of the window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float64]
#: `uint8` or `uint16`, as they lie in the file.
Words = NDArray[np.uint8] | NDArray[np.uint16]

#: Names of the functions of PS3.3, section C.11.2.1.
Shape = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]

#: A pixel is coloured when a chroma is further than this from gray, of 128. JPEG and WebP keep the
#: chroma of a gray film within 2.
CHROMA_NOISE = 10

#: A picture is coloured when more than this share of its pixels is: a small marker is not enough.
COLOUR_SHARE = 0.01

#: Pixels per side that are looked at for colour.
_COLOUR_GRID = 32


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where in a word of so many bits the stored value of a pixel is (PS3.5, section 8.1.1)."""

    allocated: int
    stored: int
    high_bit: int
    signed: bool

    @property
    def ends(self) -> tuple[int, int]:
        """The least and the greatest value that can be stored."""
        low = -(1 << (self.stored - 1)) if self.signed else 0
        return low, low + (1 << self.stored) - 1

    def values(self) -> NDArray[np.int64]:
        """The stored value of each possible word."""
        words = np.arange(1 << self.allocated, dtype=np.int64) >> (self.high_bit + 1 - self.stored)
        words &= (1 << self.stored) - 1
        if self.signed:
            words[words >= 1 << (self.stored - 1)] -= 1 << self.stored
        return words


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """A DICOM look-up table (PS3.3, sections C.11.1 and C.11.2)."""

    #: The stored value of the first entry; smaller ones get the first, larger ones the last.
    first: int
    entries: Floats
    #: What the largest entry could be.
    top: float

    def __call__(self, values: Floats) -> Floats:
        """The entries of these values."""
        index = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1)
        found: Floats = self.entries[index.astype(np.int64)]
        return found


@dataclass(frozen=True, kw_only=True)
class Window:
    """A window: which values become black, white and what lies between."""

    centre: float
    width: float
    shape: Shape = "LINEAR"

    def __call__(self, values: Floats) -> Floats:
        """0 (black) to 1 (white), as PS3.3 sections C.11.2.1.2 and C.11.2.1.3 define it."""
        if self.shape == "SIGMOID":
            slope = np.clip(-4 * (values - self.centre) / self.width, -700, 700)
            return 1 / (1 + np.exp(slope))
        if self.shape == "LINEAR_EXACT":
            return np.clip((values - self.centre) / self.width + 0.5, 0, 1)
        if self.width <= 1:
            return (values > self.centre - 0.5).astype(np.float64)
        return np.clip((values - (self.centre - 0.5)) / (self.width - 1) + 0.5, 0, 1)


#: A modality LUT, or slope and intercept.
Modality = Lookup | tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """How stored values become gray: the modality's step, the viewer's, and which end is black."""

    modality: Modality = (1.0, 0.0)
    #: Without one the values that occur are stretched from black to white.
    view: Lookup | Window | None = None
    #: MONOCHROME1: the least value is white.
    inverted: bool = False
    #: Of each of the values, whether it is no part of the film but padding: that is shown black.
    padding: NDArray[np.bool_] | None = None

    def table(self, values: NDArray[np.int64], occurring: tuple[int, int]) -> NDArray[np.uint8]:
        """The gray level of each of `values`; `occurring` are the least and the greatest stored."""
        ends = scaled(self.modality, np.array(occurring, np.float64))
        outputs = scaled(self.modality, values.astype(np.float64))
        if isinstance(self.view, Lookup):
            gray = np.clip(self.view(outputs) / self.view.top, 0, 1)
        elif isinstance(self.view, Window):
            gray = self.view(outputs)
        else:
            low, high = ends.min(), ends.max()
            gray = np.clip((outputs - low) / (high - low or 1.0), 0, 1)
        if self.inverted:
            gray = 1 - gray
        if self.padding is not None:
            gray[self.padding] = 0
        return np.rint(gray * 255).astype(np.uint8)


def scaled(modality: Modality, values: Floats) -> Floats:
    """The modality's step from stored values."""
    if isinstance(modality, Lookup):
        return modality(values)
    slope, intercept = modality
    return values * slope + intercept


def occurring(
    words: Words, values: NDArray[np.int64], padding: NDArray[np.bool_] | None = None
) -> tuple[int, int]:
    """The least and greatest stored value in a film, less its padding."""
    present = np.zeros(len(values), bool)
    present[words] = True
    if padding is not None:
        film = present & ~padding
        present = film if film.any() else present
    found = values[present]
    return int(found.min()), int(found.max())


def stretched(pixels: NDArray[np.integer], *, inverted: bool = False) -> Image.Image:
    """Gray of a 16-bit film without a window: its least value is black, its greatest white."""
    low, high = int(pixels.min()), int(pixels.max())
    offsets = (pixels - low if low else pixels).astype(np.uint16)
    values = np.arange(high - low + 1, dtype=np.int64)
    table = Rendering(inverted=inverted).table(values, (0, high - low))
    return Image.fromarray(table[offsets])


def is_coloured(image: Image.Image) -> bool:
    """Whether a loaded picture shows colour, by 1,024 of its pixels; `YCbCr` is the quickest."""
    sample = image.resize((_COLOUR_GRID, _COLOUR_GRID), Image.Resampling.NEAREST)
    if sample.mode not in ("RGB", "YCbCr"):
        sample = sample.convert("RGB")
    if sample.mode == "RGB":
        sample = sample.convert("YCbCr")
    _, *ends = cast("tuple[tuple[int, int], ...]", sample.getextrema())
    if all(128 - low <= CHROMA_NOISE and high - 128 <= CHROMA_NOISE for low, high in ends):
        return False
    chroma = np.abs(np.asarray(sample)[..., 1:].astype(np.int16) - 128).max(-1)
    return float((chroma > CHROMA_NOISE).mean()) > COLOUR_SHARE
