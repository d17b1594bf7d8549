"""Narrow networks, for what does not depend on a network's width."""

from __future__ import annotations

import pytest

from tests.trainer import samples


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that are made in this test are narrow."""
    samples.narrowed(monkeypatch)
