"""What a worker process of a test runs at its start: a GPU that is not there, or one that is lost.

`sitecustomize` of a folder on PYTHONPATH is run by every Python; only workers heed it. The engine
is real in either case. Who shares the GPU is asked of training's worker, not of its process: a
stand-in has that one's place.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.paths import ROOT

#: ONNX Runtime on the processor computes where an engine on the GPU would.
_GPU = """
import sys
if "celery" in sys.orig_argv:
    from pathlib import Path
    from worker.engine import Machine
    from worker.machine import gpu, gpu_lease
    from worker.scoring import serving
    from worker.training import process
    process.CHILD = "tests.worker.training.stand_in_child"
    made_up = gpu.Gpu(
        index=0, name="Made up", uuid="GPU-0", compute_capability=(8, 7), memory_bytes=1 << 30,
        integrated=False, driver="13.0",
    )
    gpu.find = lambda: (made_up,)
    Machine.look = classmethod(lambda cls: cls(gpu=made_up, onnxruntime="1", openvino="1"))
    gpu_lease.LOCKS = Path(__file__).parent
    real = serving.open_on

    def open_on(choice, path, *, precision, **others):
        from trainer import card
        from worker.engine.onnx import OnnxEngine
        if choice.gpu is None:
            return real(choice, path, precision=precision, **others)
        return OnnxEngine(
            path, card.read(path), gpu=None, batch=choice.batch, precision=precision
        )

    serving.open_on = open_on
"""

#: The GPU is lost at every batch as long as the file `lost` is there. An engine's context is on a
#: stack of its thread, which aborts the process where the thread ends with a context on it, as
#: PyCUDA's does (context_stack::~context_stack in its cuda.hpp).
_LOST = """
import sys
if "celery" in sys.orig_argv:
    import os
    import threading
    from pathlib import Path
    from worker.errors import GpuLost
    from worker.scoring import serving
    real = serving.open_on
    lost = Path(__file__).with_name("lost")
    of_thread = threading.local()

    class Stack(list):
        def __del__(self):
            if self:
                os.write(2, b"PyCUDA ERROR: The context stack was not empty upon cleanup." + b"\\n")
                os.abort()

    class Losing:
        def __init__(self, inner):
            self._inner = inner
            if not hasattr(of_thread, "stack"):
                of_thread.stack = Stack()
            of_thread.stack.append("a context")

        def __getattr__(self, name):
            return getattr(self._inner, name)

        def submit(self, pixels, films=None):
            if lost.exists():
                raise GpuLost("CUDA says 719")
            return self._inner.submit(pixels, films)

        def close(self):
            self._inner.close()
            of_thread.stack.pop()

    serving.open_on = lambda *a, **k: Losing(real(*a, **k))
"""

#: Every probability is wrong by a little, as by a broken driver or a fault in a library.
_WRONG = """
import sys
if "celery" in sys.orig_argv:
    import dataclasses
    from worker.engine import cpu
    real = cpu._Pending.result

    def result(self):
        outputs = real(self)
        scores = outputs.scores.copy()
        scores[:, 0] = abs(scores[:, 0] - 0.01)
        return dataclasses.replace(outputs, scores=scores)

    cpu._Pending.result = result
"""


def _install(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(text)
    path = [str(folder), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))


def have(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that are started from now on have a GPU, whose locks are in `folder`."""
    _install(folder, _GPU, monkeypatch)


def lose(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Workers that are started from now on lose theirs, until this file is removed."""
    _install(folder, _LOST, monkeypatch)
    (folder / "lost").touch()
    return folder / "lost"


def miscompute(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that are started from now on compute wrongly, by a little."""
    _install(folder, _WRONG, monkeypatch)
