"""A database for the command line, made once and copied for each test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from scheduler import session


@pytest.fixture
def engine(migrated_sqlite: Path) -> Iterator[sa.Engine]:
    """The database that the commands of this test will find."""
    shutil.copy(migrated_sqlite, session.settings().home / "pneumoq.db")
    engine = session.database()
    yield engine
    engine.dispose()
