"""Random moments that can be had again: every seed is printed, and can be set.

A test that fails prints what to call it with: `TEST_SEED=7 pytest …`.
"""

from __future__ import annotations

import os
import random
import time

#: Set for all of a run: CI's moments are the same each time, a developer's are new.
VARIABLE = "TEST_SEED"

#: Read once: tests run without the caller's settings.
_GIVEN = os.environ.get(VARIABLE) or ("0" if os.environ.get("CI") else None)


def seed() -> int:
    """The seed of this test's random moments; printed, which pytest shows where the test fails."""
    chosen = time.time_ns() % 1_000_000 if _GIVEN is None else int(_GIVEN)
    print(f"{VARIABLE}={chosen} chooses the same moments again")
    return chosen


def moments() -> random.Random:
    """A generator for moments (and victims) of this test."""
    return random.Random(seed())
