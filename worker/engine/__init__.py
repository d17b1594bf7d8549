"""Engines: what turns pixels into scores. One interface; one module per backend.

    base.py      the interface, and what a network answers
    choose.py    which one it is on this machine, and why
    cpu.py       OpenVINO on the processor
    tensorrt.py  TensorRT through PyCUDA, which device.py holds; built by build.py, kept by plans.py
    onnx.py      ONNX Runtime with CUDA
    pieces.py    the processor's engine for batches that were cut for a GPU
    gate.py      whether an engine says what the processor says

An engine belongs to the thread that opened it. `worker.scoring.serving` opens those that may serve.
"""

from __future__ import annotations

from worker.engine.base import Engine, Outputs, Pending
from worker.engine.choose import (
    FILE_OF,
    Choice,
    Machine,
    choose,
    instead,
    kinds,
    kinds_of,
    open_engine,
    open_on,
)

__all__ = [
    "FILE_OF",
    "Choice",
    "Engine",
    "Machine",
    "Outputs",
    "Pending",
    "choose",
    "instead",
    "kinds",
    "kinds_of",
    "open_engine",
    "open_on",
]
