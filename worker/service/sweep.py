"""The sweep: it finds work that is due, notifies workers of it, and closes what nobody closed.

Any number of sweeps may run at once; each does only what the database says is still to be done.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import sqlalchemy as sa

from db.base import database
from db.work import claims, endings, patience
from worker import wakeup
from worker.app import QUEUES
from worker.config import Settings

log = logging.getLogger(__name__)


def run(
    settings: Settings,
    engine: sa.Engine,
    who: str,
    found: Callable[[str], object] = lambda queue: None,
) -> None:
    """One sweep; `found` is called with each queue on which work is due, before any wake-up."""
    for job_id in endings.waiting_to_close(engine):
        try:
            if endings.close(engine, job_id, who):
                log.info("job %d: closed by a sweep", job_id)
        except Exception as error:
            if database.away(error):
                raise
            log.exception("job %d cannot be ended; the others are", job_id)
    for job_id in patience.waiting(engine):
        try:
            if database.write(engine, lambda c, j=job_id: patience.look(c, j, who)):  # type: ignore[misc]
                log.warning("job %d: paused, as its sources cannot be read", job_id)
        except Exception as error:
            if database.away(error):
                raise
            log.exception("job %d cannot be looked at for its sources; the others are", job_id)
    due = [queue for queue in QUEUES if claims.anything_due(engine, queue)]
    for queue in due:
        found(queue)
    for queue in due:
        wakeup.notify(settings, queue)


class Sweeper:
    """Sweeps now and then in a thread of its own: a broker that is away must not delay a beat."""

    def __init__(
        self,
        settings: Settings,
        engine: sa.Engine,
        who: str,
        found: Callable[[str], object],
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._who = who
        self._found = found
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sweep", daemon=True)

    def start(self) -> None:
        """Begin to sweep."""
        self._thread.start()

    def end(self) -> None:
        """Sweep no more."""
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(self._settings.sweep_s):
            try:
                run(self._settings, self._engine, self._who, self._found)
            except Exception as error:
                # A thread that ended would not be missed until work lies about.
                if database.away(error):
                    log.warning("a sweep could not reach the database: %s", error)
                else:
                    log.exception("a sweep failed; the next one comes in its time")
