"""Twenty real films that every checkout has (tests/data/README.md)."""

from __future__ import annotations

from tests.support.paths import ROOT

#: A labelled folder: NORMAL/ and PNEUMONIA/, ten JPEGs each, gray stored as RGB, 224 × 224.
FOLDER = ROOT / "tests" / "data" / "films"

FILES = tuple(sorted(FOLDER.glob("*/*.jpeg")))
