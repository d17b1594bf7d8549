"""Run by Python at its start where this folder is in PYTHONPATH: sleep works under libfaketime.

Up to 0.9.10 it refuses what Python 3.11 sleeps by, clock_nanosleep until a monotonic time.
"""

import select
import time


def _sleep(seconds: float) -> None:
    if seconds < 0:
        raise ValueError("sleep length must be non-negative")
    select.select([], [], [], seconds)


time.sleep = _sleep
