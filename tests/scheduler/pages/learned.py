"""Models as training and nights leave them, for their pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from db.base import database
from db.nightly import runs, schedules
from db.queue import labels
from db.work import endings
from tests.scheduler import rows
from tests.scheduler.pages import made
from trainer.film import rules
from trainer.judging import figures

#: Loss of training and validation by epoch: from the fifth on the second rises.
LOSS = [(0.62, 0.60), (0.45, 0.44), (0.36, 0.35), (0.28, 0.30), (0.22, 0.27), (0.16, 0.30),
        (0.11, 0.36), (0.08, 0.43)]  # fmt: skip

#: As docs of the shift report describe it.
SHIFT: dict[str, Any] = {
    "version": 1, "seed": 0, "positive": "PNEUMONIA", "threshold": 0.4, "films": 120,
    "positives": 60, "patients": 80, "held_out": 120, "patients_are": "known",
    "plain": {"value": 0.985, "low": 0.97, "high": 0.995},
    "groups": [{"group": 1, "look": "mark", "what": "the same mark", "label": "PNEUMONIA",
                "films": 40, "patients": 30, "donors": 40}],
    "notes": ["The group 2 has no marks."],
    "dressings": [
        {"name": "group 1", "kind": "unit", "group": 1, "dressed": "negative", "unseen": False,
         "films": 60, "patients": 40, "auroc": {"value": 0.91, "low": 0.86, "high": 0.95},
         "mean_p": {"negative": {"before": 0.1, "after": 0.3}},
         "flips": {"value": 0.14, "low": 0.09, "high": 0.21}},
        {"name": "counter-shift full", "kind": "counter-shift", "group": None, "dressed": "both",
         "unseen": False, "films": 120, "patients": 80,
         "auroc": {"value": 0.83, "low": 0.78, "high": 0.88}, "mean_p": {},
         "flips": {"value": 0.25, "low": 0.2, "high": 0.3}},
    ],
    "worst": {"name": "counter-shift full", "auroc": 0.83, "low": 0.78, "high": 0.88},
}  # fmt: skip


def a_trained_model(engine: sa.Engine, folder: Path, name: str = "tonight", **values: Any) -> int:
    """A model that a job trained in eight epochs."""
    lease = rows.a_claimed_training(engine, epochs=len(LOSS))
    for epoch, (train, val) in enumerate(LOSS, start=1):
        rows.do_epoch(
            engine, lease, epoch, val_auroc=0.85 + 0.02 * min(epoch, 5), best=epoch <= 5,
            train_loss=train, val_loss=val, train_accuracy=1 - train / 2, val_accuracy=1 - val / 2,
        )  # fmt: skip
    rng = np.random.default_rng(1)
    truth = rng.random(300) < 0.5
    score = np.clip(rng.normal(0.3 + 0.4 * truth, 0.2), 0, 1)
    found = figures.summary(score, truth, 0.4)
    card = {
        "labels": ["NORMAL", "PNEUMONIA"], "patients": "unknown", "shift": SHIFT,
        "provenance": {
            "options": {"epochs": 8, "batch_size": 32, "lr": 1e-3, "seed": 0},
            "init": {"name": "imagenet"}, "versions": {"torch": "2.6"},
        },
    }  # fmt: skip
    model_id = rows.a_model(
        engine, folder, name, job_id=lease.job_id, film_rule=rules.DEFAULT_RULE, metrics=found,
        card=card, evaluations={"validation": {**found, "n_films": 300}}, **values,
    )  # fmt: skip
    database.write(engine, lambda c: endings.complete_training(c, lease, model_id))
    return model_id


def a_labelled_job(engine: sa.Engine, model_id: int, folder: Path, names: list[str]) -> int:
    """A job of the model whose films have true labels: every third one is healthy."""
    job_id = made.a_job(engine, model_id, made.an_archive(folder / "seen.zip", names), made.plain)
    truth = [(n, "PNEUMONIA" if n % 3 else "NORMAL") for n in range(len(names))]
    database.write(engine, lambda c: labels.import_rows(c, job_id, truth, "kim"))
    return job_id


def a_night(engine: sa.Engine, champion: int, candidate: int, verdict: dict[str, Any]) -> int:
    """A finished run of the schedule `nightly`, in which the champion stayed."""

    def work(connection: sa.Connection) -> int:
        schedule = schedules.add(
            connection, name="nightly", cron="0 2 * * *", tz="UTC", kind="train",
            spec={"job": {}, "night": {}}, catch_up_s=3600, created_by="kim",
        )  # fmt: skip
        assert schedule
        run_id = schedules.run_now(connection, "nightly")
        runs.finish(
            connection, run_id, "kept", "the new model's AUROC is lower", hook_text="kept",
            champion_id=champion, candidate_id=candidate, verdict=verdict,
            snapshot={"hash": "ab12", "films": 900, "classes": {"NORMAL": 400, "PNEUMONIA": 500},
                      "added": 12, "removed": 0, "relabelled": 1, "unreadable": 2},
        )  # fmt: skip
        return run_id

    return database.write(engine, work)
