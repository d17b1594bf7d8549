"""Phantoms for tests, each patient's drawn once a run: a film takes a tenth of a second."""

from __future__ import annotations

import functools
from pathlib import Path

from tests.support import once
from trainer import phantom
from trainer.phantom import Phantom


def films(patients: int, seed: int = 0, first_patient: int = 0) -> tuple[Phantom, ...]:
    """What `phantom.films` yields."""
    numbers = range(first_patient, first_patient + patients)
    return tuple(film for number in numbers for film in _of(number, seed))


def write_folder(folder: Path, patients: int, seed: int = 0) -> None:
    """Write what `phantom.write_folder` writes."""
    for label in phantom.LABELS:
        (folder / label).mkdir(parents=True, exist_ok=True)
    for film in films(patients, seed):
        (folder / film.label / film.name).write_bytes(film.data)


@functools.cache
def _of(patient: int, seed: int) -> tuple[Phantom, ...]:
    """A patient's films. They depend on nothing else: whoever asks for more shares them."""
    return once.value(f"phantoms-{seed}-{patient}", lambda: tuple(phantom.films(1, seed, patient)))
