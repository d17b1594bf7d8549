"""The large database is one that the product could have left, whatever its size."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from db.base import database as connecting
from tests.db import large


@pytest.fixture
def engine(request: pytest.FixtureRequest, database_url: str) -> sa.Engine:
    found = connecting.connect(database_url)
    request.addfinalizer(found.dispose)
    return found


def test_a_small_one_has_all_that_the_large_one_has(engine: sa.Engine, tmp_path: Path) -> None:
    large.fill(engine, tmp_path, large.SIZE.of(0.001))

    def one(statement: str) -> int:
        with connecting.reading(engine) as connection:
            return int(connection.exec_driver_sql(statement).scalar_one())

    assert one("SELECT COUNT(*) FROM jobs") == 100
    assert one("SELECT COUNT(*) FROM predictions") == 97 * 100 + 2 * 500
    assert one("SELECT COUNT(*) FROM watched") == 1000
    others = (
        "films cams refusals item_errors labels identities rollups shard_listings job_events drift "
        "notices epochs runs workers"
    )
    for table in others.split():
        assert one(f"SELECT COUNT(*) FROM {table}") > 0, table
    # The archives were scored by two models, and some films again.
    assert one("SELECT COUNT(DISTINCT model_id) FROM predictions WHERE job_id > 98") == 2
    assert one("SELECT COUNT(*) FROM predictions WHERE reused_from_job IS NOT NULL") == 100
    # Sums are those of the rows.
    for column, table in (("n_predictions", "predictions"), ("n_refused", "refusals"),
                          ("n_errors", "item_errors")):  # fmt: skip
        assert one(f"SELECT SUM({column}) FROM shards") == one(f"SELECT COUNT(*) FROM {table}")
    assert one("SELECT SUM(n) FROM rollups") == one("SELECT COUNT(*) FROM predictions")
    assert one("SELECT SUM(n_items) FROM shards") == one("SELECT SUM(planned_items) FROM jobs")
