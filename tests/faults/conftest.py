"""Fixtures of the fault tests: a model, some films, and an installation to be broken."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults import harm
from tests.support import servers
from tests.support.site import Site, site
from tests.worker import samples
from trainer import phantom
from trainer.card import Card


def once(folder: Path, name: str, make: Callable[[Path], object]) -> Path:
    """What `make(path)` wrote, made by the first of all processes of this run that asks for it."""
    path = folder / name
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            unfinished = folder / f"unfinished-{name}"
            make(unfinished)
            unfinished.rename(path)
    return path


@pytest.fixture(scope="session")
def common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all test processes of this run share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "faults"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def model(common: Path) -> tuple[Path, Card]:
    """A model file of two classes at 64 pixels, and its card."""

    def make(path: Path) -> None:
        path.mkdir()
        card = samples.write_model(path / "small.onnx", ("NORMAL", "PNEUMONIA"), seed=1)
        (path / "card.json").write_text(card.to_json())

    made = once(common, "model", make)
    return made / "small.onnx", Card.from_json((made / "card.json").read_text())


@pytest.fixture(scope="session")
def films(common: Path) -> Path:
    """A folder of about a hundred films in two class folders."""
    return once(common, "films", lambda path: phantom.write_folder(path, 45))


@pytest.fixture(scope="session")
def few(common: Path) -> Path:
    """A folder of about twenty films in two class folders."""
    return once(common, "few", lambda path: phantom.write_folder(path, 8, seed=1))


@pytest.fixture
def here(
    database_url: str, valkey: servers.Valkey, tmp_path: Path, model: tuple[Path, Card]
) -> Iterator[Site]:
    """A site whose model 1 is registered, on SQLite and on PostgreSQL."""
    with harm.with_model(site(database_url, valkey, tmp_path / "site"), model) as made:
        yield made


@pytest.fixture
def on_sqlite(
    sqlite_url: str, valkey: servers.Valkey, tmp_path: Path, model: tuple[Path, Card]
) -> Iterator[Site]:
    """A site whose model 1 is registered, for what has nothing to do with the database."""
    with harm.with_model(site(sqlite_url, valkey, tmp_path / "site"), model) as made:
        yield made


@pytest.fixture
def breakable_postgres(tmp_path: Path) -> Iterator[servers.Postgres]:
    """A private cluster that the test may end and start again; what it confirmed it keeps."""
    with servers.postgres(options=["--synchronous_commit=on"]) as cluster:
        yield cluster
