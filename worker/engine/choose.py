"""Which engine scores here, and why. Nothing heavy is imported to find that out.

tensorrt      TensorRT through PyCUDA: JetPack's or a server's (`tensorrt`), or that for RTX
              cards (`tensorrt_rtx`)
onnxruntime   ONNX Runtime with CUDA, the file as it is
openvino      the processor; also what every other engine is compared with
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
import platform
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from trainer.errors import CardError, FilmError
from worker.engine.base import Engine
from worker.engine.progress import Report, silent
from worker.errors import EngineError
from worker.machine import gpu as gpus
from worker.machine.gpu import Gpu

if TYPE_CHECKING:
    from trainer.card import Card

#: What an engine may be asked to compute in → precision of the file that it is made from.
#: bf16 needs no file: the fp32 weights are rounded when the engine is opened.
FILE_OF = {"fp32": "fp32", "bf16": "fp32", "fp16": "fp16", "int8": "int8"}

#: Batches in a GPU's hands at once: one on its way there, one computed, one on its way back.
LANES = 3

#: What a job or a worker may ask for.
AUTO, TENSORRT, ONNX = "auto", "tensorrt", "onnx"

#: Backend → its name for a person.
NAMES = {
    "tensorrt": "TensorRT",
    "tensorrt_rtx": "TensorRT-RTX",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
}


#: Characters of `EngineChoice.kind`: what the table of engine checks has room for.
LONGEST_KIND = 200

#: Where Linux says what the processor is, and the word before it; ARM has no such line.
_PROCESSORS, _MODEL = Path("/proc/cpuinfo"), "model name"


class Wanted(Protocol):
    """The settings that decide; `worker.config.Settings` has them."""

    @property
    def engine(self) -> str: ...
    @property
    def batch(self) -> int: ...
    @property
    def engine_threads(self) -> int: ...
    @property
    def gpu_batch(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class EngineChoice:
    """What is scored with here. `str` is for a person, with the reason where there is one."""

    #: auto, tensorrt or onnx.
    asked: str
    #: tensorrt, tensorrt_rtx, onnxruntime or openvino.
    backend: str
    version: str
    #: None where the processor computes.
    gpu: Gpu | None
    #: Why nothing better was chosen, a clause; empty where there is nothing better.
    reason: str
    #: Films in every batch.
    batch: int
    #: Of the processor's engine.
    threads: int
    #: Batches that are computed at once.
    lanes: int

    def __str__(self) -> str:
        name = NAMES[self.backend]
        if self.gpu is None:
            threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
            what = f"CPU ({name}, {threads})"
        else:
            # Some builds of TensorRT do not show their version before they are imported.
            what = f"{' '.join(filter(None, (name, self.version)))} on {self.gpu.device}"
        return f"{what}: {self.reason}" if self.reason else what

    @property
    def kind(self) -> str:
        """What computes, the same in every process of such machines: engine, version, device."""
        device = processor() if self.gpu is None else self.gpu.device
        words = (NAMES[self.backend], self.version, "on", device)
        return " ".join(filter(None, words))[:LONGEST_KIND]

    @property
    def on(self) -> str:
        """The kind of worker that a precision is chosen for: `tensorrt` or `onnx`."""
        return TENSORRT if self.backend.startswith("tensorrt") else ONNX

    def asking(self, engine: str | None) -> EngineChoice:
        """The same for a job that asks for an engine itself."""
        return self if engine in (None, AUTO) else replace(self, asked=str(engine))


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What there is to score with."""

    #: The first one, which is the one that is used.
    gpu: Gpu | None
    #: Why there is none, a clause.
    why_no_gpu: str = ""
    #: tensorrt or tensorrt_rtx, and its version.
    tensorrt: tuple[str, str] | None = None
    pycuda: bool = False
    #: Version of an ONNX Runtime that has CUDA.
    onnxruntime: str | None = None
    openvino: str = ""

    @classmethod
    def look(cls) -> Machine:
        """This machine."""
        # The driver is asked before anything of TensorRT's: without one it ends the process.
        found = gpus.find()
        if not found:
            return cls(gpu=None, why_no_gpu=gpus.why_none(), openvino=_version("openvino") or "")
        from worker.engine import flavour

        return cls(
            gpu=found[0],
            tensorrt=flavour.available(),
            pycuda=importlib.util.find_spec("pycuda") is not None,
            onnxruntime=_version("onnxruntime-gpu"),
            openvino=_version("openvino") or "",
        )

    @property
    def missing(self) -> str | None:
        """What TensorRT lacks here, a clause that says what to do; None where it lacks nothing."""
        if self.gpu is None:
            return self.why_no_gpu
        if self.tensorrt is None:
            return (
                "TensorRT is not installed: on a Jetson it is JetPack's own (apt install "
                "python3-libnvinfer, and a virtual environment made with --system-site-packages), "
                "elsewhere pip install tensorrt"
            )
        return None if self.pycuda else "PyCUDA is not installed: pip install pycuda"


@functools.cache
def processor() -> str:
    """The processor's name, or its architecture where it has none."""
    with contextlib.suppress(OSError):
        for line in _PROCESSORS.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == _MODEL and value.strip():
                return value.strip()
    return platform.machine()


