"""Whether decoding on this machine's GPU is to be had, and worth having.

A GPU's decoder is measured before it serves: where its pixels differ from `trainer.film.rules`'s by
more than the bounds, or nothing is gained in time, it is not used.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer import phantom
from trainer.film import gpu, rules

#: Height, width, JPEG quality, mode and whether it is progressive, of the films that the GPU is
#: compared on: smaller than S, of an ordinary archive, and large enough for each reduced scale.
COMPARED = (
    (200, 170, 75, "L", False),
    (224, 224, 90, "RGB", False),
    (500, 401, 92, "RGB", True),
    (760, 1163, 90, "L", False),
    (1353, 1654, 95, "L", True),
    (2701, 2690, 85, "RGB", False),
)

#: S that it is compared at, and how many films of TIMED's size it is timed with, this many times.
SIZE = 224
TIMED, TIMED_FILMS, TIMES = (1000, 1300, 90, "L", False), 32, 3


class NotOffered(Exception):
    """Decoding on this GPU is not to be had here, or not worth having."""


def offered(device: str, at_least: float) -> str:
    """What it is like, in words, where this device is fit and quick enough; else NotOffered."""
    try:
        import torch
        import torchvision  # noqa: F401
    except (ImportError, OSError) as error:
        raise NotOffered(
            f"it takes torch and torchvision ({error}); on a Jetson install NVIDIA's wheels, "
            "elsewhere pip install 'pneumoq[train]'"
        ) from error
    torch.set_num_threads(1)  # every other core has a decoder of its own
    if device != "cpu" and not torch.cuda.is_available():
        built = torch.version.cuda
        raise NotOffered(
            f"torch {torch.__version__} finds no GPU"
            if built
            else f"torch {torch.__version__} was built without CUDA"
        )
    try:
        _compare(device)
        ours, theirs = _films_per_s(device)
    except RuntimeError as error:
        raise NotOffered(f"it does not work on {device}: {str(error).splitlines()[0]}") from error
    words = f"{ours:.0f} films/s on {device}, {theirs:.0f} in one CPU decoder"
    if ours < at_least * theirs:
        raise NotOffered(f"there is nothing to be gained by it: {words}")
    return words


def _compare(device: str) -> None:
    """NotOffered where this device's pixels are not `trainer.film.rules`'s."""
    films = [_encoded(*look) for look in COMPARED]
    for rule in gpu.RULES:
        for data in films:
            ours = _one(data, SIZE, rule, device)
            apart = np.abs(ours - rules.decode(data, SIZE, rule).astype(np.int16))
            if apart.mean() > gpu.MEAN_BOUND or apart.max() > gpu.MAX_BOUND:
                raise NotOffered(
                    f"its pixels by {rule} differ from the CPU's by {apart.mean():.2f} gray levels "
                    f"on average (limit {gpu.MEAN_BOUND}), {apart.max()} at most "
                    f"(limit {gpu.MAX_BOUND})"
                )
        golden = rules.golden(rule)[0]
        apart = np.abs(_one(golden.film, len(golden.pixels), rule, device) - golden.pixels)
        if apart.max() > rules.GOLDEN_TOLERANCE:
            raise NotOffered(f"golden film 0 of {rule} differs by {apart.max()} gray levels")


def _one(data: bytes, side: int, rule: str, device: str) -> NDArray[np.int16]:
    taken = gpu.takes(data)
    assert taken is not None
    made, certain = gpu.decode([data], [taken[1]], side, rule, device)
    if not certain[0]:
        raise NotOffered("it finds colour in a gray film that is stored as YCbCr")
    return made[0].cpu().numpy().astype(np.int16)


def _films_per_s(device: str) -> tuple[float, float]:
    """Of this device and of one CPU decoder, for films in memory."""
    films = [_encoded(*TIMED)] * TIMED_FILMS
    few = films[:4]

    def on_device() -> None:
        made, _ = gpu.decode(films, [1] * len(films), SIZE, rules.DEFAULT_RULE, device)
        made.cpu()

    def on_cpu() -> None:
        for one in few:
            rules.decode(one, SIZE)

    return len(films) / _best(on_device), len(few) / _best(on_cpu)


def _best(work: Callable[[], object]) -> float:
    """Seconds of the quickest of some runs; the first warms up."""
    took = []
    for _ in range(1 + TIMES):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return min(took[1:])


def _encoded(height: int, width: int, quality: int, mode: str, progressive: bool) -> bytes:
    """A phantom's film as a JPEG."""
    rng = np.random.default_rng([height, width])
    drawn = Image.fromarray(phantom.render(rng, True, 480, 480)).resize((width, height))
    grain = rng.integers(-3, 4, (height, width), np.int16)
    image = Image.fromarray((drawn + grain).clip(0, 255).astype(np.uint8))
    file = io.BytesIO()
    image.convert(mode).save(file, "JPEG", quality=quality, progressive=progressive)
    return file.getvalue()
