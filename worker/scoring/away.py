"""Sources that this worker leaves alone for a while, since it could not read them."""

from __future__ import annotations

import threading
import time

#: Seconds for which a source is left alone at first; twice as long each time, up to the longest.
FIRST_S, LONGEST_S = 5.0, 300.0


class Away:
    """Paths of sources, and until when each is left alone. Thread safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: Path → until when (time.monotonic), and for how long in seconds.
        self._left: dict[str, tuple[float, float]] = {}

    def leave(self, uri: str) -> None:
        """Leave a source alone: longer than last time, unless it is left alone already."""
        with self._lock:
            until, seconds = self._left.get(uri, (0.0, FIRST_S / 2))
            if time.monotonic() >= until:
                seconds = min(2 * seconds, LONGEST_S)
                self._left[uri] = (time.monotonic() + seconds, seconds)

    def was_read(self, uri: str) -> None:
        """It was read: the next trouble is a new one."""
        with self._lock:
            self._left.pop(uri, None)

    def now(self) -> frozenset[str]:
        """Those that are left alone now."""
        with self._lock:
            at = time.monotonic()
            return frozenset(uri for uri, (until, _) in self._left.items() if at < until)
