"""Fixtures of the fault tests: a model, some films, and an installation to be broken."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import harm
from tests.support import once, servers, soak
from tests.support.site import Site, site
from tests.worker import samples
from trainer import phantom
from trainer.card import Card

database_url = soak.database_url


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Card]:
    """A model file of two classes at 32 pixels, and its card: the network is not what is tested."""
    path = tmp_path_factory.mktemp("model") / "small.onnx"
    return path, samples.write_model(path, ("NORMAL", "PNEUMONIA"), seed=1, size=32)


@pytest.fixture(scope="session")
def few() -> Path:
    """A folder of about twenty films in two class folders."""
    return once.made("few-of-faults", lambda path: phantom.write_folder(path, 8, seed=1))


@pytest.fixture
def here(
    database_url: str, valkey: servers.Valkey, tmp_path: Path, model: tuple[Path, Card]
) -> Iterator[Site]:
    """A site whose model 1 is registered."""
    with harm.with_model(site(database_url, valkey, tmp_path / "site"), model) as made:
        yield made


@pytest.fixture
def breakable_postgres(tmp_path: Path) -> Iterator[servers.Postgres]:
    """A private cluster that the test may end and start again; what it confirmed it keeps."""
    with servers.postgres(options=["--synchronous_commit=on"]) as cluster:
        yield cluster
