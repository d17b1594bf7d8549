"""Beat has no lock of its own: somebody will start two."""

from __future__ import annotations

from pathlib import Path

from tests.faults import harm
from tests.support import soak
from tests.support.site import Site


@soak.on_postgresql
def test_two_beats_sweep_twice_as_often_and_nothing_is_done_twice(here: Site, few: Path) -> None:
    # No worker is notified but of what the beats' sweeps find.
    pair = [here.begin_worker(sweep_s=600.0, lease_s=60.0) for _ in range(2)]
    beats = [here.beat(sweep_s=0.3), here.beat(sweep_s=0.3)]
    for worker in pair:
        here.hello(worker)
    for beat in beats:
        here.wait(lambda beat=beat: here.says(beat, "sweep-score"), "a beat's tick")
    job_ids = [harm.submit(here, *[few] * 4, notify=False) for _ in range(2)]
    for job_id in job_ids:
        harm.completed(here, job_id, 4 * harm.count(few))
    later = harm.submit(here, few, notify=False)
    harm.completed(here, later, harm.count(few))
    attempts = here.rows("SELECT DISTINCT attempts, lease_token FROM shards")
    assert attempts == [(1, 1)], "a shard was claimed twice"
    harm.alive(*pair, *beats)
    harm.calm(here)
