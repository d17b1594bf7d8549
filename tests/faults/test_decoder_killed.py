"""Decoder processes are shot at from outside: the films they were at are innocent."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from tests.faults import harm
from tests.support import chance, processes, soak
from tests.support.site import Site

#: How often a decoder dies in one job.
KILLS = soak.repetitions(quick=6, full=15)


def test_decoders_killed_at_random_moments_cost_at_most_the_films_they_were_at(
    here: Site, few: Path
) -> None:
    moments = chance.moments()
    sources = 2 * KILLS
    worker = here.worker(decoders=2, lease_s=60.0)
    job_id = harm.submit(here, *[few] * sources)
    harm.in_the_middle(here, job_id)
    kills = 0
    while kills < KILLS and here.state(job_id) in ("planning", "running"):
        found = processes.children(worker.pid, "worker.decoding.child")
        if found:
            os.kill(moments.choice(found), moments.choice([signal.SIGKILL, signal.SIGSEGV]))
            kills += 1
        time.sleep(moments.uniform(0, 0.4))
        if kills % 3 == 0:
            # Where none lives to decode a film, the worker is right to say so and to give up.
            harm.goes_on(here, job_id)
    assert kills == KILLS, "the job was over too soon"
    state = here.ended(job_id)
    here.exactly_one_outcome_each(job_id, sources * harm.count(few))
    errors = here.rows("SELECT code, detail FROM item_errors WHERE job_id = :job", job=job_id)
    assert state == ("completed_with_errors" if errors else "completed")
    # A film is blamed only when a second decoder, which had nothing but it, was shot as well.
    assert len(errors) <= KILLS // 2
    assert {row.code for row in errors} <= {"decoder_died"}
    assert here.rows("SELECT max(attempts) AS n FROM shards")[0].n == 1
    harm.alive(worker)
    harm.calm(here)
