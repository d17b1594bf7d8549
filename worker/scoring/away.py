"""What this worker leaves alone for a while, since it could not read it."""

from __future__ import annotations

import threading
import time

from db.work import turns

#: Seconds for which something is left alone at first; twice as long each time, up to the longest.
FIRST_S, LONGEST_S = 5.0, 300.0


class Away:
    """Paths of sources, numbers of jobs to be planned, and until when. Thread safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: Until when (time.monotonic), and for how long in seconds.
        self._left: dict[str | int, tuple[float, float]] = {}

    def leave(self, what: str | int) -> None:
        """Leave a source or a job alone: longer than last time, unless it is left alone already."""
        with self._lock:
            until, seconds = self._left.get(what, (0.0, FIRST_S / 2))
            if time.monotonic() >= until:
                seconds = min(2 * seconds, LONGEST_S)
                self._left[what] = (time.monotonic() + seconds, seconds)

    def was_read(self, what: str | int) -> None:
        """It was read: the next trouble is a new one."""
        with self._lock:
            self._left.pop(what, None)

    def now(self) -> turns.Away:
        """What is left alone now."""
        with self._lock:
            at = time.monotonic()
            left = [what for what, (until, _) in self._left.items() if at < until]
        return turns.Away(
            uris=frozenset(what for what in left if isinstance(what, str)),
            jobs=frozenset(what for what in left if isinstance(what, int)),
        )
