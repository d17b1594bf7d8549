"""A scoring worker is small: what trains stays out of its memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def loaded(*arguments: str) -> set[str]:
    """Top-level packages that a fresh interpreter loads."""
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True
    )
    assert "Traceback" not in ran.stderr
    lines = [line for line in ran.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


@pytest.mark.parametrize(
    "module", ["worker.tasks", "worker.daemon", "worker.scoring", "worker.decoder", "worker.single"]
)
def test_a_scoring_worker_loads_neither_torch_nor_torchvision(module: str) -> None:
    assert not loaded("-c", f"import {module}") & {"torch", "torchvision", "sklearn", "matplotlib"}


def test_a_decoder_process_loads_no_database_no_queue_and_no_engine() -> None:
    assert not loaded("-c", "import worker.decoder") & {
        "celery",
        "kombu",
        "onnx",
        "openvino",
        "redis",
        "sqlalchemy",
    }


def test_the_gpus_decoder_loads_torch_only_when_it_is_to_serve() -> None:
    assert not loaded("-c", "import worker.gpu_decoder") & {"torch", "torchvision", "sqlalchemy"}


def test_the_score_command_loads_no_torch(tmp_path: Path) -> None:
    packages = loaded("-m", "scheduler", "score", str(tmp_path))
    assert {"scheduler", "worker", "db"} <= packages
    assert not packages & {"torch", "torchvision", "openvino"}


def test_an_engine_sends_nothing_to_openvinos_makers(model_file: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from worker.engine import open_engine;"
        f"open_engine(Path({str(model_file)!r}), batch=1, threads=1);"
        "assert 'openvino' in sys.modules;"
        "assert [m for m in sys.modules if 'telemetry' in m and sys.modules[m] is not None"
        " and 'stub' not in m and 'ovc' not in m] == []"
    )
    environment = {**os.environ, "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=120)
    assert list(tmp_path.iterdir()) == []  # its consent file would be here
