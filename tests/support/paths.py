"""Where the repository is, and the shared films beside it, which a test skips without."""

from __future__ import annotations

from pathlib import Path

#: The repository.
ROOT = Path(__file__).parents[2]

#: Real films, weights and odd cases; not part of the repository.
SHARED = ROOT.parent / "shared"
