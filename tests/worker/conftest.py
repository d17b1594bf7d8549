"""One small model file of random weights, and a migrated database in which it is registered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from db.base import database as connecting
from db.base import migrate
from tests.conftest import BOTH
from tests.support import servers
from tests.support.absent import absent
from tests.support.broken import away
from tests.worker import samples
from tests.worker.engine.rtx import write_tiny
from trainer import card as cards
from trainer.card import Card
from worker.engine import flavour as flavours
from worker.engine.flavour import Flavour


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file of two classes at 64 pixels; nobody may change it."""
    path = tmp_path_factory.mktemp("model") / "small.onnx"
    samples.write_model(path, ("NORMAL", "PNEUMONIA"), seed=1)
    return path


@pytest.fixture(scope="session")
def card(model_file: Path) -> Card:
    """The card inside `model_file`."""
    return cards.read(model_file)


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Card]:
    """A model file of three classes at 64 pixels, and its card."""
    path = tmp_path_factory.mktemp("model") / "other.onnx"
    return path, samples.write_model(path, ("NORMAL", "VIRUS", "BACTERIA"), seed=2)


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that takes films and gives scores, as a model does, and is built in no time."""
    return write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.onnx")


@pytest.fixture(scope="session")
def rtx() -> Flavour:
    """TensorRT-RTX, which builds plans without any GPU."""
    pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX: pip install tensorrt-rtx")
    return flavours.load(prefer="tensorrt_rtx")


@pytest.fixture
def database(database_url: str) -> Iterator[sa.Engine]:
    """A migrated database without a row; the test runs once on SQLite and once on PostgreSQL."""
    engine = connecting.connect(database_url)
    yield engine
    engine.dispose()


@pytest.fixture(params=BOTH)
def breakable(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[away.Breakable]:
    """A database of each kind that a test can take away, and for which nobody waits long."""
    away.impatient(monkeypatch)
    if request.param == "sqlite":
        yield away.sqlite(tmp_path, request.getfixturevalue("migrated_sqlite"))
        return
    try:
        with (
            servers.postgres(options=["--synchronous_commit=on"]) as cluster,
            cluster.database() as url,
        ):
            engine = connecting.connect(url)
            migrate.upgrade(engine)
            engine.dispose()
            yield away.Breakable(url, cluster)
    except servers.NotInstalled as error:
        absent(str(error))


@pytest.fixture
def model_id(database: sa.Engine, model_file: Path, card: Card) -> int:
    """The number of `model_file` in `database`."""
    return samples.register(database, model_file, card)
