"""Training and scoring share one GPU between real processes: one has it, and nobody waits for ever.

The GPU is made up: its lease is real, the engine is ONNX Runtime on the processor, and a stand-in
takes the place of the training process.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from db.base import database, workers
from db.queue import jobs, training
from db.work import control
from tests.faults import harm, made_up_gpu
from tests.support import processes, soak
from tests.support.site import Site, stop
from worker import wakeup

SPEC = {
    "epochs": 10_000, "patience": 0, "size": 32, "batch_size": 8, "lr": 1e-3, "init": "scratch",
    "precision": "fp32", "val_fraction": 0.3, "operating_point": "youden",
}  # fmt: skip


@pytest.fixture
def here(here: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A site whose workers have a GPU."""
    made_up_gpu.have(tmp_path / "site-packages", monkeypatch)
    return here


def train(here: Site, data: Path) -> int:
    """Submit a training that does not end, and wait for its first epoch."""
    job_id = database.write(
        here.engine,
        lambda c: jobs.submit(
            c, kind="train", spec={**SPEC, "data": str(data)}, submitted_by="tests"
        ),
    )
    assert wakeup.notify(here.settings, "train")
    here.wait(lambda: epochs(here, job_id), "the first epoch")
    return job_id


def epochs(here: Site, job_id: int) -> int:
    """How far a training is."""
    return len(training.epoch_rows(here.engine, job_id))


def computes(here: Site, queue: str) -> str:
    """What the row of the worker of a queue says that it computes with."""
    return "; ".join(str(row["engine"]) for row in workers.alive(here.engine, queue))


@pytest.mark.parametrize(
    "queues", [["train", "score"], pytest.param(["score,train"], marks=soak.ONLY)]
)
def test_urgent_scoring_gets_the_gpu_from_training_which_goes_on_when_scoring_rests(
    here: Site, few: Path, queues: list[str]
) -> None:
    trainer, *_ = [here.worker(queue, lease_s=20.0) for queue in queues]
    training_job = train(here, few)
    patient = harm.submit(here, few)
    if len(queues) > 1:
        # It waits with nothing in hand, and says for whom.
        who = f"scoring waits for the GPU, which training (process {trainer.pid}) has"
        here.wait(lambda: who in computes(here, "score"), "scoring to say that it waits")
    assert here.state(patient) == "queued"
    urgent = here.score(few, model_id=1, spec=harm.ANEW, priority=5)
    for job_id in (urgent, patient):
        harm.completed(here, job_id, harm.count(few))
    assert here.events(training_job, "yielded") >= 1
    assert here.events(urgent, "engine") == 1
    before = epochs(here, training_job)
    here.wait(lambda: epochs(here, training_job) > before, "training to go on")
    assert jobs.get(here.engine, training_job)["attempts"] == 1
    database.write(here.engine, lambda c: control.cancel(c, training_job, "tests"))
    here.wait(lambda: not processes.children(trainer.pid, "stand_in_child"), "the training to end")
    harm.calm(here)


def test_scoring_has_the_gpu_when_the_worker_that_trained_on_it_is_killed(
    here: Site, few: Path
) -> None:
    trainer, _ = here.worker("train", lease_s=20.0), here.worker("score", lease_s=20.0)
    train(here, few)
    job_id = harm.submit(here, few)
    here.wait(lambda: "waits for the GPU" in computes(here, "score"), "scoring to wait")
    assert stop(trainer, signal.SIGKILL) == -signal.SIGKILL
    harm.completed(here, job_id, harm.count(few))
    here.wait(lambda: "waits" not in computes(here, "score"), "its row to say so")


def test_training_waits_with_nothing_in_hand_until_scoring_rests(here: Site, few: Path) -> None:
    here.worker("score", lease_s=20.0)
    scoring = here.score(*[few] * 30, model_id=1, spec=harm.ANEW)
    here.wait(lambda: here.done(scoring) >= 1, "scoring to have the GPU")
    here.worker("train", lease_s=20.0)
    job_id = database.write(
        here.engine,
        lambda c: jobs.submit(
            c, kind="train", spec={**SPEC, "data": str(few)}, submitted_by="tests"
        ),
    )
    assert wakeup.notify(here.settings, "train")
    here.wait(lambda: "training waits for the GPU" in computes(here, "train"), "training to wait")
    assert here.state(job_id) == "queued"
    harm.completed(here, scoring, 30 * harm.count(few))
    here.wait(lambda: epochs(here, job_id), "training to begin")
    here.wait(lambda: "waits" not in computes(here, "train"), "its row to say so")
    database.write(here.engine, lambda c: control.cancel(c, job_id, "tests"))


@pytest.mark.parametrize("asked", ["tensorrt", pytest.param("onnx", marks=soak.ONLY)])
def test_training_gives_way_only_to_scoring_that_is_served_here(
    here: Site, few: Path, asked: str
) -> None:
    trainer = here.worker("score,train", lease_s=20.0)
    training_job = train(here, few)
    urgent = here.score(few, model_id=1, spec=harm.ANEW, priority=5, engine=asked)
    if asked == "onnx":
        harm.completed(here, urgent, harm.count(few))
        assert here.events(training_job, "yielded") >= 1
    else:
        before = epochs(here, training_job)
        here.wait(lambda: epochs(here, training_job) > before + 3, "training to go on")
        assert here.events(training_job, "yielded") == 0
    database.write(here.engine, lambda c: control.cancel(c, training_job, "tests"))
    here.wait(lambda: not processes.children(trainer.pid, "stand_in_child"), "the training to end")
