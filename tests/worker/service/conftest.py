"""Settings of a scoring worker, a new model, and a run of a schedule that waits for its checks."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa

from db.base import database as connecting
from db.nightly import runs, schedules
from tests.support import servers
from tests.worker import samples
from trainer.card import Card
from worker import config
from worker.config import Settings


@pytest.fixture
def settings(tmp_path: Path, database_url: str, valkey: servers.Valkey) -> Settings:
    """Of a worker that sweeps often; tests that need no broker have their own."""
    return config.load(
        {
            "PNEUMOQ_HOME": str(tmp_path / "home"),
            "PNEUMOQ_DATABASE_URL": database_url,
            "PNEUMOQ_BROKER_URL": valkey.url,
            "PNEUMOQ_DECODERS": "1",
            "PNEUMOQ_ENGINE_THREADS": "1",
            "PNEUMOQ_SWEEP_S": "0.1",
        }
    )


@pytest.fixture
def candidate(
    database: sa.Engine, model_id: int, card: Card, tmp_path_factory: pytest.TempPathFactory
) -> int:
    """A model of the champion's classes that is not the champion."""
    path = tmp_path_factory.mktemp("model") / "candidate.onnx"
    return samples.register(database, path, samples.write_model(path, card.labels, seed=2))


@pytest.fixture
def run_id(database: sa.Engine, candidate: int) -> int:
    """A schedule's run whose model was not worse than the champion, model 1."""

    def add(connection: sa.Connection) -> int | None:
        schedule = schedules.add(
            connection, name="nightly", cron="0 2 * * *", tz="UTC", kind="train",
            spec={"job": {"data": "/films"}, "night": {}}, catch_up_s=60, created_by="tests",
        )  # fmt: skip
        return runs.begin(
            connection, schedule, datetime(2026, 1, 1, 2, tzinfo=timezone.utc), "clock", "proving",
            champion_id=1, candidate_id=candidate, reason="as good", verdict={"told": "as good"},
        )  # fmt: skip

    made = connecting.write(database, add)
    assert made is not None
    return made
