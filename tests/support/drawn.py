"""Phantoms for tests, drawn once a run: a film takes a tenth of a second."""

from __future__ import annotations

import functools
from pathlib import Path

from tests.support import once
from trainer import phantom
from trainer.phantom import Phantom


@functools.cache
def films(patients: int, seed: int = 0, first_patient: int = 0) -> tuple[Phantom, ...]:
    """What `phantom.films` yields."""
    return once.value(
        f"phantoms-{patients}-{seed}-{first_patient}",
        lambda: tuple(phantom.films(patients, seed, first_patient)),
    )


def write_folder(folder: Path, patients: int, seed: int = 0) -> None:
    """Write what `phantom.write_folder` writes."""
    for label in phantom.LABELS:
        (folder / label).mkdir(parents=True, exist_ok=True)
    for film in films(patients, seed):
        (folder / film.label / film.name).write_bytes(film.data)
