"""The disk under the database fills up in the middle of a job, and has room again later."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.faults import harm
from tests.support import servers
from tests.support.broken.disk import fill, small_disk
from tests.support.site import Site, site
from trainer.card import Card

SOURCES = 25

#: Megabytes; the model's file in the database takes 45 of them.
DISK_MB = 256


@pytest.mark.soak
def test_a_full_disk_under_sqlite_delays_a_job_until_there_is_room(
    valkey: servers.Valkey, tmp_path: Path, model: tuple[Path, Card], few: Path
) -> None:
    with small_disk(DISK_MB) as disk:
        url = f"sqlite:///{disk}/pneumoq.db"
        with harm.with_model(site(url, valkey, tmp_path / "site"), model) as here:
            # The model went through the log, which would have room for many jobs as it is now.
            with closing(sqlite3.connect(disk / "pneumoq.db")) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            _job_through(here, disk, few)


@pytest.mark.soak
@pytest.mark.postgres
def test_a_full_disk_under_postgresql_delays_a_job_until_there_is_room(
    valkey: servers.Valkey, tmp_path: Path, model: tuple[Path, Card], few: Path
) -> None:
    with small_disk(DISK_MB) as disk:
        # Small segments: the log needs room soon, instead of what it got long ago.
        small = {"initdb": ["--wal-segsize=1"], "options": ["--min_wal_size=2MB",
                 "--max_wal_size=4MB", "--synchronous_commit=on"]}  # fmt: skip
        data = disk / "data"
        data.mkdir(mode=0o700)
        with (
            servers.postgres(data, **small) as cluster,
            cluster.database() as url,
            harm.with_model(site(url, valkey, tmp_path / "site"), model) as here,
        ):
            _job_through(here, disk, few, cluster)


def _job_through(
    here: Site, disk: Path, few: Path, cluster: servers.Postgres | None = None
) -> None:
    worker = here.worker(lease_s=10.0)
    job_id = harm.submit(here, *[few] * SOURCES)
    harm.in_the_middle(here, job_id)
    ballast = fill(disk)
    assert shutil.disk_usage(disk).free == 0
    here.wait(lambda: here.says(worker, "the database does not answer"), "a write to be refused")
    ballast.unlink()
    if cluster is not None and not cluster.running:
        # Out of room for its log the server ends itself, and stays so until its owner comes.
        cluster.start()
    harm.completed(here, job_id, SOURCES * harm.count(few))
    harm.alive(worker)
    harm.calm(here)
