"""Work that a sweep of this process found while it was idle, begun without a wake-up."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)

#: With nothing found for so many seconds, the process is told that it is idle.
IDLE_S = 5.0


class FoundWork:
    """A thread that begins what was found, one after another.

    It lives as long as the process: decoders end with the thread that started them.
    """

    def __init__(self, work: Callable[[str], object], idle: Callable[[], object]) -> None:
        """`work` is called with the name of a queue; `idle` where nothing was found for long."""
        self._work = work
        self._idle = idle
        self._found: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="idle", daemon=True)

    def start(self) -> None:
        """Begin to wait for work."""
        self._thread.start()

    def add(self, name: str) -> None:
        """Work is due on this queue."""
        self._found.put(name)

    def end(self) -> None:
        """Begin nothing more that is found from now on."""
        self._found.put(None)

    def _run(self) -> None:
        while True:
            try:
                name = self._found.get(timeout=IDLE_S)
            except queue.Empty:
                self._idle()
                continue
            if name is None:
                return
            try:
                self._work(name)
            except Exception:
                # As of a task that a wake-up began: told in the log, and the next one comes.
                log.exception("work on %s that a sweep found ended with an error", name)
