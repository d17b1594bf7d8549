"""The worker that lists a job's archives is killed half-way; the next one goes on from there."""

from __future__ import annotations

import signal
import time
import zipfile
from pathlib import Path

import pytest

from db.base import database
from db.queue import jobs
from db.work import control
from tests.faults import harm
from tests.support import once, soak
from tests.support.site import Site, stop
from worker.scoring import cutting

#: Members of one archive: enough that listing takes a moment.
MEMBERS = soak.repetitions(quick=300, full=1000)

#: How often a planner is killed in one job.
DEATHS = soak.repetitions(quick=2, full=3)


@pytest.fixture(scope="session")
def large(few: Path) -> Path:
    """A zip of many films, each under a name of its own."""

    def make(path: Path) -> None:
        data = [p.read_bytes() for p in sorted(few.rglob("*")) if p.is_file()]
        with zipfile.ZipFile(path, "w") as into:
            for n in range(MEMBERS):
                into.writestr(f"{n:05d}.jpeg", data[n % len(data)])

    return once.made("large.zip", make)


def _half_listed(here: Site, job_id: int) -> bool:
    return 0 < int(jobs.get(here.engine, job_id)["planned_items"]) < MEMBERS


@soak.on_postgresql
def test_a_planner_killed_within_an_archive_lists_nothing_twice_and_forgets_nothing(
    here: Site, large: Path
) -> None:
    def caught() -> int | None:
        """A job whose planner was killed when part of the archive was listed."""
        planner = here.worker(lease_s=1.0, sweep_s=0.2)
        job_id = harm.submit(here, large)
        while here.state(job_id) == "queued":
            time.sleep(0.001)
        while jobs.get(here.engine, job_id)["planned_at"] is None:
            # A machine that has little time for it: shards are flushed when so much time is over.
            harm.freeze(planner)
            if _half_listed(here, job_id):
                break
            time.sleep(1.1 * cutting.FLUSH_S)
            harm.thaw(planner)
            time.sleep(0.002)
        stop(planner, signal.SIGKILL)
        if _half_listed(here, job_id):
            return job_id
        if here.state(job_id) != "completed":
            database.write(here.engine, lambda c: control.cancel(c, job_id, "tester"))
        return None

    job_id = None
    while job_id is None:  # the test's own time limit ends it
        job_id = caught()
    listed = jobs.get(here.engine, job_id)["planned_items"]
    assert 0 < listed < MEMBERS
    here.worker(lease_s=1.0, sweep_s=0.2)
    harm.completed(here, job_id, MEMBERS)
    assert len(here.probabilities(job_id)) == MEMBERS, "each name once"
    harm.calm(here)


def test_a_planner_killed_again_and_again_still_comes_to_the_end(here: Site, few: Path) -> None:
    sources = 40
    job_id = harm.submit(here, *[few] * sources, notify=False)
    deaths = 0
    while jobs.get(here.engine, job_id)["planned_at"] is None:
        before = jobs.get(here.engine, job_id)["planned_shards"]
        planner = here.worker(lease_s=0.5, sweep_s=0.1)
        here.wait(
            lambda before=before: jobs.get(here.engine, job_id)["planned_shards"] > before,
            "one more shard to be listed",
        )
        if deaths == DEATHS:
            break
        stop(planner, signal.SIGKILL)
        deaths += 1
    assert deaths == DEATHS, "it was over too soon to prove anything"
    assert jobs.get(here.engine, job_id)["attempts"] <= 2, "what was listed counts for nothing"
    if jobs.get(here.engine, job_id)["planned_at"] is not None:
        here.worker(lease_s=0.5, sweep_s=0.1)
    harm.completed(here, job_id, sources * harm.count(few))
