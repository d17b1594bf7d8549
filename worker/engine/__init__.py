"""Engines: what turns pixels into scores. One interface; one module per backend.

    base.py    the interface, and what a network answers
    cpu.py     OpenVINO on the processor

`open_engine` is the only way to get one. An engine belongs to the thread that opened it.
"""

from __future__ import annotations

from worker.engine.base import Engine, Outputs, Pending
from worker.engine.choose import FILE_OF, describe, open_engine

__all__ = ["FILE_OF", "Engine", "Outputs", "Pending", "describe", "open_engine"]
