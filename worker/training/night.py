"""Nights: what a training job that a schedule made does besides training.

What the training process needs to know of the champion and of earlier nights is written into a file
for it; what it finds (worker.training.night_child) becomes rows here: the snapshot, the frozen
films, the verdict. Every step is one transaction that begins with the job's fence.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from db.base.database import away, patient, reading, write
from db.nightly import ends, nights, runs, schedules
from db.queue import leases
from db.queue.leases import Lease
from db.registry import aliases, models
from db.work import endings
from trainer.data import leavings
from trainer.data.learned import Learned
from worker.config import Settings
from worker.engine import store

#: What the training process reads.
FILE = "night.json"

#: How the films that models are compared on are named among evaluations.
SPLIT = "frozen films"

#: What the training process finds out before it trains, and what the run's outcome then is.
BEFORE_TRAINING = {"skipped": "skipped", "unfit": "kept"}

#: The clock is looked at every so many seconds, for the end of the night.
LOOK_S = 2.0


class Night:
    """The run that a training job is for."""

    def __init__(self, settings: Settings, engine: sa.Engine, lease: Lease, run: Any) -> None:
        self._settings = settings
        self._engine = engine
        self._lease = lease
        self._run = run
        self._rules: Mapping[str, Any] = run.spec.get("night", {})
        #: When training is to stop, if ever.
        self.end = NightEnd(engine, run.until)

    def prepare(self, folder: Path, start: int | None) -> Path:
        """Write what the training process needs to know; raises EngineError.

        `start` is the model whose weights the new one begins from, if any.
        """
        run = self._run
        champion = None if run.champion_id is None else self._champion(run.champion_id)
        anchor = self._anchor()
        behind = {run.champion_id, start, anchor and anchor["model"]} - {None}
        learned = Learned.of(nights.learned(self._engine, behind, run.schedule_id))
        frozen = run.schedule_evaluation_id
        last = nights.last_decided(self._engine, run.schedule_id)
        before = nights.last_trained(self._engine, run.schedule_id)
        films = None if before is None else nights.films(self._engine, before)
        facts = {
            "champion": champion,
            "anchor": anchor,
            "learned": {
                "films": sorted(learned.films),
                "patients": sorted(learned.patients),
            },
            "frozen": None if frozen is None else nights.manifest(self._engine, frozen),
            "last": None
            if last is None or run.cause == "hand"  # who asks for a run by hand wants one
            else {
                "hash": last["snapshot"]["hash"],
                "outcome": last["outcome"],
                "scheduled_for": last["scheduled_for"].isoformat(timespec="minutes"),
            },
            "before": None if films is None else {f.sha256: f.label for f in films},
            "paths": leavings.paths_of((film.sha256, film.path) for film in films or ()),
            "told_of_clutter": bool(last and (last["snapshot"] or {}).get("clutter")),
            "rules": dict(self._rules),
            "ends": run.until is not None,
            "goes_on": run.put_aside > 0,
        }
        path = folder / FILE
        path.write_text(json.dumps(facts), encoding="utf-8", errors="surrogateescape")
        return path

    def _champion(self, model_id: int) -> dict[str, Any]:
        row = models.get(self._engine, model_id)
        data = nights.dataset_of_model(self._engine, model_id)
        films = None if data is None else nights.films(self._engine, data)
        return {
            "positive": row["positive"],
            "labels": [label["name"] for label in models.detail(self._engine, model_id)["labels"]],
            "file": str(store.fetch(self._engine, self._settings.home, model_id)),
            "chose": self._chose(model_id),
            # Content → class; an imported one may have learned from any film.
            "films": None if films is None else {film.sha256: film.label for film in films},
        }

    def _anchor(self) -> dict[str, Any] | None:
        """The last model that a person promoted; None where that is the champion."""
        with reading(self._engine) as connection:
            model_id = aliases.anchor(connection)
            gone = None if model_id is None else models.pruned(connection, model_id)
            why = aliases.why_anchor(connection)
        if self._run.champion_id is None or model_id in (None, self._run.champion_id):
            return None
        note = {"anchor_id": model_id}
        write(self._engine, lambda c: nights.note(c, self._lease, self._run.id, **note))
        fetched = gone or str(store.fetch(self._engine, self._settings.home, model_id))
        return {
            "model": model_id,
            "why": why,
            "file": None if gone else fetched,
            "chose": self._chose(model_id),
        }

    def _chose(self, model_id: int) -> list[str]:
        """Contents of the films that chose a model's epoch and threshold, sorted."""
        kept = nights.learned(self._engine, [model_id], self._run.schedule_id, ("val",))
        return sorted({film.sha256 for film in kept})

    def record(self, engine: sa.Engine, event: str, payload: dict[str, Any]) -> bool:
        """Turn a report of the training process into rows; False where it is none of these."""
        lease, run_id = self._lease, self._run.id
        if event == "frozen":
            write(engine, lambda c: nights.freeze(c, lease, run_id, **payload))
        elif event == "snapshot":
            write(engine, lambda c: nights.note(c, lease, run_id, snapshot=payload))
        else:
            return False
        return True

    def skip_run(self, connection: sa.Connection, result: Mapping[str, Any]) -> None:
        """Nothing is trained tonight: end the run and complete the job."""
        leases.fence(connection, self._lease)
        outcome, reason = BEFORE_TRAINING[result["event"]], str(result["reason"])
        runs.finish(connection, self._run.id, outcome, reason, hook_text=str(result["told"]))
        endings.finish(
            connection, self._lease.job_id, "completed", self._lease.worker_id,
            f"{outcome}: {reason}",
        )  # fmt: skip

    def ended(self, connection: sa.Connection) -> None:
        """The night is over and the training is not done: put the job aside, or give it up."""
        run, who = self._run, self._lease.worker_id
        reason = (
            f"the training was not done at {self._rules.get('until')} in {run.tz}, the end of its "
            "night"
        )
        if self._rules.get("if_late") != ends.GIVE_UP:
            aside = f"{reason}; schedule {run.name} goes on with it at its next time"
            ends.put_aside(connection, self._lease, run.id, aside)
            return
        leases.fence(connection, self._lease)
        given_up = f"{reason}, and was given up"
        runs.finish(connection, run.id, "kept", given_up, hook_text=given_up)
        endings.finish(connection, self._lease.job_id, "cancelled", who, given_up)

    def judged(self, connection: sa.Connection, model_id: int, result: Mapping[str, Any]) -> None:
        """A model was made and registered: keep what it and the champion did on the frozen films.

        The run ends here where the champion stays, and where there was none; otherwise it waits
        for the workers' engine checks of the model.
        """
        found, run = result["judged"], self._run
        frozen = connection.execute(
            sa.text("SELECT evaluation_id FROM schedules WHERE id = :id"), {"id": run.schedule_id}
        ).scalar()
        for number, figures in (
            (model_id, found["candidate"]),
            (run.champion_id, found["champion"]),
            ((found.get("anchor") or {}).get("model"), (found.get("anchor") or {}).get("figures")),
        ):
            if number is not None and figures is not None:
                models.record_evaluation(
                    connection, number, SPLIT, figures,
                    dataset_id=frozen, job_id=self._lease.job_id,
                )  # fmt: skip
        columns = {
            "candidate_id": model_id, "evaluation_id": frozen, "verdict": found["verdict"],
        }  # fmt: skip
        reason, told = str(found["reason"]), str(found["told"])
        if run.champion_id is None:
            first = aliases.model_of(connection, aliases.CHAMPION) == model_id
            outcome = "promoted" if first else "kept"
            reason = (
                "it is the first model there is"
                if first
                else "another model became champion meanwhile, which this one was not compared with"
            )
            runs.finish(connection, run.id, outcome, reason, hook_text=reason, **columns)
        elif not found["accepted"]:
            runs.finish(connection, run.id, "kept", reason, hook_text=told, **columns)
        elif not self._rules.get("promote", True):
            aside = "not promoted, as this schedule is to promote nothing by itself: "
            runs.finish(
                connection, run.id, "kept", aside + reason, hook_text=aside + told, **columns
            )
        else:
            runs.note(connection, run.id, state="proving", reason=reason, **columns)


class NightEnd:
    """When a training is to stop; never where its night has no end.

    By the clock that made it, the database's, which a training asks for all the time. While the
    database is away, the time that was left when it was last there goes by.
    """

    def __init__(self, engine: sa.Engine, until: datetime | None) -> None:
        # Training must not wait for the answer: there is none while the database is away.
        self._database = patient(engine, 0.0)
        self._until = until
        self._look_at = 0.0
        #: When it passes, as far as is known (time.monotonic).
        self._passes_at = math.inf

    def passed(self) -> bool:
        """Whether it is over."""
        if self._until is None:
            return False
        at = time.monotonic()
        if at >= self._look_at:
            self._look_at = at + LOOK_S
            try:
                now = schedules.database_clock(self._database)
            except Exception as error:
                if not away(error):
                    raise
            else:
                self._passes_at = at + (self._until - now).total_seconds()
        return at >= self._passes_at


def of(settings: Settings, engine: sa.Engine, lease: Lease) -> Night | None:
    """The night that a training job is for; None for one that no schedule made."""
    with reading(engine) as connection:
        run = runs.of_job(connection, lease.job_id)
    return None if run is None else Night(settings, engine, lease, run)
