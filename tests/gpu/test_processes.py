"""Contexts and processes: threads, forks, and a build that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.gpu import agreement
from tests.gpu.conftest import BATCH, Open, open_trt
from tests.support.paths import ROOT
from worker.engine import Outputs
from worker.errors import EngineError
from worker.machine.gpu import Gpu

#: Builds the file's plan in a home and says when the builder has begun.
BUILD = """
import sys
from pathlib import Path
from tests.gpu.conftest import open_trt
from worker.machine import gpu
def report(phase, step, steps):
    print(phase, flush=True)
open_trt(gpu.find()[0], Path(sys.argv[1]), Path(sys.argv[2]), report=report).close()
"""


def test_a_child_that_was_forked_cannot_use_the_engine_and_does_it_no_harm(
    opened: Open, films: NDArray[np.uint8]
) -> None:
    engine = opened()
    expected = engine.submit(films[:BATCH]).result()
    child = os.fork()
    if child == 0:
        try:
            engine.submit(films[:BATCH])
        except EngineError:
            engine.close()
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    again = engine.submit(films[:BATCH]).result()
    assert again.scores.tobytes() == expected.scores.tobytes()


def test_two_threads_each_with_an_engine_of_its_own_do_not_disturb_each_other(
    tensorrt: str,
    gpu: Gpu,
    model_files: dict[str, Path],
    engines_home: Path,
    films: NDArray[np.uint8],
    on_cpu: dict[str, Outputs],
) -> None:
    found: dict[int, Outputs] = {}
    both = threading.Barrier(2)

    def work(number: int) -> None:
        engine = open_trt(gpu, model_files["fp32"], engines_home)
        try:
            both.wait(600)
            for _ in range(20):
                found[number] = agreement.outputs(engine, films)
        finally:
            engine.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    for ours in found.values():
        assert agreement.delta(ours, on_cpu["fp32"]) <= agreement.DELTA["fp32"]


def test_a_build_that_is_killed_costs_nothing_but_its_time(
    opened: Open,
    model_files: dict[str, Path],
    films: NDArray[np.uint8],
    on_cpu: dict[str, Outputs],
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-c", BUILD, str(model_files["fp32"]), str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.readline()
    process.kill()
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    ours = agreement.outputs(opened(home=tmp_path), films)
    assert agreement.delta(ours, on_cpu["fp32"]) <= agreement.DELTA["fp32"]
    assert len(list((tmp_path / "engines").glob("*.plan"))) == 1
