"""The end of a night, by the clock that made it: the database's.

A training asks all the time. While the database is away, the time that was left when it was last
there goes by.
"""

from __future__ import annotations

import math
import time
from datetime import datetime

import sqlalchemy as sa

from db.base import database
from db.nightly import schedules

#: The clock is looked at every so many seconds.
LOOK_S = 2.0


class NightEnd:
    """When a training is to stop; never where its night has no end."""

    def __init__(self, engine: sa.Engine, until: datetime | None) -> None:
        # Training must not wait for the answer: there is none while the database is away.
        self._database = database.patient(engine, 0.0)
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
                if not database.away(error):
                    raise
            else:
                self._passes_at = at + (self._until - now).total_seconds()
        return at >= self._passes_at
