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
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from db.base import database, workers
from db.base.errors import Conflict, LeaseLost, NotFound
from db.queue import jobs, leases, training
from db.queue.leases import Lease
from db.registry import models
from db.work import claims, endings
from db.work.claims import Claimed
from worker import config
from worker.config import Settings
from worker.engine import store
from worker.errors import EngineError
from worker.machine.gpu_lease import ASK_S, Board
from worker.machine.heartbeat import Heartbeat
from worker.training import night

log = logging.getLogger(__name__)

#: How often the lease and the stop event are looked at between reports.
TICK_S = 0.5

#: How often more urgent scoring is looked for, in seconds.
URGENT_S = 2.0

#: A training process that was told to stop is killed after this many seconds.
GRACE_S = 30.0

#: One whose job was cancelled, after so many: where its last checkpoint takes longer to write, the
#: one before it is what is continued from.
CANCELLED_GRACE_S = 2.0

#: What the states of a run are named in an attempt's folder (of trainer.learning.state).
CHECKPOINTS = "checkpoint*.pth"


def work(
    settings: Settings,
    engine: sa.Engine,
    worker_id: str,
    heartbeat: Heartbeat,
    stop: threading.Event,
    *,
    board: Board | None = None,
    say: Callable[[str], object] = lambda text: None,
) -> bool:
    """Claim and run training jobs until none is due or the worker is to stop.

    Where there is a GPU, its lease is had before a job is claimed, and let go of after each; `say`
    is told of a wait for it, for the worker's row. True where one waits for more urgent scoring on
    this machine, having given way to it or not been begun: to be called again soon.
    """
    waits = False
    try:
        while not stop.is_set():
            here = _scored_here(engine)
            if here and claims.urgent(engine, here) is not None:
                return True
            if board is not None and not board.take():
                # Nothing is claimed yet, and whoever has the GPU needs nothing of ours: it is let
                # go of in the end.
                if not claims.anything_due(engine, "train"):
                    return False
                if not waits:
                    waits = True
                    text = f"training waits for the GPU, which {board.holder()} has"
                    log.info("%s", text)
                    say(text)
                stop.wait(ASK_S)
                continue
            if waits:
                waits = False
                say("")
            claimed = database.write(
                engine, lambda c: claims.claim_job(c, "train", worker_id, settings.lease_s)
            )
            if claimed is None:
                return False
            heartbeat.hold(claimed.lease)
            try:
                _Attempt(settings, engine, claimed, heartbeat, stop, board).run()
            except LeaseLost as error:
                log.info("training stopped: %s", error)
            finally:
                heartbeat.release(claimed.lease)
                if board is not None:
                    board.release()
        return False
    finally:
        if board is not None:
            board.release()
        if waits:
            say("")


def _scored_here(engine: sa.Engine) -> set[str]:
    """The engines that workers on this machine score with, as jobs ask for them.

    Empty where nobody scores here: another machine needs nothing of ours.
    """
    here = [w for w in workers.alive(engine, "score") if w["host"] == socket.gethostname()]
    return {kind for worker in here for kind in workers.kinds(worker)}


def begins_from(spec: Mapping[str, Any]) -> int | None:
    """The model whose weights a training job begins from; None for another start.

    The number is in the job's spec, so that each attempt begins from the same, whatever is
    promoted meanwhile.
    """
    start = spec.get("warm_start")
    # True is what is asked of a schedule; a job that still has it found no model to begin from.
    return None if isinstance(start, bool) or start is None else int(start)


