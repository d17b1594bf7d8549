"""Checkpoint: tensors and plain values on disk, replaced in one step, read without running code."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

from trainer import atomic
from trainer.errors import CheckpointError


def save(path: Path, values: dict[str, Any], previous: Path | None = None) -> None:
    """Replace `path` by `values`: after a crash the file is the old one or the new one.

    With `previous` the old file is kept under that name (after a crash perhaps under that name
    alone). Raises CheckpointError where it cannot be written, the old file being as it was.
    """
    try:
        with atomic.replacing(path, sync=True, previous=previous) as part, part.open("wb") as raw:
            file: Any = _Noting(raw)
            try:
                torch.save(values, file)
            except RuntimeError as error:  # PyTorch's, for whatever the file raised
                raise file.refused or error from error
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be written: {error.strerror}; make room there and continue"
        ) from error


class _Noting:
    """A file that remembers what it refused, because PyTorch reports only that it did."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.refused: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.refused = error
            raise

    def flush(self) -> None:
        self._file.flush()


def load(path: Path) -> dict[str, Any]:
    """What `save` wrote, or another tool's weights, on the CPU.

    Only tensors and plain values are read: a file that would run code is refused. Raises
    CheckpointError.
    """
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be opened: {error.strerror}") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors and plain values, or is damaged; it is not loaded, "
            "because such files can run code"
        ) from error
    except (RuntimeError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is damaged or no PyTorch file: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds a {type(values).__name__}, not named tensors")
    return values
