"""Training's side of a worker: jobs are claimed and trained, one after another, until none is due.

More urgent scoring on the same machine goes first, and training has the GPU's lease while it runs.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import threading
from collections.abc import Callable

import sqlalchemy as sa

from db.base import database
from db.base.errors import LeaseLost
from db.queue.leases import Lease
from db.work import claims, endings
from worker.config import Settings
from worker.errors import ConfigError
from worker.machine.gpu_lease import ASK_S, GpuLease
from worker.machine.heartbeat import Heartbeat
from worker.training import giving_way
from worker.training.attempt import Attempt

log = logging.getLogger(__name__)


def require() -> None:
    """Raise ConfigError where this machine lacks what training needs."""
    if importlib.util.find_spec("torch") is None:
        raise ConfigError(
            "training needs PyTorch: pip install 'pneumoq[train]', or listen to score only"
        )


class Trainer:
    """Trains whatever is due, each job in a process of its own. Used by one thread at a time."""

    def __init__(
        self,
        settings: Settings,
        engine: sa.Engine,
        worker_id: str,
        heartbeat: Heartbeat,
        stop: threading.Event,
        *,
        gpu_lease: GpuLease | None = None,
        set_status: Callable[[str], object] = lambda text: None,
    ) -> None:
        """`gpu_lease` is of the GPU that training would use; None where there is no GPU.

        `set_status` takes words for the worker's row.
        """
        self._settings = settings
        # A job in hand outlasts the database's being away, for however long.
        self._database = database.patient(
            engine, database.PATIENCE_S, in_hand=lambda: not stop.is_set()
        )
        self._worker_id = worker_id
        self._heartbeat = heartbeat
        self._stop = stop
        self._gpu_lease = gpu_lease
        self._set_status = set_status
        self._waits = False

    def drain(self) -> bool:
        """Claim and train jobs until none is due or the worker is to stop.

        The GPU's lease is taken before a job is claimed, and released after each. True where a job
        waits for more urgent scoring on this machine, having given way to it or not been begun: to
        be called again soon.
        """
        try:
            while not self._stop.is_set():
                if giving_way.next_waits(self._database):
                    return True
                if self._gpu_lease is not None and not self._gpu_lease.take():
                    # Nothing is claimed yet, and whoever has the GPU needs nothing of ours.
                    if not claims.anything_due(self._database, "train"):
                        return False
                    self._set_waiting(
                        f"training waits for the GPU, which {self._gpu_lease.holder()} has"
                    )
                    self._stop.wait(ASK_S)
                    continue
                self._set_waiting("")
                if not self._train_one():
                    return False
            return False
        finally:
            if self._gpu_lease is not None:
                self._gpu_lease.release()
            self._set_waiting("")

    def _set_waiting(self, text: str) -> None:
        """Have the row tell what is waited for, if anything: once, when it begins and ends."""
        if bool(text) != self._waits:
            self._waits = bool(text)
            if text:
                log.info("%s", text)
            self._set_status(text)

    def _train_one(self) -> bool:
        """Claim a job and make an attempt at it; False where none is due."""
        claimed = database.write(
            self._database,
            lambda c: claims.claim_job(c, "train", self._worker_id, self._settings.lease_s),
        )
        if claimed is None:
            return False
        self._heartbeat.hold(claimed.lease)
        try:
            Attempt(
                self._settings, self._database, claimed, self._heartbeat, self._stop,
                self._gpu_lease,
            ).run()  # fmt: skip
        except LeaseLost as error:
            log.info("training stopped: %s", error)
        except Exception as error:
            if database.away(error):
                raise
            log.exception("job %d cannot be trained", claimed.lease.job_id)
            self._give_up(claimed.lease, error)
        finally:
            self._heartbeat.release(claimed.lease)
            if self._gpu_lease is not None:
                self._gpu_lease.release()
        return True

    def _give_up(self, lease: Lease, error: Exception) -> None:
        with contextlib.suppress(LeaseLost):
            database.write(self._database, lambda c: endings.give_up(c, lease, "training", error))
