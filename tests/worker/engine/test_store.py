"""Model files come from the database whole, or not at all."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from db.base import database as connecting
from db.base.schema import model_chunks
from worker.engine import store
from worker.errors import EngineError


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home folder that does not exist yet."""
    return tmp_path / "home"


def test_the_bytes_are_the_models(
    database: sa.Engine, model_id: int, model_file: Path, home: Path
) -> None:
    path = store.fetch(database, home, model_id)
    assert path.read_bytes() == model_file.read_bytes()
    assert path.stem == hashlib.sha256(model_file.read_bytes()).hexdigest()
    assert list(path.parent.iterdir()) == [path]


def test_bf16_is_computed_from_the_fp32_file(
    database: sa.Engine, model_id: int, home: Path
) -> None:
    assert store.fetch(database, home, model_id, "bf16") == store.fetch(database, home, model_id)


def test_a_precision_that_the_model_lacks_is_refused(
    database: sa.Engine, model_id: int, home: Path
) -> None:
    with pytest.raises(EngineError, match=f"model {model_id} has no int8 file; `pneumoq models"):
        store.fetch(database, home, model_id, "int8")


def test_a_file_that_is_here_is_not_fetched_again(
    database: sa.Engine, model_id: int, home: Path
) -> None:
    path = store.fetch(database, home, model_id)
    before = path.stat()
    with connecting.writing(database) as connection:
        connection.execute(sa.delete(model_chunks))
    assert store.fetch(database, home, model_id) == path
    assert path.stat().st_ino == before.st_ino


@pytest.mark.parametrize("damage", ["cut short", "another byte"])
def test_a_file_that_was_damaged_here_is_fetched_again(
    database: sa.Engine, model_id: int, model_file: Path, home: Path, damage: str
) -> None:
    path = store.fetch(database, home, model_id)
    whole = model_file.read_bytes()
    path.write_bytes(whole[:-1] if damage == "cut short" else whole[:-1] + b"?")
    assert store.fetch(database, home, model_id) == path
    assert path.read_bytes() == whole


@pytest.mark.parametrize("damage", ["a changed byte", "a lost row"])
def test_a_damaged_model_in_the_database_is_refused_and_nothing_is_left(
    database: sa.Engine, model_id: int, home: Path, damage: str
) -> None:
    last = sa.select(sa.func.max(model_chunks.c.chunk_no)).scalar_subquery()
    with connecting.writing(database) as connection:
        if damage == "a lost row":
            connection.execute(sa.delete(model_chunks).where(model_chunks.c.chunk_no == last))
        else:
            connection.execute(
                sa.update(model_chunks)
                .where(model_chunks.c.chunk_no == last)
                .values(data=b"other bytes")
            )
    with pytest.raises(EngineError, match=f"model {model_id} is damaged in the database"):
        store.fetch(database, home, model_id)
    assert list((home / "models").iterdir()) == []


def test_a_model_that_does_not_exist_is_refused(database: sa.Engine, home: Path) -> None:
    with pytest.raises(EngineError, match="model 77 cannot be fetched"):
        store.fetch(database, home, 77)


def test_a_home_that_cannot_be_written_is_named(
    database: sa.Engine, model_id: int, home: Path
) -> None:
    home.write_text("a file, not a folder")
    with pytest.raises(EngineError, match=f"model {model_id} cannot be kept in {home}/models"):
        store.fetch(database, home, model_id)


def test_a_database_that_is_gone_is_an_engine_error_in_one_line(
    database: sa.Engine, model_id: int, home: Path
) -> None:
    with connecting.writing(database) as connection:
        connection.exec_driver_sql("DROP TABLE model_chunks")
    with pytest.raises(EngineError, match="model_chunks") as refusal:
        store.fetch(database, home, model_id)
    assert "SELECT" not in str(refusal.value)


def test_workers_that_fetch_at_the_same_moment_all_get_it(
    database: sa.Engine, model_id: int, model_file: Path, home: Path
) -> None:
    begin = threading.Barrier(4)
    found: list[bytes] = []

    def fetch() -> None:
        begin.wait()
        found.append(store.fetch(database, home, model_id).read_bytes())

    threads = [threading.Thread(target=fetch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [model_file.read_bytes()] * 4
    assert len(list((home / "models").iterdir())) == 1
