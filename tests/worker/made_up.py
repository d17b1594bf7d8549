"""A GPU that is not there, and the choice of ONNX Runtime on it."""

from __future__ import annotations

from worker.engine import EngineChoice
from worker.machine.gpu import Gpu

GPU = Gpu(
    index=0, name="Made up", uuid="GPU-00000000-made-up", compute_capability=(8, 7),
    memory_bytes=1 << 30, integrated=False, driver="13.0",
)  # fmt: skip

ON_GPU = EngineChoice(
    asked="auto", backend="onnxruntime", version="1", gpu=GPU, reason="", batch=16, threads=1,
    lanes=2,
)  # fmt: skip
