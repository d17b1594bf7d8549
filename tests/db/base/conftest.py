"""A schedule that watches a folder."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from db.base.database import write
from db.nightly import schedules


@pytest.fixture
def inbox(database: sa.Engine) -> int:
    """A schedule that watches the folder /in."""
    return write(
        database,
        lambda c: schedules.add(
            c, name="inbox", cron="0 2 * * *", tz="UTC", kind="score", spec={"job": {}},
            catch_up_s=60, created_by="tests",
        ),
    )  # fmt: skip
