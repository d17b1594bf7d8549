"""A training job gives way to urgent scoring on the same machine, and goes on after it."""

from __future__ import annotations

from pathlib import Path

import pytest

from db.base import database
from db.queue import jobs, training
from db.work import control
from tests.faults import harm
from tests.support import processes, soak
from tests.support.site import Site
from worker import wakeup

SPEC = {
    "epochs": 10_000, "patience": 0, "size": 32, "batch_size": 8, "lr": 1e-3, "init": "scratch",
    "precision": "fp32", "val_fraction": 0.3, "operating_point": "youden",
}  # fmt: skip


@pytest.mark.parametrize(
    "queues", [["score,train"], pytest.param(["train", "score"], marks=soak.ONLY)]
)
def test_training_gives_way_to_urgent_scoring_and_goes_on_after_it(
    here: Site, few: Path, queues: list[str]
) -> None:
    trainer, *others = [here.worker(queue, lease_s=20.0) for queue in queues]
    training_job = database.write(
        here.engine,
        lambda c: jobs.submit(
            c, kind="train", spec={**SPEC, "data": str(few)}, submitted_by="tests"
        ),
    )
    assert wakeup.notify(here.settings, "train")

    def epochs() -> int:
        return len(training.epoch_rows(here.engine, training_job))

    here.wait(lambda: epochs() >= 1, "the first epoch")
    for worker in others:
        harm.freeze(worker)  # so that scoring is not done before anybody can give way
    urgent = here.score(few, model_id=1, spec=harm.ANEW, priority=5)
    here.wait(lambda: here.events(training_job, "yielded") >= 1, "training to give way")
    for worker in others:
        harm.thaw(worker)
    harm.completed(here, urgent, harm.count(few))
    (said,) = [e["detail"] for e in jobs.events(here.engine, training_job)
               if e["event"] == "yielded"]  # fmt: skip
    assert said == f"scoring job {urgent} goes first: its priority is 5, not 0"
    before = epochs()
    here.wait(lambda: epochs() > before, "training to go on")
    assert jobs.get(here.engine, training_job)["attempts"] == 1, "giving way is no attempt"
    database.write(here.engine, lambda c: control.cancel(c, training_job, "tests"))
    here.wait(
        lambda: not processes.children(trainer.pid, "worker.training.child"), "the training to end"
    )
    harm.calm(here)
