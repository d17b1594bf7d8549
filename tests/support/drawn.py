"""Phantoms for tests, drawn once a run: a film takes a tenth of a second."""

from __future__ import annotations

import functools
import shutil
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
    made = once.made(
        f"phantom-folder-{patients}-{seed}",
        lambda path: phantom.write_folder(path, patients, seed),
    )
    shutil.copytree(made, folder, dirs_exist_ok=True)
