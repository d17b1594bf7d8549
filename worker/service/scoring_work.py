"""Scoring as a worker process does it: what it scores with stays warm between jobs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import sqlalchemy as sa

from worker import wakeup
from worker.config import Settings
from worker.engine import EngineChoice
from worker.errors import GpuLost
from worker.machine.gpu_lease import GpuLease
from worker.machine.heartbeat import Heartbeat
from worker.scoring.loop import Scorer

#: A broker that took no wake-up is left alone for this many seconds: planning must not wait for it.
MUTE_S = 10.0

#: With nothing to score for so many seconds, the GPU is given back.
IDLE_S = 5.0


class ScoringWork:
    """The scoring of one worker process. Used by one thread at a time."""

    def __init__(
        self,
        settings: Settings,
        engine: sa.Engine,
        worker_id: str,
        heartbeat: Heartbeat,
        choice: EngineChoice,
        stop: threading.Event,
        set_status: Callable[[str], object] = lambda text: None,
    ) -> None:
        """`choice` is what to score with; `set_status` takes words for the worker's row."""
        self._settings = settings
        self._database = engine
        self._worker_id = worker_id
        self._heartbeat = heartbeat
        self._choice = choice
        self._stop = stop
        self._set_status = set_status
        self._scorer: Scorer | None = None
        self._scored_at = 0.0
        self._mute_until = 0.0

    def drain(self, pause: Callable[[], bool] = lambda: False) -> None:
        """Score what is due, as `Scorer.drain`. Raises GpuLost, and what the database raises."""
        if self._scorer is None:
            self._scorer = self._open()
        scorer = self._scorer
        try:
            scorer.drain(pause)
            self._scored_at = time.monotonic()
        except GpuLost:
            self._scorer = None
            scorer.close()
            raise
        except BaseException:
            # Its state is unknown: its leases run out, and work begins anew.
            self._scorer = None
            scorer.abandon()
            raise

    def release_gpu(self) -> None:
        """Let others on this machine have the GPU; `drain` takes it again."""
        if self._scorer is not None:
            self._scorer.release_gpu()

    def idle(self) -> bool:
        """Whether nothing was scored for so long that the GPU should be given back."""
        return time.monotonic() - self._scored_at >= IDLE_S

    def close(self) -> None:
        """End the decoders and the engine."""
        if self._scorer is not None:
            self._scorer.close()

    def _open(self) -> Scorer:
        gpu = self._choice.gpu
        return Scorer(
            self._settings,
            self._database,
            self._worker_id,
            self._heartbeat,
            self._stop,
            self._notify,
            choice=self._choice,
            gpu_lease=None if gpu is None else GpuLease(gpu.uuid, "scoring"),
            set_status=self._set_status,
        )

    def _notify(self, times: int) -> None:
        if time.monotonic() < self._mute_until:
            return
        if not wakeup.notify(self._settings, "score", times):
            self._mute_until = time.monotonic() + MUTE_S
