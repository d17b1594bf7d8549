"""Negatives: pictures that are no chest films, made to teach a detector what it must flag.

Half of the kinds are training films spoiled (turned, inverted, cut up, …), which share all of their
texture with good ones; the others are drawn (pages, bones, fans, photographs, …). What people send
by mistake is none of these exactly: the kinds only have to surround the good films on all sides.
NumPy and Pillow only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import ImageFilter

from trainer.network import drawn, spoiled
from trainer.network.planes import Plane, Rng, to_image, to_plane


def draw(
    films: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
    count: int,
    seed: int,
    kinds: tuple[str, ...] = (),
) -> Iterator[NDArray[np.uint8]]:
    """`count` pictures `uint8 [S, S]`, one by one, of each of `kinds` in turn, by default of all.

    `films`, of that shape too, are what the spoiled ones are made of.
    """
    chosen = kinds or tuple(KINDS)
    for n in range(count):
        rng = np.random.default_rng((seed, n))
        film = films[int(rng.integers(len(films)))].astype(np.float32)
        plane = KINDS[chosen[n % len(chosen)]](rng, film)
        yield np.rint(_exposed(rng, plane)).clip(0, 255).astype(np.uint8)


def _exposed(rng: Rng, plane: Plane) -> Plane:
    """Another gamma, contrast, sharpness and noise, so that none of these tells a kind."""
    side = len(plane)
    if rng.random() < 0.3:
        soft = rng.uniform(0.3, 1.5) * side / 224
        plane = to_plane(to_image(plane).filter(ImageFilter.GaussianBlur(soft)))
    if rng.random() < 0.5:
        plane = 255 * (plane.clip(0, 255) / 255) ** np.float32(2 ** rng.uniform(-0.8, 0.8))
    if rng.random() < 0.3:
        low, high = rng.uniform(0, 70), rng.uniform(160, 255)
        plane = low + plane * np.float32((high - low) / 255)
    if rng.random() < 0.3:
        plane = plane + rng.normal(0, rng.uniform(1, 8), plane.shape).astype(np.float32)
    return plane


#: Every kind, by name.
KINDS: dict[str, Callable[[Rng, Plane], Plane]] = {
    "quarter turned": spoiled.quarter_turned,
    "upside down": spoiled.upside_down,
    "inverted": spoiled.inverted,
    "askew": spoiled.askew,
    "detail": spoiled.detail,
    "shuffled": spoiled.shuffled,
    "overlaid": spoiled.overlaid,
    "swirled": spoiled.swirled,
    "same spectrum": spoiled.same_spectrum,
    "edges": spoiled.edges,
    "two tones": spoiled.two_tones,
    "tiny": spoiled.tiny,
    "smeared": spoiled.smeared,
    "page": drawn.page,
    "bones": drawn.bones,
    "slice": drawn.cross_section,
    "fan": drawn.fan,
    "leaves": drawn.leaves,
    "clouds": drawn.clouds,
    "scene": drawn.scene,
    "pattern": drawn.pattern,
    "test object": drawn.test_object,
}
