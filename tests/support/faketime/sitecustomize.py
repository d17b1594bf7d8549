"""Read at the start of a process whose clock libfaketime sets: see `tests.support.clocks`.

Python sleeps until a moment of the clock that measures time, which libfaketime takes for one of the
clock that it has changed, and refuses. Waiting for nothing takes as long.
"""

import select
import time


def _sleep(seconds: float) -> None:
    select.select([], [], [], seconds)


time.sleep = _sleep
