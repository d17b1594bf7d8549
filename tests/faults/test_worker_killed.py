"""A worker is killed again and again, at moments that nobody chose."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from tests.faults import harm
from tests.support import chance, soak
from tests.support.site import Site, stop

#: How often.
KILLS = soak.repetitions(quick=6, full=20)

#: Nobody lives to finish more than this many shards, or the job would end before the last kill.
SHARDS = 2


@soak.on_postgresql
def test_workers_killed_at_random_moments_cost_nothing_but_time(here: Site, few: Path) -> None:
    moments = chance.moments()
    sources = 3 * KILLS
    job_id = harm.submit(here, *[few] * sources, notify=False)
    limits = {"lease_s": 1.0, "sweep_s": 0.5}
    living = here.begin_worker(**limits)
    for kill in range(KILLS):
        here.hello(living)
        heir = here.begin_worker(**limits)  # it takes longer to start than `living` has left
        before = here.done(job_id)
        if kill % 3:
            # Two of three lives bring the job on; in the third, not even that is certain.
            here.wait(lambda before=before: here.done(job_id) > before, "a shard to be final")
        end = time.monotonic() + moments.uniform(0, 0.8)
        while time.monotonic() < end and here.done(job_id) < before + SHARDS:
            time.sleep(0.002)
        assert here.state(job_id) in ("queued", "planning", "running"), f"after {kill} kills"
        assert stop(living, signal.SIGKILL) == -signal.SIGKILL
        living = heir

    here.hello(living)
    harm.completed(here, job_id, sources * harm.count(few))
    by = here.rows("SELECT count(DISTINCT worker_id) AS n FROM shards WHERE job_id = :j", j=job_id)
    assert by[0].n > KILLS // 2
