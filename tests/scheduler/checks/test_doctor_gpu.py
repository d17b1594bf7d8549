"""What doctor says of GPUs and engines, from what it is told of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from scheduler import session
from scheduler.checks import gpu
from worker.machine.gpu import Gpu, find, why_none

needs_none = pytest.mark.skipif(bool(find()), reason="this machine has a GPU")

ORIN = Gpu(
    index=0, name="Orin", uuid="GPU-1", compute_capability=(8, 7), memory_bytes=8 * 2**30,
    integrated=True, driver="12.6",
)  # fmt: skip
CARD = Gpu(
    index=0, name="NVIDIA L4", uuid="GPU-2", compute_capability=(8, 9), memory_bytes=24 * 2**30,
    integrated=False, driver="13.0",
)  # fmt: skip


def _root(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("DASH", "-")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_a_jetson_is_known_by_its_release_and_its_board(tmp_path: Path) -> None:
    release = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n"
    board = "NVIDIA Jetson Orin Nano Developer Kit\0"
    both = _root(tmp_path / "a", etc__nv_tegra_release=release, proc__deviceDASHtree__model=board)
    assert gpu.jetson(both, "aarch64") == (
        "NVIDIA Jetson Orin Nano Developer Kit, Jetson Linux 36.4.3"
    )
    # A container need not be shown both.
    one = _root(tmp_path / "b", etc__nv_tegra_release=release)
    assert gpu.jetson(one, "aarch64") == "NVIDIA Jetson, Jetson Linux 36.4.3"
    other = _root(tmp_path / "c", proc__deviceDASHtree__model=board)
    assert gpu.jetson(other, "aarch64") == "NVIDIA Jetson Orin Nano Developer Kit"


def test_other_machines_are_no_jetson(tmp_path: Path) -> None:
    pi = _root(tmp_path / "a", proc__deviceDASHtree__model="Raspberry Pi 5 Model B\0")
    assert gpu.jetson(pi, "aarch64") is None
    jetson = _root(tmp_path / "b", proc__deviceDASHtree__model="NVIDIA Jetson AGX Orin\0")
    assert gpu.jetson(jetson, "x86_64") is None
    assert gpu.jetson(tmp_path, "aarch64") is None


def test_a_gpu_is_told_with_its_memory_and_its_driver() -> None:
    (card,) = gpu.cards((CARD,))
    assert (card.status, card.found) == (
        "ok", "NVIDIA L4 (8.9), 24.0 GiB, its driver speaks CUDA 13.0",
    )  # fmt: skip
    (orin,) = gpu.cards((ORIN,))
    assert orin.found.startswith("Orin (8.7), 8.0 GiB shared with the processor, ")
    assert orin.found.endswith(" GiB free, its driver speaks CUDA 12.6")


@needs_none
def test_without_a_gpu_it_is_said_why_there_is_none() -> None:
    (found,) = gpu.cards(())
    assert (found.status, found.found) == ("ok", f"none: {why_none()}")


def test_a_gpu_that_is_slowed_down_is_a_warning_and_a_low_power_mode_is_told() -> None:
    found = gpu.condition({"temperature_c": 90.0, "throttled": "thermal"})
    assert (found.status, found.found) == ("warning", "90 °C, throttled: thermal")
    assert "cooling" in found.advice
    low = gpu.condition({"power_w": 7.0, "power_mode": "15W"})
    assert (low.status, "nvpmodel -q" in low.advice) == ("ok", True)
    assert gpu.condition({"power_w": 7.0, "power_mode": "MAXN_SUPER"}).advice == ""


def _tensorrt(available: tuple[str, str] | None, *, of_pip: bool = False, has_gpu: bool = True,
              board: str | None = None) -> tuple[str, str, str]:  # fmt: skip
    found = gpu.tensorrt(available, of_pip=of_pip, has_gpu=has_gpu, board=board)
    return found.status, found.found, found.advice


def test_on_a_jetson_the_advice_is_jetpacks_tensorrt_and_never_pips() -> None:
    board = "NVIDIA Jetson Orin Nano"
    status, found, advice = _tensorrt(None, board=board)
    assert (status, found) == ("warning", "not installed")
    assert "apt install python3-libnvinfer" in advice
    assert "--system-site-packages" in advice
    assert "pip install" not in advice
    status, found, advice = _tensorrt(("tensorrt", "11.4.0"), of_pip=True, board=board)
    assert (status, found) == ("warning", "of pip, which hides JetPack's")
    assert advice.startswith("pip uninstall tensorrt; sudo apt install python3-libnvinfer")
    assert _tensorrt(("tensorrt", "10.3.0"), board=board) == ("ok", "TensorRT 10.3.0", "")


def test_elsewhere_tensorrt_comes_by_the_extra_where_there_is_a_gpu_for_it() -> None:
    assert _tensorrt(("tensorrt_rtx", "1.7.1"), of_pip=True) == ("ok", "TensorRT-RTX 1.7.1", "")
    assert _tensorrt(("tensorrt", "11.4.0"), of_pip=True) == ("ok", "TensorRT 11.4.0", "")
    status, _, advice = _tensorrt(None)
    assert (status, advice) == ("warning", "pip install 'pneumoq[tensorrt]'")
    status, _, advice = _tensorrt(None, has_gpu=False)
    assert status == "ok"
    assert "with an NVIDIA GPU only" in advice


@needs_none
def test_the_engine_that_would_be_chosen_is_named_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    auto = gpu.engine(session.settings())
    assert auto.status == "ok"
    assert auto.found.startswith("auto: CPU (OpenVINO, ")
    assert auto.found.endswith(why_none())
    monkeypatch.setenv("PNEUMOQ_ENGINE", "tensorrt")
    asked = gpu.engine(session.settings())
    assert asked.status == "problem"
    assert why_none() in asked.found
    assert "PNEUMOQ_ENGINE=auto" in asked.advice
