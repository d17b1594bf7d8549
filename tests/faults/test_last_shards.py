"""The last two shards of a job finish at the same instant: it is closed, and closed once."""

from __future__ import annotations

import threading
from pathlib import Path

import sqlalchemy as sa

from db.base import database
from db.queue import jobs, leases, results
from db.registry import models
from db.work import endings
from tests.db import given
from tests.support import soak

#: How many jobs.
TIMES = soak.repetitions(quick=12, full=40)


def _finish(engine: sa.Engine, shard: leases.Shard, together: threading.Barrier) -> bool:
    """What a worker does with its last shard; whether it was the one that closed the job."""
    outcomes = given.outcomes(shard)
    together.wait(timeout=30)
    database.write(engine, lambda c: results.commit(c, shard, outcomes))
    return database.write(engine, lambda c: endings.close_if_done(c, shard.job_id, shard.worker_id))


@soak.on_postgresql
def test_the_last_two_shards_finish_at_the_same_instant_and_close_the_job_once(
    database_url: str, tmp_path: Path
) -> None:
    engines = [database.connect(database_url) for _ in range(2)]
    database.write(engines[0], lambda c: models.register(c, given.model(tmp_path, "m"), "tests"))
    for _ in range(TIMES):
        job_id = given.running(engines[0], shards=2, items=3)
        held = [given.claimed(engines[0], f"w{n}") for n in range(2)]
        together = threading.Barrier(2)
        closed = given.together(
            *[
                lambda engine=engine, shard=shard, together=together: _finish(
                    engine, shard, together
                )
                for engine, shard in zip(engines, held, strict=True)
            ]
        )
        # One of them closes it; never both, never neither.
        assert sorted(map(str, closed)) == ["False", "True"]
        assert jobs.get(engines[0], job_id)["state"] == "completed"
        assert [e["event"] for e in jobs.events(engines[0], job_id)].count("completed") == 1
    for engine in engines:
        engine.dispose()
