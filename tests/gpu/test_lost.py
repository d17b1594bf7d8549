"""A context that is really spoiled: the process learns it, and is not aborted by PyCUDA."""

from __future__ import annotations

import subprocess
import sys

from tests.support.paths import ROOT

#: The GPU is lost at the first batch, whose kernel reads and writes at address 0. The process ends
#: with a status of its own, some time after its engine thread has met that.
SCRIPT = """
import os, threading, time
import numpy as np
from pathlib import Path
from tests.gpu.test_device import PTX
from worker.engine.device import Device, pycuda
from worker.errors import GpuLost
from worker.machine.gpu import find
from worker.scoring.engine_thread import EngineThread, Model, Request

class Spoiled:
    backend, backend_version, precision, device, depth = "tensorrt", "", "fp32", "", 1

    def __init__(self):
        self._device = Device(find()[0])
        self._triple = pycuda().module_from_buffer(PTX).get_function("triple")

    def submit(self, pixels, films=None):
        with self._device.speaking():
            self._triple(
                np.uint64(0), np.uint64(0), np.uint32(1), block=(1, 1, 1), grid=(1, 1)
            )
        self._device.synchronize()

    def close(self):
        self._device.close()

woken = threading.Semaphore(0)
thread = EngineThread(lambda model: Path("x"), lambda path, model: Spoiled(), woken.release)
thread.submit(Request(model=Model(1, "fp32"), pixels=np.zeros((1, 1, 8, 8), np.uint8)))
woken.acquire(), woken.acquire()
try:
    list(thread.finished())
except GpuLost as error:
    print(error)
thread.close()
time.sleep(1)
print("handed back", flush=True)
os._exit(7)
"""


def test_a_process_whose_context_is_spoiled_is_told_so_and_ends_as_it_wants_to() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 7, ended.stderr
    assert "illegal memory access" in ended.stdout
    assert ended.stdout.endswith("handed back\n")
    assert "context stack was not empty" not in ended.stderr
