"""Trials: what our readers make of mutated files, and what is wrong about that.

    python -m tests.fuzz.trial KIND FIRST COUNT ...    # a line of JSON for each kind

Run as a process of its own, so that a decoder that ends it is told from one that fails. The kind
and number of the file that is being tried stand on standard error.
"""

from __future__ import annotations

import faulthandler
import json
import resource
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from tests.fuzz import bases, mutations, references
from tests.worker import archives
from trainer.data import manifest
from trainer.errors import DatasetError, FilmError
from trainer.film import rules
from worker import archive
from worker.errors import ArchiveError, MemberError

#: Seconds after which a file has hung its reader.
DEADLINE_S = 60

#: Address space of the process: a reader that asks for more gets a MemoryError.
MEMORY = 8 << 30

ARCHIVES = ("zip", "tar", "tar.gz", "tar.zst")


class Trials:
    """Files of one kind, tried one after another."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self._folder = folder
        self.told: Counter[str] = Counter()
        self.compared = 0
        self.faults: list[str] = []

    def run(self, seed: int) -> None:
        """Try the file of one seed."""
        data = mutations.mutated(bases.of(self.kind), self.kind, seed)
        try:
            if self.kind in ARCHIVES:
                self._archive(data)
            elif self.kind == "CSV":
                self._table(data)
            else:
                self._film(data)
        except Wrong as error:
            self.faults.append(f"{self.kind} {seed}: {error}")
        except Exception as error:  # noqa: BLE001 - that it is raised is what is looked for
            self.faults.append(f"{self.kind} {seed}: {type(error).__name__}: {error}")

    def _film(self, data: bytes) -> None:
        try:
            rules.decode(data, 32)
            film = np.asarray(rules.gray(data), np.float64)
        except FilmError as error:
            self.told[error.code] += 1
            return
        except MemoryError:
            self.told["memory"] += 1
            return
        self.told["film"] += 1
        other = self._reference(data)
        if other is None:
            return
        self.compared += 1
        if film.shape != other.shape:
            raise Wrong(f"{film.shape}, and by the other decoder {other.shape}")
        apart = references.apart(film, other, self.kind)
        if apart.any():
            most = np.abs(film - other)[apart].max()
            raise Wrong(f"{apart.mean():.1%} of its pixels differ, by {most:.0f} levels at most")

    def _reference(self, data: bytes) -> np.ndarray | None:
        match self.kind:
            case "PNG":
                return references.png(data)
            case "TIFF":
                return references.tiff(data)
            case "JPEG" if references.has_dcmtk():
                return references.jpeg(data, self._folder)
            case "DICOM" if references.has_dcmtk():
                return references.dicom(data, self._folder)
        return None

    def _archive(self, data: bytes) -> None:
        path = self._folder / "archive"
        path.write_bytes(data)
        read: dict[str, bytes] = {}
        try:
            if archive.kind(str(path)) != self.kind:
                self.told["another kind"] += 1
                return
            members = archives.listed(path)
            with archives.reading(path) as reader:
                for member in members:
                    try:
                        read[archive.display(member.name)] = reader.read(member)
                    except MemberError as error:
                        self.told[error.code] += 1
        except ArchiveError as error:
            self.told[error.code] += 1
        self.told["member"] += len(read)
        for name, expected in references.archive(path, self.kind).items():
            if name in read:
                self.compared += 1
                if read[name] != expected:
                    raise Wrong(f"{name} has other bytes by Python's own reader")

    def _table(self, data: bytes) -> None:
        path = self._folder / "films.csv"
        path.write_bytes(data)
        try:
            with archive.open_source(str(path), "list") as source:
                self.told["line"] += sum(1 for _ in source.members())
        except ArchiveError as error:
            self.told[error.code] += 1
        for read in (manifest.read, manifest.corrections):
            try:
                read(path)
                self.told[read.__name__] += 1
            except DatasetError:
                self.told[f"no {read.__name__}"] += 1


class Wrong(Exception):
    """Something came of a file that may not."""


def main(kind: str, first: int, count: int) -> None:
    """Print what came of the files of these seeds."""
    with tempfile.TemporaryDirectory() as folder:
        trials = Trials(kind, Path(folder))
        for seed in range(first, first + count):
            sys.stderr.write(f"{kind} {seed}\n")
            faulthandler.dump_traceback_later(DEADLINE_S, exit=True)
            trials.run(seed)
        faulthandler.cancel_dump_traceback_later()
    found = {"told": trials.told, "compared": trials.compared, "faults": trials.faults}
    sys.stdout.write(json.dumps({"kind": kind, **found}) + "\n")


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    given = sys.argv[1:]
    for kind, first, count in zip(given[::3], given[1::3], given[2::3], strict=True):
        main(kind, int(first), int(count))
