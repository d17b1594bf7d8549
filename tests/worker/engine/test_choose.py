"""What is scored with: by what a machine has and what was asked for, and the reason in words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from worker import config
from worker.config import Settings
from worker.engine import EngineChoice, Machine, choose, fallback, kinds, open_on
from worker.errors import EngineError
from worker.machine import gpu as gpus
from worker.machine.gpu import Gpu

ORIN = Gpu(
    index=0, name="Orin", uuid="GPU-0", compute_capability=(8, 7), memory_bytes=8 << 30,
    integrated=True, driver="12.6",
)  # fmt: skip

#: A machine with everything.
ALL = Machine(
    gpu=ORIN, tensorrt=("tensorrt", "10.3.0"), pycuda=True, onnxruntime="1.23.0", openvino="2026.4"
)
NO_GPU = Machine(gpu=None, why_no_gpu="no NVIDIA driver (libcuda.so.1)", openvino="2026.4")


def settings(engine: str = "auto", **others: str) -> Settings:
    """Settings that ask for an engine."""
    return config.load(
        {"PNEUMOQ_ENGINE": engine, "PNEUMOQ_ENGINE_THREADS": "2", "PNEUMOQ_GPU_BATCH": "32"}
        | {f"PNEUMOQ_{name.upper()}": value for name, value in others.items()}
    )


@pytest.mark.parametrize(
    ("machine", "said"),
    [
        (ALL, "TensorRT 10.3.0 on Orin (8.7)"),
        (
            replace(ALL, tensorrt=("tensorrt_rtx", "1.7.1")),
            "TensorRT-RTX 1.7.1 on Orin (8.7)",
        ),
        (replace(ALL, tensorrt=("tensorrt", "")), "TensorRT on Orin (8.7)"),
        (
            replace(ALL, pycuda=False),
            "ONNX Runtime 1.23.0 on Orin (8.7): PyCUDA is not installed: pip install pycuda",
        ),
        (
            replace(ALL, pycuda=False, onnxruntime=None),
            "CPU (OpenVINO, 2 threads): PyCUDA is not installed: pip install pycuda; no ONNX "
            "Runtime for GPUs either: pip install onnxruntime-gpu",
        ),
        (NO_GPU, "CPU (OpenVINO, 2 threads): no NVIDIA driver (libcuda.so.1)"),
    ],
)
def test_auto_is_the_best_that_the_machine_has_and_says_what_better_lacks(
    machine: Machine, said: str
) -> None:
    assert str(choose(settings(), machine)) == said


def test_a_jetson_is_told_to_take_jetpacks_own_tensorrt() -> None:
    reason = choose(settings(), replace(ALL, tensorrt=None)).reason
    assert "on a Jetson it is JetPack's own" in reason


@pytest.mark.parametrize(
    ("machine", "missing"),
    [
        (NO_GPU, "no NVIDIA driver"),
        (replace(ALL, tensorrt=None), "TensorRT is not installed"),
        (replace(ALL, pycuda=False), "PyCUDA is not installed: pip install pycuda"),
    ],
)
def test_tensorrt_that_is_asked_for_and_not_there_is_refused_with_what_is_missing(
    machine: Machine, missing: str
) -> None:
    with pytest.raises(EngineError, match="TensorRT was asked for") as refusal:
        choose(settings("tensorrt"), machine)
    assert missing in str(refusal.value)
    assert choose(settings("tensorrt"), ALL).backend == "tensorrt"


def test_onnx_is_the_file_as_it_is_on_the_gpu_or_else_on_the_processor() -> None:
    on_gpu = choose(settings("onnx"), ALL)
    assert str(on_gpu) == "ONNX Runtime 1.23.0 on Orin (8.7): onnx was asked for"
    assert choose(settings("onnx"), replace(ALL, onnxruntime=None)).backend == "openvino"
    on_cpu = choose(settings("onnx"), NO_GPU)
    assert on_cpu.reason == "onnx was asked for; no NVIDIA driver (libcuda.so.1)"


def test_a_gpu_has_its_own_batch_and_the_processor_keeps_the_settings() -> None:
    gpu, cpu = choose(settings(), ALL), choose(settings(), NO_GPU)
    assert (gpu.batch, gpu.lanes, gpu.gpu) == (32, 3, ORIN)
    assert (cpu.batch, cpu.threads, cpu.lanes, cpu.gpu) == (8, 2, 2, None)


def test_what_does_not_do_is_followed_by_the_next_best_with_the_reason() -> None:
    chosen = settings()
    first = choose(chosen, ALL)
    second = fallback(first, chosen, "it disagrees", ALL)
    assert second is not None
    third = fallback(second, chosen, "it too", ALL)
    assert third is not None
    assert [c.backend for c in (first, second, third)] == ["tensorrt", "onnxruntime", "openvino"]
    assert (second.reason, third.reason, third.batch) == ("it disagrees", "it too", 8)
    assert fallback(third, chosen, "", ALL) is None
    # A job that asks for TensorRT by name gets it or nothing, on the same worker.
    assert fallback(first.asking("tensorrt"), chosen, "it disagrees", ALL) is None
    assert first.asking(None) is first.asking("auto") is first


def test_a_worker_serves_jobs_that_ask_for_what_it_has() -> None:
    assert kinds(choose(settings(), ALL)) == {"auto", "tensorrt"}
    rtx = replace(ALL, tensorrt=("tensorrt_rtx", "1.7"))
    assert kinds(choose(settings(), rtx)) == {"auto", "tensorrt"}
    assert kinds(choose(settings("onnx"), ALL)) == {"auto", "onnx"}
    assert kinds(choose(settings(), NO_GPU)) == {"auto", "onnx"}


@pytest.mark.skipif(bool(gpus.find()), reason="this machine has an NVIDIA GPU")
def test_this_machine_scores_on_its_processor_and_says_why() -> None:
    chosen = choose(settings())
    assert (chosen.backend, chosen.reason) == ("openvino", gpus.why_none())
    assert chosen.version[0].isdigit()


def test_a_gpu_is_not_asked_for_bf16(model_file: Path, tmp_path: Path) -> None:
    chosen: EngineChoice = choose(settings(), ALL)
    with pytest.raises(EngineError, match="bf16 is computed on processors"):
        open_on(chosen, model_file, precision="bf16", home=tmp_path, workspace_mb=64)


def test_machines_alike_are_of_one_kind_whatever_their_settings_are() -> None:
    kind = choose(settings(), ALL).kind
    assert kind == "TensorRT 10.3.0 on Orin (8.7)"
    assert choose(settings(gpu_batch="8", engine_threads="1"), ALL).kind == kind
    assert choose(settings(), replace(ALL, tensorrt=("tensorrt", "10.4.0"))).kind != kind
    assert choose(settings("onnx"), ALL).kind == "ONNX Runtime 1.23.0 on Orin (8.7)"
    # Why it is the processor does not matter to what it computes.
    forced = choose(settings("onnx"), NO_GPU)
    assert forced.kind == choose(settings(), NO_GPU).kind
    assert forced.kind.startswith("OpenVINO 2026.4 on ")
    assert len(choose(settings(), replace(NO_GPU, openvino="9" * 300)).kind) == 200
