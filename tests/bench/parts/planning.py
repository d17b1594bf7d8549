"""One process that plans one job and ends: what planning takes, without scoring beside it.

    python -m tests.bench.parts.planning      # settings from PNEUMOQ_…; prints JSON

The planner is the worker's own, with its heartbeat and its wake-ups.
"""

from __future__ import annotations

import json
import os
import threading
import time

from db.base import database, workers
from db.work import claims
from tests.bench.parts import memory
from worker import config, wakeup
from worker.machine import privacy
from worker.machine.heartbeat import Heartbeat
from worker.scoring.planning import Planner


def main() -> None:
    """Plan the oldest job that waits for it."""
    settings = config.load()
    engine = database.connect(settings.database_url)
    database.write(
        engine,
        lambda c: workers.register(
            c, "planner", host="here", pid=os.getpid(), queues="score", engine=None, versions={}
        ),
    )
    heartbeat = Heartbeat(engine, "planner", lease_s=settings.lease_s)
    heartbeat.start()
    before = memory.resident_mb(os.getpid())
    began = time.monotonic()
    claimed = database.write(
        engine, lambda c: claims.claim_job(c, "score", "planner", settings.lease_s)
    )
    assert claimed is not None, "no job waits to be planned"
    heartbeat.hold(claimed.lease)
    planner = Planner(
        engine,
        claimed,
        heartbeat,
        threading.Event(),
        lambda times: wakeup.notify(settings, "score", times),
        lambda: None,
        privacy.load(settings),
    )
    planner.join()
    seconds = time.monotonic() - began
    heartbeat.end()
    peak = memory.resident_mb(os.getpid(), "VmHWM")
    print(json.dumps({"seconds": seconds, "before_mb": before, "peak_mb": peak}))


if __name__ == "__main__":
    main()
