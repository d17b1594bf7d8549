"""Fixtures of the upgrade tests: older releases built from git, and a site that they work in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from db.base import database, migrate
from db.base.schema import compatibility
from db.base.schema import site as site_of
from tests.faults import harm
from tests.support import once, releases, servers, soak
from tests.support.absent import absent
from tests.support.site import Site, site
from tests.worker import samples
from trainer import phantom

database_url = soak.database_url


@pytest.fixture(scope="session")
def built() -> Callable[[str], Path]:
    """A release's packages, built from its commit: name → folder for PYTHONPATH."""

    def build(name: str) -> Path:
        try:
            return once.made(f"release-{name}", partial(releases.build, name))
        except releases.NotAtHand as error:
            absent(str(error))

    return build


@pytest.fixture(scope="session")
def films() -> Path:
    """A folder of a few films in two class folders."""
    return once.made("upgrade-films", lambda path: phantom.write_folder(path, 5, seed=1))


@pytest.fixture
def here(database_url: str, valkey: servers.Valkey, tmp_path: Path) -> Iterator[Site]:
    """A site that an older release began, whose model 1 is registered."""
    small = tmp_path / "small.onnx"
    model = small, samples.write_model(small, ("NORMAL", "PNEUMONIA"), seed=1)
    with harm.with_model(site(database_url, valkey, tmp_path / "site"), model) as made:
        database.write(made.engine, partial(site_with, content_hash="blake2b"))
        yield made


def site_with(connection: sa.Connection, content_hash: str) -> None:
    """Have the database know films by this hash: older releases had blake2b alone."""
    connection.execute(sa.update(site_of).values(content_hash=content_hash))
    connection.execute(sa.delete(compatibility))
    migrate.state(connection)