class _Attempt:
    """One attempt at one training job."""

    def __init__(
        self,
        settings: Settings,
        engine: sa.Engine,
        claimed: Claimed,
        heartbeat: Heartbeat,
        stop: threading.Event,
        board: Board | None = None,
    ) -> None:
        self._settings = settings
        self._database = engine
        self._claimed = claimed
        self._lease: Lease = claimed.lease
        self._heartbeat = heartbeat
        self._stop = stop
        self._board = board
        self._job_folder = self._folder_of(claimed.lease.job_id)
        self._folder = self._job_folder / f"attempt-{claimed.lease.token}"
        #: The run that this job is for, where a schedule made it.
        self._night = night.of(settings, engine, claimed.lease)
        self._dataset_id: int | None = None
        self._ended: dict[str, Any] | None = None
        #: Nothing is to be written any more: cancelled, or another worker's by now.
        self._lost = False
        #: The scoring that this job gives way to, in words.
        self._urgent: str | None = None
        self._look_at = time.monotonic() + URGENT_S

    def run(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            order = self._order()
        except EngineError as error:
            if isinstance(error.__cause__, DBAPIError):
                raise error.__cause__ from error  # the database is away: not the model's fault
            reason = f"the training cannot begin: {error}"
            self._write(lambda c: self._fail(c, reason))
            return
        process, reports = self._start(order)
        try:
            self._watch(process, reports)
        finally:
            process.kill()
            process.wait()
            os.close(reports)
            self._close_input(process)
        if self._lost or self._heartbeat.lost(self._lease):
            log.info("job %d was cancelled or taken over", self._lease.job_id)
        elif self._ended is None or self._ended["event"] == "stopped":
            self._hand_back(process.returncode)
        elif self._ended["event"] == "failed":
            self._write(lambda c: self._fail(c, self._ended_reason()))
        elif self._night is not None and self._ended["event"] in night.BEFORE_TRAINING:
            told, ended = self._night, self._ended
            self._write(lambda c: told.rest(c, ended))
        else:
            try:
                self._write(self._register)
                self._forget_checkpoints()
            except Conflict as error:
                reason = str(error)  # another attempt would find the name taken again
                self._write(lambda c: self._fail(c, reason))

    def _order(self) -> dict[str, Any]:
        """What the training process is to do; raises EngineError where a model cannot be had."""
        spec, start = dict(self._claimed.spec), begins_from(self._claimed.spec)
        if start is not None:
            spec["init"] = str(store.fetch(self._database, self._settings.home, start))
        prepared = None if self._night is None else self._night.prepare(self._folder, start)
        return {
            "spec": spec,
            "night": str(prepared or ""),
            "folder": str(self._folder),
            "cache": str(self._settings.home / "cache"),
            "resume_from": str(self._earlier() or ""),
            "threads": self._settings.train_threads,
            "engine_batch": self._settings.batch,
        }

    def _start(self, order: dict[str, Any]) -> tuple[subprocess.Popen[bytes], int]:
        reports, theirs = os.pipe()
        # The GPU's lease lives until its memory is free, also where this process is killed.
        lease = None if self._board is None else self._board.descriptor
        process = subprocess.Popen(
            [sys.executable, "-m", "worker.training.child", str(os.getpid()), str(theirs)],
            stdin=subprocess.PIPE,
            pass_fds=(theirs,) if lease is None else (theirs, lease),
            env=config.child_environment(self._settings),
            cwd="/",  # a folder named like one of our packages must not be found first
        )
        os.close(theirs)
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

    def _folder_of(self, job_id: int) -> Path:
        return self._settings.home / "training" / f"job-{job_id}"

    def _earlier(self) -> Path | None:
        """The newest attempt that left a checkpoint here: of this job, or of one it continues."""
        job_id: int | None = self._lease.job_id
        while job_id is not None:
            attempts = {f.parent for f in self._folder_of(job_id).glob(f"attempt-*/{CHECKPOINTS}")}
            if attempts:
                return max(attempts, key=_token)
            try:
                job_id = jobs.get(self._database, job_id)["parent_job_id"]
            except NotFound:
                return None
        return None

    def _forget_earlier(self) -> None:
        """Remove what earlier attempts at this job left: this one has a checkpoint of its own."""
        for folder in self._job_folder.glob("attempt-*"):
            if _token(folder) < self._lease.token:
                shutil.rmtree(folder, ignore_errors=True)

    def _forget_checkpoints(self) -> None:
        """Remove what only a run that is to go on needs: three times the model's size."""
        for path in self._folder.glob(CHECKPOINTS):
            path.unlink(missing_ok=True)

    def _watch(self, process: subprocess.Popen[bytes], reports: int) -> None:
        """Turn reports into rows until the process ends, is cancelled, or must stop."""
        rest = b""
        kill_at: float | None = None
        while True:
            self._lost = self._lost or self._heartbeat.lost(self._lease)
            if kill_at is None and (self._lost or self._stop.is_set() or self._gives_way()):
                # It writes a checkpoint, from which this job or another goes on.
                self._close_input(process)
                grace_s = CANCELLED_GRACE_S if self._lost else GRACE_S
                kill_at = time.monotonic() + grace_s
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
                if self._lost:
                    continue
                try:
                    self._hear(json.loads(line))
                except LeaseLost:
                    self._lost = True

    def _gives_way(self) -> bool:
        """Whether more urgent scoring waits on this machine, looked at now and then."""
        if time.monotonic() < self._look_at:
            return False
        self._look_at = time.monotonic() + URGENT_S
        try:
            here = _scored_here(self._database)
            if here:
                with database.reading(self._database) as connection:
                    self._urgent = claims.more_urgent(connection, self._claimed.priority, here)
        except DBAPIError as error:
            if not database.passing(error):
                raise
            # Away for a while: training goes on, and looks again.
        return self._urgent is not None

    def _hear(self, news: dict[str, Any]) -> None:
        event = news.pop("event")
        if event == "epoch":
            parts = {part: news[f"{part}_metrics"] for part in ("train", "val")}
            figures = {f"{part}_{k}": v for part in parts for k, v in parts[part].items()}
            row = {**figures, **news, "learning_rate": news["lr"]}
            self._write(lambda c: training.record_epoch(c, self._lease, row))
        elif event == "saved":
            self._write(lambda c: training.record_checkpoint(c, self._lease))
            self._forget_earlier()
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
        elif self._night is None or not self._night.hear(event, news):
            self._ended = {"event": event, **news}

    def _write(self, work: Any) -> None:
        database.write(self._database, work)

    def _hand_back(self, status: int | None) -> None:
        event, good = "handed_back", True
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

    def _ended_reason(self) -> str:
        assert self._ended is not None
        return str(self._ended["reason"])

    def _fail(self, connection: sa.Connection, reason: str) -> None:
        leases.fence(connection, self._lease)
        endings.finish(connection, self._lease.job_id, "failed", self._lease.worker_id, reason)

    def _register(self, connection: sa.Connection) -> None:
        """Register the model and complete the job, in one fenced transaction."""
        assert self._ended is not None
        leases.fence(connection, self._lease)
        card, job_id = self._ended["card"], self._lease.job_id
        model_id = models.register(
            connection,
            models.NewModel.of(
                card,
                name=self._claimed.spec.get("name") or f"resnet18-job{job_id}",
                origin="trained",
                files={name: Path(file) for name, file in self._ended["files"].items()},
                dataset_id=self._dataset_id,
                job_id=job_id,
                parent_id=begins_from(self._claimed.spec),
                engines=[
                    {**engine, "worker_id": self._lease.worker_id}
                    for engine in self._ended["engines"]
                ],
                evaluations={"validation": {**card["metrics"], "n_films": self._ended["n_val"]}},
                reference=self._ended["reference"],
            ),
            self._lease.worker_id,
        )
        if self._night is not None:
            self._night.judged(connection, model_id, self._ended)
        endings.complete_training(connection, self._lease, model_id)
        log.info("job %d made model %d", job_id, model_id)


def _token(attempt: Path) -> int:
    """The lease token that an attempt's folder is named for."""
    return int(attempt.name.partition("-")[2])
