"""A scoring worker is small: what trains stays out of its memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from db.base import database, migrate, schema, workers
from db.queue import jobs
from tests.worker import samples
from worker import config
from worker.config import Settings
from worker.machine import gpu


def loaded(*arguments: str) -> set[str]:
    """Top-level packages that a fresh interpreter loads."""
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True
    )
    assert "Traceback" not in ran.stderr
    lines = [line for line in ran.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


@pytest.mark.parametrize(
    "module",
    [
        "worker.tasks",
        "worker.service.daemon",
        "worker.scoring.loop",
        "worker.decoding.child",
        "worker.classify.films",
        "worker.classify.child",
    ],
)
def test_a_scoring_worker_loads_neither_torch_nor_torchvision(module: str) -> None:
    assert not loaded("-c", f"import {module}") & {"torch", "torchvision", "sklearn", "matplotlib"}


def test_a_decoder_process_loads_no_database_no_queue_and_no_engine() -> None:
    assert not loaded("-c", "import worker.decoding.child") & {
        "celery",
        "kombu",
        "onnx",
        "openvino",
        "redis",
        "sqlalchemy",
    }


def test_the_pipeline_loads_no_database_and_no_queue() -> None:
    assert not loaded("-c", "import worker.scoring.pipeline") & {
        "celery",
        "db",
        "kombu",
        "redis",
        "sqlalchemy",
    }


def test_the_gpus_decoder_loads_torch_only_when_it_is_to_serve() -> None:
    assert not loaded("-c", "import worker.decoding.gpu_child") & {
        "torch",
        "torchvision",
        "sqlalchemy",
    }


def test_a_training_process_looks_at_films_before_it_loads_torch() -> None:
    assert not loaded("-c", "import worker.training.child") & {"torch", "onnx", "sqlalchemy"}


def test_a_training_process_makes_a_model_without_torchvision() -> None:
    start = (
        "import worker.training.child, worker.training.making; from trainer.network import model"
    )
    packages = loaded("-c", f"{start}; model.build(2, model.SCRATCH)")
    assert {"torch", "onnx", "trainer"} <= packages
    assert not packages & {"torchvision", "sklearn", "matplotlib"}


def test_the_score_command_loads_no_torch(tmp_path: Path) -> None:
    packages = loaded("-m", "scheduler", "score", str(tmp_path))
    assert {"scheduler", "worker", "db"} <= packages
    assert not packages & {"torch", "torchvision", "openvino"}


def test_a_card_is_read_without_onnx(model_file: Path) -> None:
    script = (
        f"from pathlib import Path; from trainer import card; card.read(Path({str(model_file)!r}))"
    )
    assert not loaded("-c", script) & {"onnx", "google", "PIL"}


def test_the_process_ahead_loads_no_database_and_no_onnx() -> None:
    script = "import worker.classify.child, worker.classify.answer, trainer.film.rules"
    assert not loaded("-c", script) & {"sqlalchemy", "db", "onnx", "celery", "click"}


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


#: What only a GPU needs.
FOR_A_GPU = ("tensorrt", "tensorrt_rtx", "tensorrt_bindings", "pycuda", "onnxruntime")


@pytest.fixture
def without_gpu(model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A migrated database with a model, and settings for it, on a machine without a GPU."""
    if gpu.find():
        pytest.skip("this machine has an NVIDIA GPU")
    settings = config.load({"PNEUMOQ_HOME": str(tmp_path / "home")})
    for variable, value in config.environment(settings).items():
        monkeypatch.setenv(variable, value)
    settings.home.mkdir()
    engine = database.connect(settings.database_url)
    migrate.upgrade(engine)
    samples.register(engine, model_file)
    engine.dispose()
    return settings


def heavy(code: str) -> list[str]:
    """Those of FOR_A_GPU that a fresh interpreter has loaded after this code has run in it."""
    script = (
        f"{code}\nimport sys\nprint('loaded', *(m for m in {FOR_A_GPU!r} if m in sys.modules))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    (line,) = [line for line in ran.stdout.splitlines() if line.startswith("loaded")]
    return line.split()[1:]


def test_what_a_gpu_needs_is_there_to_be_loaded() -> None:
    assert heavy("import tensorrt_rtx, onnxruntime") == ["tensorrt_rtx", "onnxruntime"]


@pytest.mark.parametrize("command", ["score", "classify", "doctor"])
def test_without_a_gpu_no_command_loads_what_only_a_gpu_needs(
    without_gpu: Settings, tmp_path: Path, command: str
) -> None:
    name, data = samples.films(1)[0]
    (tmp_path / name).write_bytes(data)
    arguments = [command] + ([] if command == "doctor" else [str(tmp_path / name)])
    if command == "score":
        arguments.append("--dry-run")
    run = (
        "from click.testing import CliRunner\n"
        "from scheduler.cli import cli\n"
        f"ran = CliRunner().invoke(cli, {arguments!r})\n"
        f"assert ran.exit_code == 0 or {command!r} == 'doctor', ran.output\n"
        "assert ran.output\n"
    )
    assert heavy(run) == []


def test_without_a_gpu_a_worker_starts_and_scores_without_what_only_a_gpu_needs(
    without_gpu: Settings, tmp_path: Path
) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    for name, data in samples.films(3):
        (folder / name).write_bytes(data)
    engine = database.connect(without_gpu.database_url)
    job_id = samples.submit_score(engine, 1, folder)
    run = (
        "import time\n"
        "from db.base import database, workers\n"
        "from worker import config\n"
        "from worker.service.daemon import Daemon\n"
        "settings = config.load()\n"
        "made = Daemon(settings, ['score'])\n"
        "made.score()\n"
        "engine = database.connect(settings.database_url)\n"
        f"deadline = time.monotonic() + {samples.PATIENCE_S}\n"
        "while 'model 1' not in workers.alive(engine)[0]['engine']:\n"
        "    assert time.monotonic() < deadline\n"
        "    time.sleep(0.02)\n"
        "made.close()\n"
    )
    assert heavy(run) == []
    assert jobs.get(engine, job_id)["state"] == "completed"
    (row,) = connected(engine)
    assert row["engine"].startswith("CPU (OpenVINO, ")
    assert row["engine"].endswith(f"{gpu.why_none()}; model 1 in fp32")
    assert workers.kinds(row) == {"auto", "onnx"}
    engine.dispose()


def connected(engine: sa.Engine) -> list[sa.RowMapping]:
    """The rows of all workers, also of those that ended."""
    with database.reading(engine) as connection:
        return list(connection.execute(sa.select(schema.workers)).mappings())
