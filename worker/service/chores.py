"""Chores: what any worker does now and then beside its work, whoever gets to it first.

Each has a thread of its own, so that a slow one (a webhook that does not answer, a large file that
is hashed) delays no other, and no work. The database says what is still to be done, so that any
number of workers may do them at once.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import NamedTuple

import sqlalchemy as sa

from db.base import database
from db.work import totals
from worker.config import Settings
from worker.schedules import promotion, timetable, watch
from worker.service import hooks, retention

log = logging.getLogger(__name__)

#: Settings, database, and the worker's number, by which it signs.
Work = Callable[[Settings, sa.Engine, str], object]


class Chore(NamedTuple):
    """Something to be done now and then."""

    name: str
    work: Work
    #: Seconds between two; None: as often as sweeps.
    every_s: float | None = None


CHORES: tuple[Chore, ...] = (
    Chore("timetable", timetable.run),
    Chore("watch", watch.run),
    Chore("promotion", promotion.run),
    Chore("hooks", hooks.deliver),
    Chore("totals", lambda settings, engine, who: totals.add_all(engine)),
    Chore("retention", retention.of_schedules),
    Chore("tidying", retention.hourly, 3600.0),
)


class Chores:
    """The chores of one worker process."""

    def __init__(
        self, settings: Settings, engine: sa.Engine, who: str, chores: tuple[Chore, ...] = CHORES
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._who = who
        self._ended = False
        self._due = [(chore, threading.Event()) for chore in chores]

    def start(self) -> None:
        """Begin."""
        for chore, due in self._due:
            threading.Thread(
                target=self._run, args=(chore, due), name=chore.name, daemon=True
            ).start()

    def now(self) -> None:
        """Do each at once, in its own thread: beat ticks. Those with a time of their own wait."""
        for chore, due in self._due:
            if chore.every_s is None:
                due.set()

    def end(self) -> None:
        """Begin no more; what is under way ends with the process."""
        self._ended = True
        for _, due in self._due:
            due.set()

    def _run(self, chore: Chore, due: threading.Event) -> None:
        while not self._ended:
            try:
                chore.work(self._settings, self._engine, self._who)
            except Exception as error:
                # A thread that ended would not be missed until something was not done.
                if database.away(error):
                    log.warning("%s: the database could not be reached: %s", chore.name, error)
                else:
                    log.exception("%s failed; the next one comes in its time", chore.name)
            due.wait(self._settings.sweep_s if chore.every_s is None else chore.every_s)
            due.clear()
