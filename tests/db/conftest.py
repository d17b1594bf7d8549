"""A migrated database with one model in it, on SQLite and on PostgreSQL."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from db.base import database as connecting
from db.base import migrate
from db.base.schema import metadata
from db.registry import models
from tests.db import given
from tests.db.base import portability
from tests.support import servers


def _register(engine: sa.Engine, folder: Path) -> None:
    new = given.model(folder, "first")
    connecting.write(engine, lambda c: models.register(c, new, "tests"))


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file, to be copied."""
    folder = tmp_path_factory.mktemp("migrated")
    engine = connecting.connect(f"sqlite:///{folder}/pneumoq.db")
    migrate.upgrade(engine)
    _register(engine, folder)
    engine.dispose()
    return folder / "pneumoq.db"


@pytest.fixture(scope="session")
def migrated_url(postgres_server: servers.Postgres) -> Iterator[str]:
    """URL of a migrated PostgreSQL database, to be emptied before each use.

    Making a new one for each test takes ten times as long.
    """
    with postgres_server.database() as url:
        engine = connecting.connect(url)
        migrate.upgrade(engine)
        engine.dispose()
        yield url


def _empty(connection: sa.Connection) -> None:
    for table in reversed(metadata.sorted_tables):
        connection.execute(sa.delete(table))
    connection.exec_driver_sql("SELECT setval(seqrelid, 1, false) FROM pg_sequence")


@pytest.fixture
def empty(empty_database_url: str) -> Iterator[sa.Engine]:
    """A database without a schema."""
    engine = connecting.connect(empty_database_url)
    if engine.dialect.name == "sqlite":
        portability.watch(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def sqlite_database(migrated_file: Path, tmp_path: Path) -> Iterator[sa.Engine]:
    """A migrated SQLite database with a model."""
    folder = tmp_path / "database"
    folder.mkdir()
    shutil.copy(migrated_file, folder / "pneumoq.db")
    engine = connecting.connect(f"sqlite:///{folder}/pneumoq.db")
    portability.watch(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def postgres_database(migrated_url: str, tmp_path: Path) -> Iterator[sa.Engine]:
    """A migrated PostgreSQL database with a model. A test must leave its schema as it is."""
    engine = connecting.connect(migrated_url)
    connecting.write(engine, _empty)
    _register(engine, tmp_path)
    yield engine
    engine.dispose()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database(request: pytest.FixtureRequest) -> sa.Engine:
    """A migrated database with a model; the test runs once on SQLite and once on PostgreSQL."""
    fixture = {"sqlite": "sqlite_database", "postgresql": "postgres_database"}[request.param]
    engine: sa.Engine = request.getfixturevalue(fixture)
    return engine
