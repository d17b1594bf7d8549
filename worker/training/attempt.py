"""One attempt at a training job: its process is watched, and what it reports becomes rows."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa

from db.base import database
from db.base.errors import Conflict, LeaseLost
from db.queue import jobs, leases, training
from db.queue.leases import Lease
from db.registry import models
from db.work import endings
from db.work.claims import Claimed
from worker.archive import trouble
from worker.config import Settings
from worker.engine import store
from worker.errors import ConfigError, EngineError
from worker.machine import privacy
from worker.machine.gpu_lease import GpuLease
from worker.machine.heartbeat import Heartbeat
from worker.training import checkpoints, night, start
from worker.training.giving_way import MoreUrgent
from worker.training.kept import Kept
from worker.training.process import GRACE_S, TrainingProcess
from worker.training.start import Start

log = logging.getLogger(__name__)

T = TypeVar("T")

#: How often the lease and the stop event are looked at between reports.
TICK_S = 0.5

#: While the database is away, reports are tried to be written this often, in seconds.
AGAIN_S = 2.0

#: The process of a cancelled job is killed this many seconds after it was told to stop: where its
#: last checkpoint takes longer to write, the one before it is what is continued from.
CANCELLED_GRACE_S = 2.0

#: A process that uses no processor for so many seconds waits for a disk or share: it is told of.
STALL_S = 300.0
STALLED = (
    "the training process has come to a stop: a disk or share that it reads or writes gives no "
    "answer; see to it, and the training goes on"
)


class Attempt:
    """One attempt at one training job."""

    def __init__(
        self,
        settings: Settings,
        engine: sa.Engine,
        claimed: Claimed,
        heartbeat: Heartbeat,
        stop: threading.Event,
        gpu_lease: GpuLease | None = None,
    ) -> None:
        self._settings = settings
        self._database = engine
        #: For whoever must not wait: the process is to be looked after meanwhile.
        self._at_once = database.patient(engine, 0.0)
        self._claimed = claimed
        self._lease: Lease = claimed.lease
        self._heartbeat = heartbeat
        self._stop = stop
        self._gpu_lease = gpu_lease
        self._folder = checkpoints.folder_of(settings.home, claimed.lease)
        self._kept = Kept(settings.home, claimed.lease.job_id)
        self._more_urgent = MoreUrgent(engine, claimed.priority)
        #: What its weights begin from, once that has been looked for.
        self._start = Start()
        #: The run that this job is for, where a schedule made it.
        self._night = night.of(settings, engine, claimed.lease)
        self._dataset_id: int | None = None
        #: Reports that are to become rows, oldest first: they wait while the database is away.
        self._reports: deque[dict[str, Any]] = deque()
        #: When that is tried again (time.monotonic).
        self._write_at = 0.0
        #: The last thing that the process reports, with its `event`.
        self._result: dict[str, Any] | None = None
        #: Nothing is to be written any more: cancelled, or another worker's by now.
        self._lost = False
        #: The scoring that this job gives way to, in words.
        self._urgent: str | None = None
        #: The night that it is for is over.
        self._night_over = False

    def run(self) -> None:
        """Train; the job is completed, failed, or handed back. Raises LeaseLost.

        While the database is away training goes on, and what it came to waits to be written.
        """
        if self._is_over():
            self._hand_back(None)
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            order = database.outlast(self._database, self._order)
        except (ConfigError, EngineError) as error:
            if trouble.of_machine(error):
                raise  # it is put back
            self._fail(f"the training cannot begin: {error}")
            return
        lease = self._gpu_lease
        process = TrainingProcess(order, None if lease is None else lease.descriptor)
        try:
            self._watch(process)
        finally:
            process.end()
        if self._lost or self._heartbeat.lost(self._lease):
            log.info("job %d was cancelled or taken over", self._lease.job_id)
        else:
            self._conclude(process)

    def _order(self) -> dict[str, Any]:
        """What the training process is to do; raises EngineError where a model cannot be had."""
        home, spec, night = self._settings.home, dict(self._claimed.spec), self._night
        self._start = start.of(self._database, spec, self._settings.film_deadline_s)
        if (number := start.named(spec)) is not None:
            spec["init"] = str(store.fetch(self._database, home, number))
        prepared = None if night is None else night.prepare(self._folder, self._start.model)
        earlier = checkpoints.newest(home, self._database, self._lease.job_id)
        learned = start.write(self._database, self._start, self._folder, earlier)
        return {
            "spec": spec,
            "night": str(prepared or ""),
            "folder": str(self._folder),
            "cache": str(home / "cache"),
            "resume_from": str(earlier or ""),
            "learned": str(learned or ""),
            "threads": self._settings.train_threads,
            "film_deadline_s": self._settings.film_deadline_s,
            "film_memory_mb": self._settings.film_memory_mb,
            "engine_batch": self._settings.batch,
            "names_key": privacy.load(self._settings).key_of_manifests().hex(),
        }

    def _watch(self, process: TrainingProcess) -> None:
        """Turn reports into rows until the process ends, is cancelled, or must stop."""
        kill_at: float | None = None
        stalled = False
        while True:
            self._lost = self._lost or self._heartbeat.lost(self._lease)
            if kill_at is None and (
                self._lost or self._stop.is_set() or self._is_over() or self._gives_way()
            ):
                # It writes a checkpoint, from which this job or another goes on.
                process.stop()
                kill_at = time.monotonic() + (CANCELLED_GRACE_S if self._lost else GRACE_S)
            if kill_at is not None and time.monotonic() > kill_at:
                return
            was_stalled, stalled = stalled, process.idle_s() >= STALL_S
            if stalled and not (was_stalled or self._lost):
                self._keep({"event": "note", "text": STALLED})
            events = process.events(TICK_S)
            for event in events or ():
                self._keep(event)
            self._write_reports()
            if events is None:
                return

    def _keep(self, event: dict[str, Any]) -> None:
        """Keep a report to be written; of how far it is only the latest matters."""
        # What names films is kept here, once, however often the report is to be written.
        self._kept.names(event.pop("names", {}))
        if event["event"] == "without":
            event = {"event": "note", "text": self._kept.left_out(event["files"])}
        if event["event"] == "progress":
            others = [kept for kept in self._reports if kept["event"] != "progress"]
            self._reports = deque(others)
        self._reports.append(event)

    def _write_reports(self) -> None:
        """Turn reports into rows. While the database is away they are kept, and tried again."""
        if time.monotonic() < self._write_at:
            return
        try:
            self._write_all(self._at_once)
        except LeaseLost:
            self._lost = True
        except Exception as error:
            if not database.away(error):
                raise
            self._write_at = time.monotonic() + AGAIN_S

    def _write_all(self, engine: sa.Engine) -> None:
        while self._reports and not self._lost:
            payload = dict(self._reports[0])
            self._record(engine, payload.pop("event"), payload)
            self._reports.popleft()

    def _gives_way(self) -> bool:
        """Whether more urgent scoring waits on this machine."""
        self._urgent = self._more_urgent.look()
        return self._urgent is not None

    def _is_over(self) -> bool:
        """Whether the night that it is for is over."""
        self._night_over = self._night is not None and self._night.end.passed()
        return self._night_over

    def _record(self, engine: sa.Engine, event: str, payload: dict[str, Any]) -> None:
        """Turn one report into rows, or keep it as the result."""
        lease = self._lease
        if event == "epoch":
            parts = {part: payload[f"{part}_metrics"] for part in ("train", "val")}
            figures = {f"{part}_{k}": v for part in parts for k, v in parts[part].items()}
            row = {**figures, **payload, "learning_rate": payload["lr"]}
            database.write(engine, lambda c: training.record_epoch(c, lease, row))
        elif event == "saved":
            database.write(engine, lambda c: training.record_checkpoint(c, lease))
            checkpoints.forget_earlier(self._folder)
        elif event == "progress":
            database.write(engine, lambda c: training.record_progress(c, lease, payload))
        elif event == "dataset":
            self._dataset_id = database.write(
                engine, lambda c: training.record_dataset(c, lease, **payload)
            )
        elif event == "note":
            self._note(engine, str(payload["text"]))
        elif self._night is None or not self._night.record(engine, event, payload):
            self._result = {"event": event, **payload}

    def _note(self, engine: sa.Engine, text: str) -> None:
        lease = self._lease
        log.info("job %d: %s", lease.job_id, text)
        database.write(engine, lambda c: jobs.log(c, lease.job_id, lease.worker_id, "note", text))

    def _conclude(self, process: TrainingProcess) -> None:
        """Write what is not written yet, and what the attempt came to by the process's result."""
        self._write_all(self._database)
        result = self._result
        if result is None or result["event"] == "stopped":
            self._hand_back(process.status)
        elif result["event"] == "failed":
            self._fail(str(result["reason"]))
        elif self._night is not None and result["event"] in night.BEFORE_TRAINING:
            run = self._night
            self._write(lambda c: run.skip_run(c, result))
        else:
            try:
                self._write(lambda c: self._register(c, result))
                checkpoints.forget(self._folder)
            except Conflict as error:
                self._fail(str(error))  # another attempt would find the name taken again

    def _hand_back(self, status: int | None) -> None:
        event, good = "handed_back", True
        if self._night_over and self._night is not None:
            self._write(self._night.ended)
            return
        if self._stop.is_set():
            reason = "the worker was stopped"
        elif self._urgent is not None:
            event, reason = "yielded", self._urgent
        else:
            reason, good = f"the training process ended by itself ({status})", False
            log.warning("job %d: %s", self._lease.job_id, reason)
        self._write(
            lambda c: leases.hand_back(c, self._lease, reason, in_good_order=good, event=event)
        )

    def _fail(self, reason: str) -> None:
        self._write(lambda c: endings.fail(c, self._lease, reason))

    def _register(self, connection: sa.Connection, result: Mapping[str, Any]) -> None:
        """Register the model and complete the job, in one fenced transaction."""
        leases.fence(connection, self._lease)
        job_id = self._lease.job_id
        new = _new_model(
            result,
            name=self._claimed.spec.get("name") or f"resnet18-job{job_id}",
            dataset_id=self._dataset_id,
            parent_id=self._start.model,
            lease=self._lease,
        )
        model_id = models.register(connection, new, self._lease.worker_id)
        if self._night is not None:
            self._night.judged(connection, model_id, result)
        endings.complete_training(connection, self._lease, model_id)
        log.info("job %d made model %d", job_id, model_id)

    def _write(self, work: Callable[[sa.Connection], T]) -> T:
        return database.write(self._database, work)


def _new_model(
    result: Mapping[str, Any],
    *,
    name: str,
    dataset_id: int | None,
    parent_id: int | None,
    lease: leases.Lease,
) -> models.NewModel:
    """The model that a training process reports."""
    card = result["card"]
    measured = {**card["metrics"], "n_films": result["n_val"], "shift": card.get("shift")}
    measured |= {"basis": card["basis"]} if card.get("basis") else {}
    return models.NewModel.of(
        card,
        name=name,
        origin="trained",
        files={name: Path(file) for name, file in result["files"].items()},
        dataset_id=dataset_id,
        job_id=lease.job_id,
        parent_id=parent_id,
        engines=[{**engine, "worker_id": lease.worker_id} for engine in result["engines"]],
        evaluations={"validation": measured},
        reference=result["reference"],
    )
