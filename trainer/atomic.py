"""Atomic: small files that are the old ones or the new ones after a crash, never half of one."""

from __future__ import annotations

import uuid
from pathlib import Path


def replace(path: Path, data: bytes) -> None:
    """Replace `path` by `data` in one step; raises OSError."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        part.write_bytes(data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
