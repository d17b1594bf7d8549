"""SIGTERM, as by an orchestrator: what is in hand is handed back, and another goes on at once."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from tests.faults import harm
from tests.support import servers, soak
from tests.support.site import Site, stop

#: Folders of films in one job.
SOURCES = soak.repetitions(quick=12, full=25)

#: Handing back takes no longer than this, in seconds; a lease of ten minutes would.
GRACE_S = 15.0


@soak.on_postgresql
def test_a_worker_told_to_end_hands_its_shards_to_another_within_seconds(
    here: Site, few: Path
) -> None:
    pair = [here.begin_worker(lease_s=600.0), here.begin_worker(lease_s=600.0)]
    ids = [here.hello(worker) for worker in pair]
    job_id = harm.submit(here, *[few] * SOURCES)
    held = "SELECT count(*) AS n FROM shards WHERE state = 'leased' AND worker_id = :id"
    for worker, worker_id in zip(pair[:1], ids[:1], strict=True):
        harm.in_the_middle(here, job_id)
        here.wait(lambda id=worker_id: here.rows(held, id=id)[0].n, "it to hold a shard")
        began = time.monotonic()
        assert stop(worker, signal.SIGTERM) == 0
        assert time.monotonic() - began < GRACE_S
        assert here.rows(held, id=worker_id)[0].n == 0
    # Leases of ten minutes were not waited for, and no attempt counts against what was handed back.
    harm.completed(here, job_id, SOURCES * harm.count(few))
    assert here.rows("SELECT max(attempts) AS n FROM shards")[0].n == 1
    harm.alive(pair[1])
    harm.calm(here)


def test_a_worker_told_to_end_while_the_broker_is_away_ends_all_the_same(
    here: Site, valkey: servers.Valkey, few: Path
) -> None:
    worker = here.worker(lease_s=600.0)
    valkey.kill()
    job_id = harm.submit(here, *[few] * SOURCES, notify=False)
    harm.in_the_middle(here, job_id)
    began = time.monotonic()
    stop(worker, signal.SIGTERM)
    assert time.monotonic() - began < GRACE_S
    assert here.rows("SELECT count(*) AS n FROM shards WHERE state = 'leased'")[0].n == 0
    here.worker(lease_s=600.0)
    harm.completed(here, job_id, SOURCES * harm.count(few))
