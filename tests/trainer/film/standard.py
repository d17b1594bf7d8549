"""The standard's own film: DICOM PS3.3, sections C.7.6.3 and C.11, without any of our code.

Stored values become gray from 0 to 255 in floating point. What is made of a file must be that,
rounded. `grid` draws renderings (the tags that say how a film is shown) for stored values of any
number of bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence


@dataclass(frozen=True, kw_only=True)
class Table:
    """A look-up table."""

    first: int
    entries: np.ndarray

    def __call__(self, values: np.ndarray) -> np.ndarray:
        return self.entries[np.clip(values - self.first, 0, len(self.entries) - 1).astype(int)]


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """How stored values are to be shown."""

    name: str
    slope: float = 1.0
    intercept: float = 0.0
    modality: Table | None = None
    #: Centre, width and function.
    window: tuple[float, float, str] | None = None
    voi: Table | None = None
    inverted: bool = False
    #: The least and the greatest value of padding.
    padding: tuple[int, int] | None = None
    tags: dict[str, Any] = field(default_factory=dict)


def shown(stored: np.ndarray, how: Rendering, *, bits: int, signed: bool) -> np.ndarray:
    """Gray of stored values, 0.0 to 255.0, not rounded."""
    low = -(1 << (bits - 1)) if signed else 0
    part = np.ones(stored.shape, bool)
    if how.padding is not None:
        part = (stored < how.padding[0]) | (stored > how.padding[1])
    values = _modality(stored.astype(np.float64), how)
    if how.voi is not None:
        gray = how.voi(values) / 65_535
    elif how.window is not None:
        gray = _window(values, *how.window)
    else:
        film = stored[part] if part.any() else stored
        ends = (low, low + (1 << bits) - 1) if bits <= 8 else (film.min(), film.max())
        least, greatest = sorted(_modality(np.array(ends, np.float64), how))
        gray = np.clip((values - least) / ((greatest - least) or 1), 0, 1)
    gray = 1 - gray if how.inverted else gray
    return np.where(part, gray, 0) * 255


def _modality(values: np.ndarray, how: Rendering) -> np.ndarray:
    return values * how.slope + how.intercept if how.modality is None else how.modality(values)


def _window(x: np.ndarray, c: float, w: float, function: str) -> np.ndarray:
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (x - c) / w))
    if function == "LINEAR_EXACT":
        middle = (x - c) / w + 0.5
        return np.where(x <= c - w / 2, 0, np.where(x > c + w / 2, 1, middle))
    middle = (x - (c - 0.5)) / (w - 1) + 0.5
    low, high = c - 0.5 - (w - 1) / 2, c - 0.5 + (w - 1) / 2
    return np.where(x <= low, 0, np.where(x > high, 1, middle))


def grid(*, bits: int, signed: bool) -> Iterator[Rendering]:
    """Renderings for stored values of so many bits, each with the tags that ask for it."""
    low, span = (-(1 << (bits - 1)) if signed else 0), 1 << bits
    middle = low + span // 2
    yield Rendering(name="no window")
    for name, function, centre, width in (
        ("a wide window", "", middle + 0.5, span * 0.9),
        ("a narrow window", "LINEAR", low + span / 3, max(2, span // 9)),
        ("an exact window", "LINEAR_EXACT", middle - span / 7, span / 2),
        ("a sigmoid window", "SIGMOID", middle, span / 3),
    ):
        centre, width = float(f"{centre:.4f}"), float(f"{width:.4f}")
        tags = {"WindowCenter": f"{centre:.4f}", "WindowWidth": f"{width:.4f}"}
        if function:
            tags["VOILUTFunction"] = function
        yield Rendering(name=name, window=(centre, width, function), tags=tags)
    scaled = {"RescaleSlope": "0.5", "RescaleIntercept": "-400"}
    centre, width = middle / 2 - 400, span / 2 * 0.7
    yield Rendering(
        name="a rescaled window, decimal commas",
        slope=0.5,
        intercept=-400,
        window=(centre, float(f"{width:.3f}"), ""),
        tags={
            **scaled,
            "WindowCenter": f"{centre:.3f}".replace(".", ","),
            "WindowWidth": f"{width:.3f}".replace(".", ","),
        },
    )
    yield Rendering(
        name="falling values",
        slope=-2,
        intercept=100,
        tags={"RescaleSlope": "-2", "RescaleIntercept": "100"},
    )
    count = min(span, 4096)
    curve = np.rint(65_535 * (np.arange(count) / (count - 1)) ** 0.6)
    first = middle - count // 2
    yield Rendering(
        name="a VOI LUT",
        voi=Table(first=first, entries=curve),
        tags={"VOILUTSequence": table(first, curve), "WindowCenter": "1", "WindowWidth": "2"},
    )
    yield Rendering(
        name="a VOI LUT of rescaled values",
        intercept=-(low + span // 2),
        voi=Table(first=-(count // 2), entries=curve),
        tags={
            "RescaleSlope": "1",
            "RescaleIntercept": str(-(low + span // 2)),
            "VOILUTSequence": table(-(count // 2), curve),
        },
    )
    narrow = np.rint(4095 * (np.arange(count) / (count - 1)) ** 1.4)
    yield Rendering(
        name="a VOI LUT of twelve bits in words of sixteen",
        voi=Table(first=first, entries=narrow / 4095 * 65_535),
        tags={"VOILUTSequence": table(first, narrow)},
    )
    yield Rendering(
        name="a modality LUT",
        modality=Table(first=first, entries=curve),
        window=(30_000, 40_000, ""),
        tags={
            "ModalityLUTSequence": table(first, curve),
            "WindowCenter": "30000",
            "WindowWidth": "40000",
        },
    )


def table(first: int, entries: np.ndarray) -> Sequence:
    """A sequence of one look-up table of 16 bits."""
    item = Dataset()
    item.LUTDescriptor = [len(entries) & 0xFFFF, first, 16]
    item["LUTDescriptor"].VR = "SS" if first < 0 else "US"
    if first < 0 and len(entries) >= 1 << 15:
        raise ValueError("so many entries cannot be written as signed")
    item.LUTData = [int(entry) for entry in entries]
    item["LUTData"].VR = "US"
    item.ModalityLUTType = "US"
    return Sequence([item])
