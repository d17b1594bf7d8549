"""The database is locked or gone for half a minute, and the job goes on by itself."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import harm
from tests.support import servers, soak
from tests.support.site import Site, site
from trainer.card import Card

#: For how long, in seconds.
AWAY_S = 30.0

#: How often it crashes.
CRASHES = soak.repetitions(quick=3, full=6)

SOURCES = soak.repetitions(quick=12, full=20)


@pytest.fixture
def on_breakable(
    breakable_postgres: servers.Postgres,
    valkey: servers.Valkey,
    tmp_path: Path,
    model: tuple[Path, Card],
) -> Iterator[Site]:
    """A site whose PostgreSQL the test may end and start again."""
    with breakable_postgres.database() as url:
        made = site(url, valkey, tmp_path / "site", lease_s=10.0)
        with harm.with_model(made, model) as here:
            yield here


@soak.on_postgresql
def test_a_database_locked_for_half_a_minute_delays_a_job_by_that(here: Site, few: Path) -> None:
    pair = [here.begin_worker(lease_s=10.0), here.begin_worker(lease_s=10.0)]
    for worker in pair:
        here.hello(worker)
    job_id = harm.submit(here, *[few] * SOURCES)
    harm.in_the_middle(here, job_id)
    with harm.locked(here, "shards", "jobs"):
        time.sleep(AWAY_S)
    harm.completed(here, job_id, SOURCES * harm.count(few))
    harm.alive(*pair)
    harm.calm(here)


@pytest.mark.soak
@pytest.mark.postgres
def test_a_database_gone_for_half_a_minute_delays_a_job_by_that(
    on_breakable: Site, breakable_postgres: servers.Postgres, few: Path
) -> None:
    here = on_breakable
    pair = [here.begin_worker(), here.begin_worker()]
    for worker in pair:
        here.hello(worker)
    job_id = harm.submit(here, *[few] * SOURCES)
    harm.in_the_middle(here, job_id)
    breakable_postgres.stop(signal.SIGQUIT)
    time.sleep(AWAY_S)
    breakable_postgres.start()
    harm.completed(here, job_id, SOURCES * harm.count(few))
    harm.alive(*pair)
    harm.calm(here)


@pytest.mark.soak
@pytest.mark.postgres
def test_a_database_that_crashes_again_and_again_loses_nothing_it_confirmed(
    on_breakable: Site, breakable_postgres: servers.Postgres, few: Path
) -> None:
    here = on_breakable
    worker = here.worker(lease_s=2.0)
    job_id = harm.submit(here, *[few] * SOURCES)
    for crash in range(CRASHES):
        harm.in_the_middle(here, job_id, 2 * crash)
        breakable_postgres.stop(signal.SIGQUIT)
        breakable_postgres.start()
    harm.completed(here, job_id, SOURCES * harm.count(few))
    harm.alive(worker)
    harm.calm(here)
