"""Model files on this machine: fetched once from the database, verified by hash, kept by hash."""

from __future__ import annotations

import hashlib
from pathlib import Path

import sqlalchemy as sa

from db.base import database as connecting
from db.base.errors import NotFound
from db.registry import models
from trainer import atomic
from worker.engine.choose import FILE_OF
from worker.errors import EngineError


def fetch(database: sa.Engine, home: Path, model_id: int, precision: str = "fp32") -> Path:
    """The path of the file that an engine of this precision is made from.

    It is brought here if it is not here yet or was damaged here. Raises EngineError where it cannot
    be had, and what the database raises that is away.
    """
    folder = home / "models"
    try:
        sha256 = models.file_of(database, model_id, FILE_OF[precision])["sha256"]
        path = folder / f"{sha256}.onnx"
        if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            folder.mkdir(parents=True, exist_ok=True)
            _bring(database, model_id, sha256, path)
    except NotFound as error:
        raise EngineError(f"model {model_id} cannot be fetched: {error}") from error
    except sa.exc.DBAPIError as error:
        if connecting.away(error):
            raise  # that is no fault of the model's
        raise EngineError(f"model {model_id} cannot be fetched: {error.orig}") from error
    except OSError as error:
        raise EngineError(f"model {model_id} cannot be kept in {folder}: {error}") from error
    return path


def _bring(database: sa.Engine, model_id: int, sha256: str, path: Path) -> None:
    """Write the file in one step, whoever else is writing it."""
    digest = hashlib.sha256()
    with atomic.replacing(path, private=True, sync=True) as part, part.open("wb") as file:
        for chunk in models.read_chunks(database, sha256):
            digest.update(chunk)
            file.write(chunk)
        if digest.hexdigest() != sha256:
            with connecting.reading(database) as connection:
                gone = models.pruned(connection, model_id)
            if gone is not None:
                raise EngineError(gone)
            raise EngineError(
                f"model {model_id} is damaged in the database: its bytes have another SHA-256"
            )
