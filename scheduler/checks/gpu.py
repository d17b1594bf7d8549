"""The GPU and what computes on it, as `pneumoq doctor` sees them.

Versions come from what packages say of themselves: TensorRT, PyCUDA and ONNX Runtime are not
imported, and no GPU is taken.
"""

from __future__ import annotations

import importlib.util
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from scheduler.checks import machine
from scheduler.checks.finding import Finding, ok, problem, warning
from worker import config
from worker.config import Settings
from worker.errors import EngineError
from worker.machine import gpu, health
from worker.machine.gpu import Gpu

#: What to do on a Jetson, whose TensorRT no other one can stand in for.
JETPACK = (
    "sudo apt install python3-libnvinfer, and make the virtual environment with "
    "--system-site-packages, which shows it JetPack's; never pip's tensorrt"
)


def jetson(root: Path = Path("/"), processor: str | None = None) -> str | None:
    """Which Jetson this is, with its release of Jetson Linux; None where it is none."""
    if (processor or platform.machine()) != "aarch64":
        return None
    release = _text(root / "etc/nv_tegra_release")
    board = _text(root / "proc/device-tree/model").strip("\0\n ")
    if not release and "Jetson" not in board:
        return None
    numbers = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", release)
    linux = f", Jetson Linux {numbers[1]}.{numbers[2]}" if numbers else ""
    return f"{board or 'NVIDIA Jetson'}{linux}"


def examine(settings: Settings) -> Iterator[Finding]:
    """All checks of this file."""
    from worker.engine import flavour

    board = jetson()
    found = gpu.find()
    if board is not None:
        yield ok("jetson", board)
    yield from cards(found)
    if state := health.read(uuid=found[0].uuid if found else None):
        yield condition(state)
    yield tensorrt(
        flavour.available(), of_pip=_of_pip("tensorrt"), has_gpu=bool(found), board=board
    )
    yield pycuda(bool(found))
    yield onnx_runtime(bool(found))
    yield engine(settings)


def cards(found: tuple[Gpu, ...]) -> Iterator[Finding]:
    """The GPUs that can be used, and the one that the kernel lists but the driver does not give."""
    for card in found:
        memory = f"{card.memory_bytes / 2**30:.1f} GiB"
        if card.integrated:
            free = gpu.free_bytes(card) / 2**30
            memory = f"{memory} shared with the processor, {free:.1f} GiB free"
        yield ok("gpu", f"{card.device}, {memory}, its driver speaks CUDA {card.driver}")
    if found:
        return
    why = gpu.why_none()
    listed = [
        re.search(r"^Model:\s*(.*)$", _text(file), re.MULTILINE)
        for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    ]
    if listed or jetson() is not None:
        names = ", ".join(model[1] for model in listed if model) or "there is one"
        yield warning(
            "gpu", f"{names}, but it cannot be used: {why}",
            "mend the driver; a container needs the NVIDIA runtime (docker run --runtime nvidia, "
            "or --gpus all)",
        )  # fmt: skip
    else:
        yield ok("gpu", f"none: {why}")


def condition(state: dict[str, object]) -> Finding:
    """How the GPU is: temperature, power, and what slows it down."""
    text = health.text(state)
    if "throttled" in state:
        return warning(
            "gpu condition", text,
            "it is slowed down: see to its cooling and power supply, or choose a lower power mode",
        )  # fmt: skip
    mode = state.get("power_mode")
    if mode is not None and not str(mode).startswith("MAXN"):
        return ok(
            "gpu condition", text, "nvpmodel -q lists the power modes; a higher one is faster"
        )
    return ok("gpu condition", text)


def tensorrt(
    available: tuple[str, str] | None, *, of_pip: bool, has_gpu: bool, board: str | None
) -> Finding:
    """Which TensorRT would be used: `available` is its module and version.

    `of_pip`: whether `tensorrt` lies in this virtual environment. `board`: which Jetson this is.
    """
    from worker.engine.choose import NAMES

    if board is not None and of_pip:
        return warning(
            "tensorrt", "of pip, which hides JetPack's", f"pip uninstall tensorrt; {JETPACK}"
        )
    if available is not None:
        name, version = available
        return ok("tensorrt", f"{NAMES[name]} {version}".rstrip())
    if board is not None:
        return warning("tensorrt", "not installed", JETPACK)
    return _absent("tensorrt", has_gpu, "pip install 'pneumoq[tensorrt]'")


def pycuda(has_gpu: bool) -> Finding:
    """PyCUDA, which TensorRT's memory and streams are held with."""
    version = machine.version_of("pycuda")
    if version is not None:
        return ok("pycuda", version)
    return _absent(
        "pycuda", has_gpu,
        "pip install pycuda, with nvcc on the PATH (export PATH=/usr/local/cuda/bin:$PATH)",
    )  # fmt: skip


def onnx_runtime(has_gpu: bool) -> Finding:
    """ONNX Runtime, which computes the file as it is where a GPU has no TensorRT."""
    version = machine.version_of("onnxruntime-gpu")
    if version is not None:
        return ok("onnx runtime", f"{version}, with CUDA")
    version = machine.version_of("onnxruntime")
    found = "not installed" if version is None else f"{version}, without CUDA"
    advice = "only where a GPU has no TensorRT: pip install onnxruntime-gpu" if has_gpu else ""
    return ok("onnx runtime", found, advice)


def engine(settings: Settings) -> Finding:
    """What films would be scored with here, and why."""
    from worker.engine import choose

    try:
        choice = choose(settings)
    except EngineError as error:
        return problem("engine", str(error), f"{config.PREFIX}ENGINE=auto takes the best there is")
    return ok("engine", f"{settings.engine}: {choice}")


def _absent(name: str, has_gpu: bool, advice: str) -> Finding:
    if has_gpu:
        return warning(name, "not installed, so that the GPU is not made full use of", advice)
    return ok(name, "not installed", f"needed on a machine with an NVIDIA GPU only: {advice}")


def _of_pip(module: str) -> bool:
    """Whether a module comes from this virtual environment, not from the system."""
    if sys.prefix == sys.base_prefix:
        return False
    spec = importlib.util.find_spec(module)
    return bool(spec and spec.origin and Path(spec.origin).is_relative_to(sys.prefix))


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""
