"""What a test needs and a machine lacks: skipped by a developer, failed in CI."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def absent(reason: str) -> NoReturn:
    """Skip this test for the reason; in CI, where nothing may go untested unnoticed, fail it."""
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
