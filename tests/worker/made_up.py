"""A GPU that is not there, and the choice of ONNX Runtime on it; engines that take longer."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from numpy.typing import NDArray

from db.base import database as connecting
from db.registry import engines, models
from worker.engine import Engine, EngineChoice, open_on, speed
from worker.engine.base import Pending
from worker.errors import EngineError
from worker.machine.gpu import Gpu
from worker.scoring import serving

GPU = Gpu(
    index=0, name="Made up", uuid="GPU-00000000-made-up", compute_capability=(8, 7),
    memory_bytes=1 << 30, integrated=False, driver="13.0",
)  # fmt: skip

ON_GPU = EngineChoice(
    asked="auto", backend="onnxruntime", version="1", gpu=GPU, reason="", batch=16, threads=1,
    lanes=2,
)  # fmt: skip


class Delayed:
    """A real engine that is called by another precision, and takes longer for every batch."""

    def __init__(self, inner: Engine, precision: str, delay_s: float) -> None:
        self._inner, self.precision, self._delay_s = inner, precision, delay_s

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def submit(self, pixels: NDArray[np.uint8], films: int | None = None) -> Pending:
        time.sleep(self._delay_s)
        return self._inner.submit(pixels, films)


def passes(database: sa.Engine, model_id: int, precision: str) -> None:
    """Have the model pass its gate in this precision, on a processor."""
    sha256 = str(models.file_of(database, model_id)["sha256"])
    row = {
        "precision": precision, "backend": "openvino", "backend_version": "1", "device": "CPU",
        "options": {}, "passed": True,
    }  # fmt: skip
    connecting.write(database, lambda c: engines.record(c, sha256, row))


def delays(monkeypatch: pytest.MonkeyPatch, of: Mapping[str, float]) -> list[str]:
    """Have engines take so many seconds longer per batch; the precisions that are opened.

    Not every processor has bf16: fp32 is computed, and called so.
    """
    opened: list[str] = []

    def lent(*args: Any, precision: str, **options: Any) -> Any:
        opened.append(precision)
        if precision not in of:
            raise EngineError(f"{precision} is not computed here")
        return Delayed(open_on(*args, precision="fp32", **options), precision, of[precision])

    monkeypatch.setattr(serving, "open_on", lent)
    monkeypatch.setattr(speed, "SLICE_S", 0.02)
    return opened
