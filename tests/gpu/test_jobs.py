"""Whole jobs on a GPU, through the queue: training, then scoring with the model that came of it."""

from __future__ import annotations

import functools
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from db.base import database
from db.queue import jobs
from db.registry import aliases
from tests.faults import harm
from tests.gpu import agreement
from tests.support import servers
from tests.support.site import Site, site, stop
from tests.trainer import samples as drawn
from tests.worker import samples
from trainer.film import rules
from worker import wakeup
from worker.engine import open_engine, store
from worker.machine.gpu import Gpu

SPEC = {
    "epochs": 4, "patience": 0, "size": samples.SIZE, "batch_size": 32, "lr": 2e-3,
    "init": "scratch", "precision": "auto", "val_fraction": 0.25, "operating_point": "youden",
}  # fmt: skip

#: Building an engine takes minutes on a small board, in seconds.
PATIENCE_S = 900.0


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """240 films of 120 patients."""
    root = tmp_path_factory.mktemp("labelled")
    drawn.fill(root, patients=60)
    return root


@pytest.fixture
def here(sqlite_url: str, valkey: servers.Valkey, tmp_path: Path) -> Iterator[Site]:
    """A site whose workers take the GPU."""
    cores = len(os.sched_getaffinity(0))
    with site(sqlite_url, valkey, tmp_path / "site", decoders=cores, gpu_batch=16) as made:
        yield made


def until(here: Site, true: Callable[[], Any], what: str) -> None:
    """Wait as long as building may take."""
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S:.0f} s for {what}\n{here.tail()}"
        time.sleep(0.1)


def _done(here: Site, job_id: int, shards: int) -> bool:
    return here.done(job_id) >= shards


def ended(here: Site, job_id: int) -> str:
    """A job's final state."""
    until(here, lambda: jobs.get(here.engine, job_id)["finished_at"], f"job {job_id} to end")
    return here.state(job_id)


def trained(here: Site, folder: Path) -> int:
    """Train on a folder; the model's number."""
    job_id = database.write(
        here.engine,
        lambda c: jobs.submit(
            c, kind="train", spec={**SPEC, "data": str(folder)}, submitted_by="tests"
        ),
    )
    assert wakeup.notify(here.settings, "train")
    assert ended(here, job_id) == "completed", here.tail()
    return int(aliases.resolve(here.engine, aliases.CHAMPION)["id"])


def test_a_model_is_trained_on_the_gpu_and_scores_with_tensorrt_as_on_the_processor(
    tensorrt: str, gpu: Gpu, here: Site, labelled: Path
) -> None:
    here.worker("score,train", engine="tensorrt")
    model_id = trained(here, labelled)
    job_id = here.score(labelled, model_id=model_id, spec=harm.ANEW)
    assert ended(here, job_id) == "completed", here.tail()
    here.exactly_one_outcome_each(job_id, harm.count(labelled))
    rows = here.rows("SELECT backend, device, precision, passed FROM engines")
    assert [(r.backend, r.device, bool(r.passed)) for r in rows] == [(tensorrt, gpu.device, True)]
    path = store.fetch(here.engine, here.settings.home / "reference", model_id, rows[0].precision)
    reference = open_engine(path, batch=8, threads=2, precision=rows[0].precision)
    assert reference.card.provenance["device"] == gpu.name, "it was trained elsewhere"
    found = here.probabilities(job_id)
    for name in sorted(found)[::8]:
        data = (labelled / name).read_bytes()
        pixels = np.zeros((8, 1, samples.SIZE, samples.SIZE), np.uint8)
        pixels[0, 0] = rules.decode(data, samples.SIZE)
        scores = reference.submit(pixels).result().scores[0]
        delta = agreement.DELTA.get(rows[0].precision, 2e-2)
        assert abs(found[name] - scores[reference.card.positive_index]) <= delta
    reference.close()
    harm.calm(here)


def test_a_worker_that_is_killed_while_it_has_the_gpu_costs_nothing_but_time(
    tensorrt: str, here: Site, labelled: Path, model_files: dict[str, Path]
) -> None:
    model_id = samples.register(here.engine, model_files["fp32"])
    worker = here.worker("score", engine="tensorrt")
    job_id = here.score(*[labelled] * 20, model_id=model_id, spec=harm.ANEW)
    for _ in range(3):
        further = here.done(job_id) + 1
        until(here, functools.partial(_done, here, job_id, further), "a shard to be final")
        assert here.state(job_id) in ("queued", "planning", "running"), "too late to break anything"
        assert stop(worker, signal.SIGKILL) == -signal.SIGKILL
        worker = here.worker("score", engine="tensorrt")
    assert ended(here, job_id) == "completed", here.tail()
    here.exactly_one_outcome_each(job_id, 20 * harm.count(labelled))
    built = here.rows("SELECT count(*) AS n FROM engines WHERE backend = :b", b=tensorrt)
    assert built[0].n == 1