def choose(settings: Wanted, machine: Machine | None = None) -> EngineChoice:
    """The engine for these settings on a machine, this one where none is given.

    TensorRT where there is a GPU, TensorRT and PyCUDA; else ONNX Runtime where it has CUDA; else
    the processor. Raises EngineError where `tensorrt` is asked for and something of it is missing.
    """
    machine = machine or Machine.look()
    asked = settings.engine
    if asked == ONNX:
        return _without_tensorrt(settings, machine, asked, "onnx was asked for")
    missing = machine.missing
    if missing is None:
        assert machine.gpu is not None and machine.tensorrt is not None
        return _on_gpu(settings, *machine.tensorrt, machine.gpu, asked, "")
    if asked == TENSORRT:
        raise EngineError(
            f"TensorRT was asked for, and this machine cannot use it: {missing}. Correct that, or "
            "ask for auto (PNEUMOQ_ENGINE)"
        )
    return _without_tensorrt(settings, machine, asked, missing)


def fallback(
    choice: EngineChoice, settings: Wanted, reason: str, machine: Machine | None = None
) -> EngineChoice | None:
    """What is tried after an engine that does not do; None where there is nothing left."""
    if choice.asked == TENSORRT or choice.backend == "openvino":
        return None
    machine = machine or Machine.look()
    if choice.backend == "onnxruntime":
        return _on_processor(settings, machine, choice.asked, reason)
    return _without_tensorrt(settings, machine, choice.asked, reason)


def kinds(choice: EngineChoice) -> set[str]:
    """What a job may ask for that this worker can serve."""
    return kinds_of(choice.backend)


def kinds_of(backend: str) -> set[str]:
    """What a job may have asked for that gets an engine of this backend."""
    return {AUTO, TENSORRT if backend.startswith("tensorrt") else ONNX}


def open_on(
    choice: EngineChoice,
    path: Path,
    *,
    precision: str,
    home: Path,
    workspace_mb: int,
    report: Report = silent,
) -> Engine:
    """Make a model file ready to compute with what was chosen.

    The first time on a GPU TensorRT builds, which takes minutes, and `report` is called; what that
    raises ends the build. Raises EngineError as `open_engine`, and GpuLost.
    """
    if choice.gpu is None:
        return open_engine(path, batch=choice.batch, threads=choice.threads, precision=precision)
    card = _card(path, precision)
    if precision == "bf16":
        raise EngineError("bf16 is computed on processors; a GPU has fp16 for it")
    if choice.backend == "onnxruntime":
        from worker.engine.onnx import OnnxEngine

        return OnnxEngine(
            path, card, gpu=choice.gpu, batch=choice.batch, precision=precision,
            threads=choice.threads, lanes=choice.lanes,
        )  # fmt: skip
    from worker.engine.tensorrt import TensorRtEngine

    return TensorRtEngine(
        path, card, gpu=choice.gpu, home=home, batch=choice.batch, precision=precision,
        workspace_mb=workspace_mb, lanes=choice.lanes, report=report,
    )  # fmt: skip


def open_engine(path: Path, *, batch: int, threads: int, precision: str = "fp32") -> Engine:
    """Make a model file ready to compute on the processor.

    `precision` is what it computes in, and `path` the file that `FILE_OF` says. Raises EngineError
    where it cannot: a file that is not ours or of another precision, a film rule that this build
    lacks or carries out differently, or a backend that refuses the network or the precision.
    """
    from worker.engine.cpu import CpuEngine

    card = _card(path, precision)
    return CpuEngine(path, card, batch=batch, threads=threads, precision=precision)


def _card(path: Path, precision: str) -> Card:
    """The card of a file that this precision can be computed from; raises EngineError."""
    # Commands that only choose an engine need not wait for NumPy and Pillow to load.
    from trainer import card as cards
    from trainer.film import rules

    if precision not in FILE_OF:
        raise EngineError(f"precision {precision!r} is unknown; give one of {', '.join(FILE_OF)}")
    try:
        card = cards.read(path)
        if card.precision != FILE_OF[precision]:
            raise EngineError(
                f"{path.name} holds the model in {card.precision}, and {precision} is computed "
                f"from its {FILE_OF[precision]} file; fetch that one"
            )
        if card.film_rule not in rules.RULES:
            raise EngineError(
                f"{path.name} wants film rule {card.film_rule!r}, which this PneumoQ lacks; "
                "upgrade this worker"
            )
        rules.check_golden(list(card.golden), card.film_rule)
    except (CardError, FilmError) as error:
        raise EngineError(str(error)) from error
    return card


def _without_tensorrt(settings: Wanted, machine: Machine, asked: str, reason: str) -> EngineChoice:
    if machine.gpu is not None and machine.onnxruntime is not None:
        version = machine.onnxruntime
        return _on_gpu(settings, "onnxruntime", version, machine.gpu, asked, reason)
    if machine.gpu is not None:
        reason += "; no ONNX Runtime for GPUs either: pip install onnxruntime-gpu"
    elif machine.why_no_gpu not in reason:
        reason += f"; {machine.why_no_gpu}"
    return _on_processor(settings, machine, asked, reason)


def _on_gpu(
    settings: Wanted, backend: str, version: str, gpu: Gpu, asked: str, reason: str
) -> EngineChoice:
    return EngineChoice(
        asked=asked, backend=backend, version=version, gpu=gpu, reason=reason,
        batch=settings.gpu_batch, threads=settings.engine_threads, lanes=LANES,
    )  # fmt: skip


def _on_processor(settings: Wanted, machine: Machine, asked: str, reason: str) -> EngineChoice:
    threads = settings.engine_threads
    return EngineChoice(
        asked=asked, backend="openvino", version=machine.openvino, gpu=None, reason=reason,
        batch=settings.batch, threads=threads, lanes=threads,
    )  # fmt: skip


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution).partition("-")[0]
    except importlib.metadata.PackageNotFoundError:
        return None
