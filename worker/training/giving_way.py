"""Scoring goes first: what training on this machine gives way to.

Only scoring that is more urgent counts, and only where a worker of this machine would do it:
another machine needs nothing of this one.
"""

from __future__ import annotations

import socket
import time

import sqlalchemy as sa

from db.base import database, workers
from db.work import claims

#: How often a job in hand looks for more urgent scoring, in seconds.
URGENT_S = 2.0


def next_waits(engine: sa.Engine) -> bool:
    """Whether the next training job that is due is not to be begun yet."""
    here = _engines_here(engine)
    return bool(here) and claims.urgent(engine, here) is not None


class MoreUrgent:
    """Scoring that is more urgent than a training job in hand, looked for now and then."""

    def __init__(self, engine: sa.Engine, priority: int) -> None:
        """`priority` is the training job's."""
        # Training must not wait for the answer: there is none while the database is away.
        self._database = database.patient(engine, 0.0)
        self._priority = priority
        self._look_at = time.monotonic() + URGENT_S

    def look(self) -> str | None:
        """The scoring that goes first, in words; None where there is none, or it is not time.

        While the database is away for a moment there is none.
        """
        if time.monotonic() < self._look_at:
            return None
        self._look_at = time.monotonic() + URGENT_S
        try:
            here = _engines_here(self._database)
            if not here:
                return None
            with database.reading(self._database) as connection:
                return claims.more_urgent(connection, self._priority, here)
        except Exception as error:
            if not database.away(error):
                raise
            return None


def _engines_here(engine: sa.Engine) -> set[str]:
    """The engines that workers on this machine score with, as jobs ask for them."""
    here = [w for w in workers.alive(engine, "score") if w["host"] == socket.gethostname()]
    return {kind for worker in here for kind in workers.kinds(worker)}
