"""Fixtures of the upgrade tests: older releases built from git, and a site that they work in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.faults import harm
from tests.support import once, releases, servers
from tests.support.absent import absent
from tests.support.site import Site, site
from tests.worker import samples
from trainer import phantom


@pytest.fixture(scope="session")
def built(shared_folder: Path) -> Callable[[str], Path]:
    """A release's packages, built from its commit: name → folder for PYTHONPATH."""

    def build(name: str) -> Path:
        try:
            return once.made(shared_folder, f"release-{name}", partial(releases.build, name))
        except releases.NotAtHand as error:
            absent(str(error))

    return build


@pytest.fixture(scope="session")
def films(shared_folder: Path) -> Path:
    """A folder of a few films in two class folders."""
    return once.made(
        shared_folder, "upgrade-films", lambda path: phantom.write_folder(path, 5, seed=1)
    )


@pytest.fixture
def here(
    database_url: str, valkey: servers.Valkey, tmp_path: Path, shared_folder: Path
) -> Iterator[Site]:
    """A site whose model 1 is registered."""
    model = samples.once_written(shared_folder)
    with harm.with_model(site(database_url, valkey, tmp_path / "site"), model) as made:
        yield made
