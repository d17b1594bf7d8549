"""Small films that a network can tell apart, and folders of them."""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainer.learning import loop
from trainer.network import model

#: Seconds on one core, and far above chance on the films below.
OPTIONS = loop.Options(
    epochs=2, batch_size=8, lr=2e-3, size=48, init="scratch", threads=1, precision="fp32"
)

#: Channels of the first layer, a quarter of a ResNet18's: a network of so many learns the films
#: below as well, in a fifth of the time.
NARROW = 16


def narrowed(patch: pytest.MonkeyPatch) -> None:
    """Have networks made narrow from now on."""
    patch.setattr(model, "WIDTH", NARROW)


def film(seed: int, sick: bool = False) -> bytes:
    """A gray JPEG of noise, with a bright patch where `sick`; another one for each seed."""
    rng = np.random.default_rng((seed, sick))
    plane = rng.normal(90, 20, (56, 64))
    if sick:
        y, x = rng.integers(8, 28, 2)
        plane[y : y + 20, x : x + 20] += 110
    buffer = io.BytesIO()
    Image.fromarray(plane.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write(root: Path, *names: str) -> None:
    """A film of its own content under each of these paths below `root`."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(film(sum(map(ord, name)) + len(list(path.parent.iterdir())) * 7919))


def fill(root: Path, patients: int, films: int = 2) -> None:
    """NORMAL/ and PNEUMONIA/ of `patients` patients each, with `films` films per patient."""
    for name, sick, first in (("NORMAL", False, 0), ("PNEUMONIA", True, 5000)):
        (root / name).mkdir(parents=True, exist_ok=True)
        for patient in range(first, first + patients):
            for view in range(films):
                path = root / name / f"patient{patient:04}_{view}.jpeg"
                path.write_bytes(film(10 * patient + view, sick))


@contextlib.contextmanager
def unreadable(film: Path, for_s: float) -> Iterator[None]:
    """Reading a film is an input/output error for so many seconds, as on a share that hiccups."""
    aside, link = film.with_name(f".{film.name}"), film.with_name(f".{film.name}.link")
    film.rename(aside)
    # Nothing is mapped at the first address of a process, so that reading there is an error.
    film.symlink_to("/proc/self/mem")
    link.symlink_to(aside)
    back = threading.Timer(for_s, os.replace, (link, film))
    back.start()
    try:
        yield
    finally:
        back.join()
