"""--engine: what a job asks for, what it waits for, and what this machine cannot do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from db.base import database, workers
from db.queue import jobs
from db.work import control
from scheduler import engines
from tests.scheduler import rows
from tests.scheduler.console import only_line, run, start
from worker.machine.gpu import find, why_none

needs_none = pytest.mark.skipif(bool(find()), reason="this machine has a GPU")

GPU_WORKER = {"computes": "TensorRT 10.3.0 on Orin (8.7)", "engines": "auto,tensorrt"}
CPU_WORKER = {
    "computes": "CPU (OpenVINO, 2 threads): no NVIDIA driver",
    "engines": "auto,onnx",
    "host": "desk",
}


@pytest.fixture
def films(tmp_path: Path) -> Path:
    folder = tmp_path / "films"
    folder.mkdir()
    (folder / "one.png").touch()
    return folder


@pytest.fixture
def model(engine: sa.Engine, tmp_path: Path) -> int:
    """A model with files in every precision, which passed on the processor."""
    files = {name: tmp_path / f"gated-{name}.onnx" for name in ("fp32", "fp16", "int8")}
    for name, file in files.items():
        file.write_text(name)
    return rows.a_model(
        engine, tmp_path, "gated", files=files, engines=[_gate("fp16"), _gate("bf16")]
    )


def _gate(precision: str, passed: bool = True, backend: str = "openvino") -> dict[str, Any]:
    return {
        "backend": backend, "backend_version": "1", "device": "a processor", "passed": passed,
        "precision": precision, "options": {}, "parity_delta": 0.01,
    }  # fmt: skip


def _submitted(engine: sa.Engine, *words: str | Path) -> sa.RowMapping:
    result = run("score", *words)
    assert result.exit_code == 0, result.stderr
    return jobs.get(engine, jobs.recent(engine)[0]["job_id"])


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        ((), None),
        (("--engine", "auto"), None),
        (("--engine", "onnx"), "onnx"),
        (("--engine", "tensorrt"), "tensorrt"),
    ],
)
def test_a_job_keeps_the_engine_that_it_asks_for(
    engine: sa.Engine, model: int, films: Path, words: tuple[str, ...], kept: str | None
) -> None:
    job = _submitted(engine, films, "--later", *words)
    assert job["engine"] == kept
    assert json.loads(run("jobs", "show", job["id"], "--json").stdout)["engine"] == kept
    assert json.loads(run("jobs", "ls", "--json").stdout)[0]["engine"] == kept


def test_a_retry_keeps_the_engine_unless_another_is_asked_for(
    engine: sa.Engine, model: int, films: Path
) -> None:
    job = _submitted(engine, films, "--later", "--engine", "tensorrt")
    database.write(engine, lambda c: control.cancel(c, job["id"], "tester@here"))
    for words, kept in (
        ((), "tensorrt"),
        (("--engine", "onnx"), "onnx"),
        (("--engine", "auto"), None),
    ):
        assert run("jobs", "retry", job["id"], "--later", *words).exit_code == 0
        assert jobs.get(engine, jobs.recent(engine)[0]["job_id"])["engine"] == kept


def test_the_engine_of_a_training_job_cannot_be_chosen(engine: sa.Engine) -> None:
    job = rows.a_queued_job(engine, "train")
    database.write(engine, lambda c: control.cancel(c, job, "tester@here"))
    result = run("jobs", "retry", job, "--later", "--engine", "onnx")
    assert result.exit_code == 2
    assert "is no scoring job" in only_line(result.stderr)


def test_a_key_does_not_stand_for_the_same_films_on_another_engine(
    engine: sa.Engine, model: int, films: Path
) -> None:
    _submitted(engine, films, "--later", "--key", "monday", "--engine", "tensorrt")
    assert run("score", films, "--later", "--key", "monday", "--engine", "tensorrt").exit_code == 0
    result = run("score", films, "--later", "--key", "monday")
    assert result.exit_code == 2
    assert "which has other sources or options" in only_line(result.stderr)
    assert len(jobs.recent(engine)) == 1


def test_nothing_is_submitted_that_nobody_who_is_alive_could_score(
    engine: sa.Engine, model: int, films: Path
) -> None:
    rows.a_worker(engine, "score", **CPU_WORKER)
    result = run("score", films, "--engine", "tensorrt")
    assert result.exit_code == 2
    assert only_line(result.stderr) == (
        "Error: nothing was submitted, as the job waits for a worker with TensorRT; alive are: "
        "CPU (OpenVINO, 2 threads) on desk. Start `pneumoq up --engine tensorrt` on such a "
        "machine, leave --engine out, or give --later to leave it for when one starts."
    )
    assert jobs.recent(engine) == []
    rows.a_worker(engine, "score", "w2", **GPU_WORKER)
    assert _submitted(engine, films, "--engine", "tensorrt")["engine"] == "tensorrt"


def test_a_job_says_what_it_waits_for_until_a_worker_serves_it(
    engine: sa.Engine, model: int, films: Path
) -> None:
    job = _submitted(engine, films, "--later", "--engine", "tensorrt")
    shown = run("jobs", "show", job["id"]).stdout
    assert "waits for a worker with TensorRT; alive are: none" in " ".join(shown.split())
    rows.a_worker(engine, "score", **CPU_WORKER)
    rows.a_worker(engine, "train", "trainer", **GPU_WORKER)
    told = json.loads(run("jobs", "show", job["id"], "--json").stdout)["waits"]
    assert told == (
        "waits for a worker with TensorRT; alive are: CPU (OpenVINO, 2 threads) on desk"
    )
    rows.a_worker(engine, "score", "w2", **GPU_WORKER)
    assert json.loads(run("jobs", "show", job["id"], "--json").stdout)["waits"] is None
    assert "with TensorRT" not in run("jobs", "show", job["id"]).stdout


def test_a_job_that_has_ended_or_asks_for_nothing_waits_for_nobody(
    engine: sa.Engine, model: int, films: Path
) -> None:
    ended = _submitted(engine, films, "--later", "--engine", "tensorrt")
    database.write(engine, lambda c: control.cancel(c, ended["id"], "tester@here"))
    anything = _submitted(engine, films, "--later")
    for job in (ended, anything):
        assert json.loads(run("jobs", "show", job["id"], "--json").stdout)["waits"] is None


def test_who_follows_a_job_is_told_once_what_it_waits_for(
    engine: sa.Engine, model: int, films: Path
) -> None:
    rows.a_worker(engine, "score", **CPU_WORKER)
    job = _submitted(engine, films, "--later", "--engine", "tensorrt")
    process = start("jobs", "watch", job["id"])
    assert process.stderr is not None
    line = next(line for line in process.stderr if "waits for" in line)
    assert line == (
        f"job {job['id']} waits for a worker with TensorRT; alive are: CPU (OpenVINO, 2 threads) "
        "on desk\n"
    )
    database.write(engine, lambda c: control.cancel(c, job["id"], "tester@here"))
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "waits for" not in rest


@needs_none
@pytest.mark.parametrize("command", ["score", "retry", "up"])
def test_what_this_machine_lacks_is_named_before_anything_is_begun(
    engine: sa.Engine, model: int, films: Path, command: str
) -> None:
    if command == "retry":
        job = _submitted(engine, films, "--later", "--engine", "tensorrt")
        database.write(engine, lambda c: control.cancel(c, job["id"], "tester@here"))
    words = {
        "score": ("score", films, "--local", "--engine", "tensorrt"),
        "retry": ("jobs", "retry", 1, "--local"),
        "up": ("up", "--engine", "tensorrt"),
    }[command]
    result = run(*words)
    assert result.exit_code == 2
    assert f"this machine cannot use it: {why_none()}" in result.stderr.splitlines()[-1]
    assert len(jobs.recent(engine)) == (command == "retry")


@pytest.mark.parametrize(
    ("fleet", "words", "precision"),
    [
        ((), (), "bf16"),
        ((CPU_WORKER,), (), "bf16"),
        ((GPU_WORKER,), (), "fp16"),
        ((GPU_WORKER, CPU_WORKER), (), "fp32"),
        ((GPU_WORKER, CPU_WORKER), ("--engine", "tensorrt"), "fp16"),
        ((GPU_WORKER, CPU_WORKER), ("--engine", "onnx"), "bf16"),
        ((CPU_WORKER,), ("--precision", "fp16"), "fp16"),
        ((GPU_WORKER,), ("--precision", "fp32"), "fp32"),
    ],
)
def test_the_precision_is_the_fastest_of_those_who_may_score_it(
    engine: sa.Engine, model: int, films: Path, fleet: tuple[dict[str, Any], ...],
    words: tuple[str, ...], precision: str,
) -> None:  # fmt: skip
    for n, worker in enumerate(fleet):
        rows.a_worker(engine, "score", f"w{n}", **worker)
    assert _submitted(engine, films, "--later", *words)["precision"] == precision


def test_precisions_that_an_engine_does_not_have_are_refused(
    engine: sa.Engine, model: int, films: Path
) -> None:
    bf16 = run("score", films, "--later", "--engine", "tensorrt", "--precision", "bf16")
    assert bf16.exit_code == 2
    assert "TensorRT computes in fp32, fp16 or int8" in only_line(bf16.stderr)
    int8 = run("score", films, "--later", "--precision", "int8")
    assert int8.exit_code == 2
    assert "int8: it was not made for that" in only_line(int8.stderr)


def test_a_precision_that_failed_on_tensorrt_is_not_used_there(
    engine: sa.Engine, films: Path, tmp_path: Path
) -> None:
    files = {name: tmp_path / f"failed-{name}.onnx" for name in ("fp32", "fp16")}
    for name, file in files.items():
        file.write_text(name)
    gates = [_gate("fp16"), _gate("fp16", passed=False, backend="tensorrt")]
    rows.a_model(engine, tmp_path, "failed", files=files, engines=gates)
    assert _submitted(engine, films, "--later", "--engine", "tensorrt")["precision"] == "fp32"
    words = ("score", films, "--later", "--precision", "fp16")
    refused = run(*words, "--engine", "tensorrt")
    assert refused.exit_code == 2
    assert "fp16: it did not pass its parity gate" in only_line(refused.stderr)
    assert run(*words, "--engine", "onnx").exit_code == 0


def test_a_worker_that_does_not_say_what_it_serves_is_taken_to_serve_what_asks_for_nothing(
    engine: sa.Engine,
) -> None:
    database.write(
        engine,
        lambda c: workers.register(
            c, "old", host="desk", pid=1, queues="score", engine="openvino", versions={}
        ),
    )
    assert engines.waits(engine, None) is None
    for asked in ("onnx", "tensorrt"):
        assert "alive are: openvino on desk" in str(engines.waits(engine, asked))
