"""Asking the driver which GPUs there are: a library of ours answers in its place."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from worker.machine import gpu

SOURCE = Path(__file__).with_name("driver.c")

#: Prints what is found and why nothing is, in a process of its own: a library is loaded once.
ASK = (
    "import dataclasses, json; from worker.machine import gpu;"
    "print(json.dumps([[dataclasses.asdict(g) | {'device': g.device} for g in gpu.find()],"
    " gpu.why_none()]))"
)

#: Sets up one GPU and leaves a context; prints what the library has seen of it.
TOUCH = (
    "import ctypes; from worker.machine import gpu;"
    "gpu.wait_asleep(gpu.find()[1]); gpu.leave_context();"
    "seen = ctypes.CDLL(gpu.LIBRARY);"
    "print(seen.flags_of(0), seen.flags_of(1), seen.contexts())"
)

#: Asks whether a GPU's context still works; prints the answer, and what the library has seen of it.
WORKS = (
    "import ctypes; from worker.machine import gpu;"
    "print(gpu.broken_context(gpu.find()[1]));"
    "seen = ctypes.CDLL(gpu.LIBRARY);"
    "print(seen.holders(), seen.contexts())"
)

Ask = Callable[..., tuple[list[dict[str, Any]], str]]


def compile_to(folder: Path, *defined: str) -> None:
    """Put the library where `run` finds it."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    command = [compiler, "-shared", "-fPIC", "-Wall", "-Werror", *defined]
    subprocess.run([*command, "-o", str(folder / gpu.LIBRARY), str(SOURCE)], check=True)


def run(script: str, folder: Path) -> str:
    """What a script prints with the library of this folder in the place of the driver."""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
    ran = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, check=True, text=True
    )
    return ran.stdout


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Asks with the compiled library, or with other content, in the place of the driver."""

    def asked(*defined: str, content: str | None = None) -> tuple[list[dict[str, Any]], str]:
        if content is None:
            compile_to(tmp_path, *defined)
        else:
            (tmp_path / gpu.LIBRARY).write_text(content)
        found, why = json.loads(run(ASK, tmp_path))
        return found, why

    return asked


def test_every_gpu_is_found_with_what_the_driver_says_of_it(ask: Ask) -> None:
    found, why = ask()
    assert why == ""
    assert found == [
        {
            "index": 0,
            "name": "Orin",
            "uuid": "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f",
            "compute_capability": [8, 7],
            "memory_bytes": (80 << 30) + 7,
            "integrated": True,
            "driver": "12.6",
            "device": "Orin (8.7)",
        },
        {
            "index": 1,
            "name": "NVIDIA Example GPU",
            "uuid": "GPU-10111213-1415-1617-1819-1a1b1c1d1e1f",
            "compute_capability": [9, 0],
            "memory_bytes": (80 << 30) + 8,
            "integrated": False,
            "driver": "12.6",
            "device": "NVIDIA Example GPU (9.0)",
        },
    ]


def test_an_older_driver_is_asked_for_the_identity_in_the_older_way(ask: Ask) -> None:
    found, _ = ask("-DOLD")
    assert found[0]["uuid"] == "GPU-80818283-8485-8687-8889-8a8b8c8d8e8f"


@pytest.mark.parametrize(
    ("defined", "reason"),
    [
        ("-DCOUNT=0", "the NVIDIA driver finds no GPU"),
        ("-DINIT=100", "the NVIDIA driver finds no GPU"),
        ("-DINIT=34", "the libcuda.so.1 that is found is CUDA's stub for linking, not a driver"),
        ("-DINIT=999", "the NVIDIA driver refuses cuInit: unknown error (999)"),
        ("-DINIT=4711", "the NVIDIA driver refuses cuInit: no description (4711)"),
        ("-DcuDeviceGetCount=other", "libcuda.so.1 is no NVIDIA driver: "),
    ],
)
def test_where_the_driver_has_no_gpu_it_is_said_why(ask: Ask, defined: str, reason: str) -> None:
    found, why = ask(defined)
    assert found == []
    assert why.startswith(reason)


def test_a_broken_library_is_no_gpu(ask: Ask) -> None:
    found, why = ask(content="this is no library")
    assert found == []
    assert why.startswith("the NVIDIA driver's libcuda.so.1 cannot be loaded: ")


def test_waiting_threads_sleep_on_the_gpu_that_was_named_and_one_context_is_left(
    tmp_path: Path,
) -> None:
    compile_to(tmp_path)
    sleeping = 4  # CU_CTX_SCHED_BLOCKING_SYNC
    assert run(TOUCH, tmp_path).split() == ["0", str(sleeping), "1"]


@pytest.mark.parametrize(
    ("defined", "answer"),
    [
        ([], ""),
        (["-DBROKEN=999"], "the NVIDIA driver refuses cuCtxSynchronize: unknown error (999)"),
    ],
)
def test_a_gpu_is_asked_whether_its_context_works_and_left_as_it_was(
    tmp_path: Path, defined: list[str], answer: str
) -> None:
    compile_to(tmp_path, *defined)
    said, counts = run(WORKS, tmp_path).splitlines()
    assert said == answer
    assert counts == "0 2", "nobody holds it longer, and nothing is left on the thread's stack"


def test_a_machine_without_a_driver_has_no_gpu_and_says_what_is_missing() -> None:
    try:
        ctypes.CDLL(gpu.LIBRARY)
    except OSError:
        pass
    else:
        pytest.skip("this machine has an NVIDIA driver")
    assert gpu.find() == ()
    assert gpu.why_none() == "no NVIDIA driver (libcuda.so.1)"


def test_an_integrated_gpu_has_the_memory_that_the_kernel_can_give() -> None:
    board = gpu.Gpu(
        index=0,
        name="Orin",
        uuid="GPU-0",
        compute_capability=(8, 7),
        memory_bytes=1 << 50,
        integrated=True,
        driver="12.6",
    )
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < gpu.free_bytes(board, told=1) <= total
    card = replace(board, integrated=False)
    assert gpu.free_bytes(card, told=12345) == 12345
    assert gpu.free_bytes(card) == 1 << 50
