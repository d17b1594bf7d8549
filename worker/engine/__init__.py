"""Engines: what turns pixels into scores, behind one interface (`base`). Start with `choose`: which
engine scores on this machine, and why. One module per backend: `cpu` (OpenVINO, also what every
other engine is compared with; `pieces` feeds it batches that were cut for a GPU), `onnx` (ONNX
Runtime with CUDA), `tensorrt` (TensorRT through PyCUDA, which `device` holds; `flavour` finds
which TensorRT, `build` builds, `plans` keeps what was built in `signed` files, `progress`
reports it). `gate` decides whether an engine agrees with the processor's, `speed` measures it,
`observe` measures a network for int8, and `store` fetches model files. An engine belongs to the
thread that opened it.
"""

from __future__ import annotations

from worker.engine.base import NOT_FINITE, Engine, Outputs, Pending
from worker.engine.choose import (
    FILE_OF,
    EngineChoice,
    Machine,
    choose,
    fallback,
    kinds,
    kinds_of,
    open_engine,
    open_on,
)

__all__ = [
    "FILE_OF",
    "NOT_FINITE",
    "Engine",
    "EngineChoice",
    "Machine",
    "Outputs",
    "Pending",
    "choose",
    "fallback",
    "kinds",
    "kinds_of",
    "open_engine",
    "open_on",
]
