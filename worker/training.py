"""Training jobs: each runs in a process of its own, watched from here, and its news become rows.

Each attempt writes in a folder of its own lease token, so that a trainer that was given up for dead
cannot touch its successor's checkpoints; the successor begins from a copy of the newest of them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from db import database, jobs, models, training
from db.errors import Conflict, LeaseLost
from db.jobs import Claimed, Lease
from worker import config
from worker.config import Settings
from worker.heartbeat import Heartbeat

log = logging.getLogger(__name__)

#: How often the lease and the stop event are looked at between reports.
TICK_S = 0.5

#: A training process that was told to stop is killed after this many seconds.
GRACE_S = 10.0

#: Name of a finished epoch's state in an attempt's folder (trainer.loop.CHECKPOINT).
CHECKPOINT = "checkpoint.pth"


def work(
    settings: Settings,
    engine: sa.Engine,
    worker_id: str,
    heartbeat: Heartbeat,
    stop: threading.Event,
) -> None:
    """Claim and run training jobs until none is due or the worker is to stop."""
    while not stop.is_set():
        claimed = database.write(
            engine, lambda c: jobs.claim(c, "train", worker_id, settings.lease_s)
        )
        if claimed is None:
            return
        heartbeat.hold(claimed.lease)
        try:
            _Attempt(settings, engine, claimed, heartbeat, stop).run()
        except LeaseLost as error:
            log.info("training stopped: %s", error)
        finally:
            heartbeat.release(claimed.lease)


class _Attempt:
    """One attempt at one training job."""

    def __init__(
        self,
        settings: Settings,
        engine: sa.Engine,
        claimed: Claimed,
        heartbeat: Heartbeat,
        stop: threading.Event,
    ) -> None:
        self._settings = settings
        self._database = engine
        self._claimed = claimed
        self._lease: Lease = claimed.lease
        self._heartbeat = heartbeat
        self._stop = stop
        self._job_folder = settings.home / "training" / f"job-{claimed.lease.job_id}"
        self._folder = self._job_folder / f"attempt-{claimed.lease.token}"
        self._dataset_id: int | None = None
        self._ended: dict[str, Any] | None = None

    def run(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        process, reports = self._start()
        try:
            self._watch(process, reports)
        finally:
            process.kill()
            process.wait()
            os.close(reports)
            self._close_input(process)
        if self._heartbeat.lost(self._lease):
            log.info("job %d was cancelled or taken over", self._lease.job_id)
        elif self._ended is None or self._ended["event"] == "stopped":
            self._hand_back(process.returncode)
        elif self._ended["event"] == "failed":
            self._write(lambda c: self._fail(c, self._ended_reason()))
        else:
            try:
                self._write(self._register)
            except Conflict as error:
                reason = str(error)  # another attempt would find the name taken again
                self._write(lambda c: self._fail(c, reason))

    def _start(self) -> tuple[subprocess.Popen[bytes], int]:
        reports, theirs = os.pipe()
        process = subprocess.Popen(
            [sys.executable, "-m", "worker.train_child", str(os.getpid()), str(theirs)],
            stdin=subprocess.PIPE,
            pass_fds=(theirs,),
            env=config.child_environment(self._settings),
            cwd="/",  # a folder named like one of our packages must not be found first
        )
        os.close(theirs)
        order = {
            "spec": self._claimed.spec,
            "folder": str(self._folder),
            "cache": str(self._settings.home / "cache"),
            "resume_from": str(self._earlier() or ""),
            "threads": self._settings.train_threads,
            "engine_batch": self._settings.batch,
        }
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(order).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # it ended at once; its exit status tells
        return process, reports

    def _close_input(self, process: subprocess.Popen[bytes]) -> None:
        """Tell the process to stop."""
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()

    def _earlier(self) -> Path | None:
        """The newest attempt of this job that finished an epoch here."""
        tokens = sorted(
            (
                int(f.parent.name.partition("-")[2])
                for f in self._job_folder.glob(f"attempt-*/{CHECKPOINT}")
            ),
            reverse=True,
        )
        return self._job_folder / f"attempt-{tokens[0]}" if tokens else None

    def _watch(self, process: subprocess.Popen[bytes], reports: int) -> None:
        """Turn reports into rows until the process ends, is cancelled, or must stop."""
        rest = b""
        kill_at: float | None = None
        while True:
            if self._heartbeat.lost(self._lease):
                return
            if self._stop.is_set() and kill_at is None:
                self._close_input(process)
                kill_at = time.monotonic() + GRACE_S
            if kill_at is not None and time.monotonic() > kill_at:
                return
            if not select.select([reports], [], [], TICK_S)[0]:
                continue
            chunk = os.read(reports, 1 << 16)
            if not chunk:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(GRACE_S)
                return
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._hear(json.loads(line))

    def _hear(self, news: dict[str, Any]) -> None:
        event = news.pop("event")
        if event == "epoch":
            row = {k: v for k, v in news.items() if k != "epochs"}
            row["learning_rate"] = row.pop("lr")
            self._write(lambda c: training.record_epoch(c, self._lease, row))
        elif event == "progress":
            self._write(lambda c: training.record_progress(c, self._lease, news))
        elif event == "dataset":
            self._dataset_id = database.write(
                self._database, lambda c: training.record_dataset(c, self._lease, **news)
            )
        elif event == "note":
            log.info("job %d: %s", self._lease.job_id, news["text"])
            self._write(
                lambda c: jobs.log(
                    c, self._lease.job_id, self._lease.worker_id, "note", news["text"]
                )
            )
        else:
            self._ended = {"event": event, **news}

    def _write(self, work: Any) -> None:
        database.write(self._database, work)

    def _hand_back(self, status: int | None) -> None:
        if self._stop.is_set():
            reason, good = "the worker was stopped", True
        else:
            reason, good = f"the training process ended by itself ({status})", False
            log.warning("job %d: %s", self._lease.job_id, reason)
        self._write(lambda c: jobs.hand_back(c, self._lease, reason, in_good_order=good))

    def _ended_reason(self) -> str:
        assert self._ended is not None
        return str(self._ended["reason"])

    def _fail(self, connection: sa.Connection, reason: str) -> None:
        jobs.fence(connection, self._lease)
        jobs.finish(connection, self._lease.job_id, "failed", self._lease.worker_id, reason)

    def _register(self, connection: sa.Connection) -> None:
        """Register the model and complete the job, in one fenced transaction."""
        assert self._ended is not None
        jobs.fence(connection, self._lease)
        card, job_id = self._ended["card"], self._lease.job_id
        model_id = models.register(
            connection,
            models.NewModel(
                name=self._claimed.spec.get("name") or f"resnet18-job{job_id}",
                origin="trained",
                arch="resnet18",
                labels=card["labels"],
                positive=card["positive"],
                size=card["size"],
                film_rule=card["film_rule"],
                temperature=card["temperature"],
                threshold=card["threshold"],
                threshold_rule=card["threshold_rule"],
                ood_threshold=card["ood_threshold"],
                metrics=card["metrics"],
                card=card,
                files={name: Path(file) for name, file in self._ended["files"].items()},
                dataset_id=self._dataset_id,
                job_id=job_id,
                engines=[
                    {**engine, "worker_id": self._lease.worker_id}
                    for engine in self._ended["engines"]
                ],
                evaluations={"validation": {**card["metrics"], "n_films": self._ended["n_val"]}},
            ),
            self._lease.worker_id,
        )
        training.complete(connection, self._lease, model_id)
        log.info("job %d made model %d", job_id, model_id)
