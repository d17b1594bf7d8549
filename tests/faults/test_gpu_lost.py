"""A worker that loses its GPU ends with a failure, and another one does what it had in hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import harm, made_up_gpu
from tests.support.site import PATIENCE_S, Site


def test_a_worker_that_loses_its_gpu_says_why_and_ends_for_another_to_take_its_place(
    here: Site, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = made_up_gpu.lose(tmp_path / "site-packages", monkeypatch)
    worker = here.worker()
    job_id = harm.submit(here, few)
    assert worker.wait(PATIENCE_S) == 1
    assert here.says(worker, "this worker ends, for another to take its place")
    assert here.says(worker, "the GPU is lost: CUDA says 719")
    (row,) = here.rows("SELECT stopped_at FROM workers")
    assert row.stopped_at is not None, "it ends in good order all the same"
    # What it had in hand is there for the next one, without waiting for a lease to run out.
    states = {row.state for row in here.rows("SELECT state FROM shards")}
    assert states == {"ready"}
    attempts = sorted(row.attempts for row in here.rows("SELECT attempts FROM shards"))
    assert sum(attempts) in (1, 2), "only those at the GPU count"
    assert here.events(job_id, "gpu_lost") == sum(attempts)
    lost.unlink()
    here.worker()
    harm.completed(here, job_id, harm.count(few))
