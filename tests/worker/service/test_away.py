"""The database is away for longer than anybody's patience, and scoring in hand is handed over."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from db.base import database as connecting
from db.queue import jobs
from tests.support import processes as running
from tests.support import servers
from tests.support.broken import away
from tests.worker import samples
from trainer.card import Card
from worker import config
from worker.config import Settings
from worker.engine import choose
from worker.scoring.engine_thread import Model
from worker.scoring.loading import Loader
from worker.service.daemon import Daemon

LEASE_S = 1.5

#: Seconds for which the database is away: longer than patience and lease.
AWAY_S = 4.0

SOURCES = 30


@pytest.fixture
def settings(tmp_path: Path, breakable: away.Breakable, valkey: servers.Valkey) -> Settings:
    return config.load(
        {
            "PNEUMOQ_HOME": str(tmp_path / "home"),
            "PNEUMOQ_DATABASE_URL": breakable.url,
            "PNEUMOQ_BROKER_URL": valkey.url,
            "PNEUMOQ_DECODERS": "1",
            "PNEUMOQ_ENGINE_THREADS": "1",
            "PNEUMOQ_SWEEP_S": "0.2",
            "PNEUMOQ_LEASE_S": str(LEASE_S),
        }
    )


@pytest.fixture
def engine(breakable: away.Breakable, model_file: Path, card: Card) -> Iterator[sa.Engine]:
    made = connecting.connect(breakable.url)
    assert samples.register(made, model_file, card) == 1
    yield made
    made.dispose()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "films"
    root.mkdir()
    for name, data in samples.films(4):
        (root / name).write_bytes(data)
    return root


def test_scoring_hands_over_what_it_computed_once_the_database_is_back(
    settings: Settings, engine: sa.Engine, breakable: away.Breakable, folder: Path
) -> None:
    worker = Daemon(settings, ["score"])
    threads = {thread.name for thread in threading.enumerate()}
    first = samples.submit_score(engine, 1, *[folder] * SOURCES)
    with ThreadPoolExecutor(1) as pool:
        scoring = pool.submit(worker.score)
        samples.wait(lambda: jobs.progress(engine, first)["shards_done"], "a shard to be done")
        decoders = running.children(os.getpid(), "worker.decoding")
        assert decoders
        with breakable.away():
            time.sleep(AWAY_S)
            assert not scoring.done()
            assert running.children(os.getpid(), "worker.decoding") == decoders, "none was ended"
        scoring.result(samples.PATIENCE_S)
    try:
        assert jobs.get(engine, first)["state"] == "completed"
        with connecting.reading(engine) as connection:
            attempts = connection.execute(
                sa.text("SELECT max(attempts) AS most, count(*) AS n FROM shards")
            ).one()
            predicted = connection.execute(sa.text("SELECT count(*) FROM predictions")).scalar()
        assert attempts.most == 1, "nothing was given up, and nothing claimed twice"
        assert predicted == SOURCES * len(list(folder.iterdir()))
        assert threads <= {thread.name for thread in threading.enumerate()}, "all go on"
        # What comes afterwards is found by a sweep, and done.
        second = samples.submit_score(engine, 1, folder)
        samples.wait(lambda: jobs.get(engine, second)["finished_at"], "the next job")
    finally:
        worker.close()


def test_a_model_is_waited_for_while_the_database_is_away(
    settings: Settings, engine: sa.Engine, breakable: away.Breakable
) -> None:
    stop = threading.Event()
    held = connecting.patient(engine, connecting.PATIENCE_S, in_hand=lambda: not stop.is_set())
    loader = Loader(settings, held, "w", choose(settings), stop, lambda text: None)
    with ThreadPoolExecutor(1) as pool:
        with breakable.away():
            found = pool.submit(loader.locate, Model(1, "fp32"))
            time.sleep(1.0)
            assert found.done() == (breakable.cluster is None), "a locked file can be read"
        assert found.result(samples.PATIENCE_S).exists()
