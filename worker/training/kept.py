"""What a training leaves on this machine and nowhere else: what its films are called."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from worker.machine import privacy

log = logging.getLogger(__name__)


class Kept:
    """The names of one job's films in the home, without which the job goes on."""

    def __init__(self, home: Path, job_id: int) -> None:
        self._home = home
        self._job_id = job_id

    def names(self, made: Mapping[str, str]) -> None:
        """Keep what each hash in a manifest stands for."""
        if not made:
            return
        try:
            privacy.keep_names(self._home, self._job_id, privacy.of_manifest(made))
        except OSError as error:
            self._cannot(error)

    def left_out(self, files: Sequence[Mapping[str, str]]) -> str:
        """Keep which files the training does without; how many, and where that is, in words."""
        codes = Counter(file["code"] for file in files)
        counted = ", ".join(f"{n} {code}" for code, n in sorted(codes.items()))
        said = f"{len(files)} files are left out ({counted})"
        rows = [(file["path"], file["code"], file["reason"]) for file in files]
        try:
            path = privacy.keep_left_out(self._home, self._job_id, rows)
        except OSError as error:
            self._cannot(error)
            return said
        return f"{said}; {privacy.where(self._home, path)} names them"

    def _cannot(self, error: OSError) -> None:
        log.warning(
            "job %d: names of films cannot be kept in PNEUMOQ_HOME (%s); make room there",
            self._job_id, error.strerror,
        )  # fmt: skip
