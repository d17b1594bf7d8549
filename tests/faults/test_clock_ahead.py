"""A machine's clock is a day ahead, and then it is right: work goes on at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from db.base.schema import shards
from tests.db import given
from tests.faults import harm
from tests.support.broken.clock import Clock
from tests.support.site import Site

DAY_S = 86_400.0

#: Longer than any test waits: what is not taken for run out keeps the job from its end.
LEASE_S = 600.0

SOURCES = 40


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """SQLite, whose clock is that of whoever writes; PostgreSQL has one of its own."""
    return sqlite_url


@pytest.mark.soak
def test_what_a_killed_worker_held_by_a_clock_a_day_ahead_is_taken_up_at_once(
    here: Site, few: Path, tmp_path: Path
) -> None:
    def leased() -> int:
        return given.count(here.engine, shards, shards.c.state == "leased")

    clock = Clock(tmp_path / "clock")
    clock.step(DAY_S)
    wrong = here.begin_worker(within=clock.within(), lease_s=LEASE_S)
    job_id = harm.submit(here, *[few] * SOURCES)
    here.wait(lambda: leased() > 0, "shards to be in hand")
    wrong.kill()
    wrong.wait()
    assert leased(), "it held shards"
    seen = here.rows("SELECT count(*) AS n FROM workers WHERE seen_at > datetime('now', '+1 hour')")
    assert seen[0].n == 1, "its clock was ahead"

    right = here.worker(lease_s=LEASE_S)
    harm.completed(here, job_id, SOURCES * harm.count(few))
    harm.alive(right)
    harm.calm(here)
