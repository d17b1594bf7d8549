"""Settings of a scoring worker, a new model, and a run of a schedule that waits for its checks."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa

from db.base import database as connecting
from db.nightly import runs, schedules
from tests.worker import samples
from trainer.card import Card


@pytest.fixture
def candidate(database: sa.Engine, model_id: int, other_model: tuple[Path, Card]) -> int:
    """A model that is not the champion."""
    return samples.register(database, *other_model)


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
