"""Checkpoint: tensors and plain values on disk, replaced whole and read without running code."""

from __future__ import annotations

import os
import pickle
import uuid
import zipfile
from pathlib import Path
from typing import Any

import torch

from trainer.errors import CheckpointError


def save(path: Path, values: dict[str, Any]) -> None:
    """Replace `path` by `values`: after a crash the file is the old one or the new one, whole."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with part.open("wb") as file:
            torch.save(values, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


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
