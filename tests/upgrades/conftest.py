"""Fixtures of the upgrade tests: older releases built from git, and a site that they work in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support import once, releases, servers
from tests.support.absent import absent
from tests.support.site import Site, site
from tests.worker import samples
from trainer import phantom
from trainer.card import Card


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all test processes of this run share."""
    return once.folder(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def built(shared: Path) -> Callable[[str], Path]:
    """A release's packages, built from its commit: name → folder for PYTHONPATH."""

    def build(name: str) -> Path:
        try:
            return once.made(shared, f"release-{name}", partial(releases.build, name))
        except releases.NotAtHand as error:
            absent(str(error))

    return build


@pytest.fixture(scope="session")
def films(shared: Path) -> Path:
    """A folder of a few films in two class folders."""
    return once.made(shared, "upgrade-films", lambda path: phantom.write_folder(path, 5, seed=1))


@pytest.fixture(scope="session")
def model(shared: Path) -> tuple[Path, Card]:
    """A model file of two classes at 64 pixels, and its card."""

    def make(path: Path) -> None:
        path.mkdir()
        card = samples.write_model(path / "small.onnx", ("NORMAL", "PNEUMONIA"), seed=1)
        (path / "card.json").write_text(card.to_json())

    made = once.made(shared, "upgrade-model", make)
    return made / "small.onnx", Card.from_json((made / "card.json").read_text())


@pytest.fixture
def here(
    database_url: str, valkey: servers.Valkey, tmp_path: Path, model: tuple[Path, Card]
) -> Iterator[Site]:
    """A site whose model 1 is registered, on SQLite and on PostgreSQL."""
    with site(database_url, valkey, tmp_path / "site") as made:
        assert samples.register(made.engine, *model) == 1
        yield made
