"""A worker's settings, and a schedule that watches a folder of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.worker.schedules.inboxes import Inbox, hello
from worker import config
from worker.config import Settings


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    """A home of its own."""
    return config.load(
        {"PNEUMOQ_HOME": str(tmp_path / "home"), "PNEUMOQ_DATABASE_URL": database_url}
    )


@pytest.fixture
def inbox(
    settings: Settings, database: sa.Engine, model_id: int, tmp_path: Path
) -> Iterator[Inbox]:
    """A watched folder, and a worker that could look into it."""
    hello(database, "w")
    yield Inbox(settings, database, tmp_path / "inbox")
