"""Counter-shift: the healthy get the acquisition of the sick, and the sick that of the healthy.

The sick lie in a ward: their films are wider than high, and softer. The healthy stand in a room of
their own: squarer and crisper. A network that looks at lungs loses a little where that is turned
round; one that looks at the shape and the sharpness of a film turns its verdicts round.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

#: Of a film uint8 [S, S].
Plane = NDArray[np.uint8]
Change = Callable[[Plane], Plane]


def stretched(wide: float, high: float, share: float = 1.0) -> Change:
    """The middle `wide` × `high` of a film as the whole film, softened by a smaller detector."""

    def change(plane: Plane) -> Plane:
        side = plane.shape[0]
        image = Image.fromarray(plane)
        dx, dy = (1 - wide) * side / 2, (1 - high) * side / 2
        image = image.resize(image.size, Image.Resampling.BILINEAR, (dx, dy, side - dx, side - dy))
        if share < 1:
            small = round(side * share)
            image = image.resize((small, small), Image.Resampling.BILINEAR)
            image = image.resize((side, side), Image.Resampling.BILINEAR)
        return np.asarray(image)

    return change


def sharpened(wide: float, percent: int) -> Change:
    """A squarer film with edge enhancement."""

    def change(plane: Plane) -> Plane:
        image = Image.fromarray(stretched(wide, 1.0)(plane))
        return np.asarray(image.filter(ImageFilter.UnsharpMask(1, percent, 0)))

    return change


#: By how much → what becomes of a healthy film, and of a sick one.
SHIFTS: dict[str, tuple[Change, Change]] = {
    "half": (stretched(1, 0.9, 0.87), sharpened(0.9, 35)),
    "full": (stretched(1, 0.81, 0.75), sharpened(0.81, 70)),
}
