"""A database for the command line, made once and copied for each test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from db.base import database, migrate
from scheduler import session


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with today's schema and no rows."""
    file = tmp_path_factory.mktemp("database") / "pneumoq.db"
    engine = database.connect(f"sqlite:///{file}")
    migrate.upgrade(engine)
    engine.dispose()
    return file


@pytest.fixture
def engine(empty_database: Path) -> Iterator[sa.Engine]:
    """The database that the commands of this test will find."""
    shutil.copy(empty_database, session.settings().home / "pneumoq.db")
    engine = session.database()
    yield engine
    engine.dispose()
