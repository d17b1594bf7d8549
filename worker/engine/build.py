"""Build: a model file becomes a plan, the network as TensorRT compiled it for one GPU.

The precision is in the file: the network is strongly typed, so that every tensor has the type that
the file gives it and TensorRT rounds nothing on its own. That is the one way that TensorRT 10.3
(JetPack 6) to 11 have in common. Films come in as `uint8`; TensorRT takes that type as a network's
input only, and only straight into a Cast, which is how our files begin
(github.com/NVIDIA/TensorRT/issues/3985, and docs/operators.md of onnx-tensorrt).

On a GPU it builds for the one whose context is current in the calling thread. It knows nothing of
files that are kept (`plans`) and nothing of how a plan is run (`tensorrt`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer import card as cards
from trainer.errors import Stopped
from worker.engine.flavour import Flavour
from worker.engine.progress import WHOLE, Progress, Report, silent
from worker.errors import EngineError, OutOfMemory

#: Precisions of the files that TensorRT is given. bf16 has no file of its own, and a strongly typed
#: network cannot be told to round.
PRECISIONS = ("fp32", "fp16", "int8")

#: How TensorRT says that the GPU's memory, or the share that it may work in, does not suffice. It
#: has no exception and no code for it.
OUT_OF_MEMORY = re.compile(
    r"out ?of ?memory|insufficient (workspace|memory)|could not be allocated|bad_alloc|"
    r"memory allocation",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What a plan is built for, besides the file and the GPU."""

    #: One of PRECISIONS: what the file holds.
    precision: str
    #: S: films are `uint8 [n, channels, S, S]`.
    size: int
    channels: int = 1
    #: Most films of one call; any number from 1 is taken, and this one is what is tuned for.
    max_batch: int
    #: GPU memory in MiB that the network's layers may work in.
    workspace_mb: int = 1024
    #: TensorRT's builder optimisation level, 0 to 5: what is tried; 3 is its own default.
    optimisation: int = 3

    def __post_init__(self) -> None:
        """Raises EngineError for a precision that TensorRT is not given."""
        if self.precision not in PRECISIONS:
            raise EngineError(
                f"TensorRT computes a model in {', '.join(PRECISIONS)}, not in "
                f"{self.precision!r}; submit with one of these"
            )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a key and for the engines table."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """What came of a build."""

    #: The serialised engine. It is code: only who built it may load it.
    plan: bytes = field(repr=False)
    #: Timings of what was tried, which make the next build on this GPU faster; None where this
    #: flavour measures nothing when it builds.
    timing: bytes | None = field(repr=False)
    seconds: float


def build(
    flavour: Flavour,
    onnx: Path,
    options: Options,
    *,
    timing: bytes | None = None,
    target: str | None = None,
    report: Report = silent,
    stop: Callable[[], bool] = lambda: False,
) -> Built:
    """Compile a model file; it takes seconds to minutes, and other threads run meanwhile.

    `timing` is an earlier `Built.timing` of this version and GPU; one that does not fit is ignored.
    `target` (TensorRT-RTX only) is a compute capability as "SM89"; without it the plan runs on all
    RTX cards from Ampere on. `report` hears how far it is.

    Raises EngineError for a file that TensorRT refuses, with its words; OutOfMemory; Stopped soon
    after `stop` says so, and whatever `report` raises. Ctrl-C ends it too.
    """
    started = time.monotonic()
    try:
        data = onnx.read_bytes()
    except OSError as error:
        raise EngineError(f"{onnx.name} cannot be read: {error.strerror}") from error
    with flavour.messages.errors() as errors, _interrupt_kept() as interrupted:
        progress = Progress(report, lambda: interrupted() or stop())
        try:
            _sound(data)
            made = _compile(flavour, data, options, timing, target, progress, errors)
        except _Refused as refusal:
            # With TensorRT's last words where it has none of its own.
            cause = str(refusal) or (errors[-1] if errors else "it does not say why")
            raise EngineError(f"{_name(flavour)} cannot build {onnx.name}: {cause}") from refusal
        except MemoryError as error:
            raise _out_of_memory(flavour, onnx, options, "the machine's memory is full") from error
        if progress.raised is not None:
            raise progress.raised
        if made is None and progress.stopped:
            raise Stopped(f"stopped while TensorRT built {onnx.name}")
        if made is None:
            cause = errors[-1] if errors else "it does not say why"
            if any(OUT_OF_MEMORY.search(error) for error in errors):
                raise _out_of_memory(flavour, onnx, options, cause)
            raise EngineError(f"{_name(flavour)} cannot build {onnx.name}: {cause}")
    report("built", WHOLE, WHOLE)
    plan, timing = made
    return Built(plan=plan, timing=timing, seconds=time.monotonic() - started)


def target_for(flavour: Flavour, compute_capability: tuple[int, int]) -> str | None:
    """`target` of `build` for a GPU: None where the flavour has no such thing or not that one."""
    trt = flavour.module
    name = "SM{}{}".format(*compute_capability)
    if hasattr(trt, "ComputeCapability") and hasattr(trt.ComputeCapability, name):
        return name
    return None


def _sound(data: bytes) -> None:
    """Raise _Refused unless this is an ONNX file that is sound in itself.

    TensorRT's parser takes some that are not, and what happens then is not always an error.
    """
    import onnx

    try:
        onnx.checker.check_model(data)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise _Refused(" ".join(str(error).split())) from error


class _Refused(Exception):
    """TensorRT would not; the message says to what, or is empty and its last error is the cause."""


def _compile(
    flavour: Flavour,
    data: bytes,
    options: Options,
    timing: bytes | None,
    target: str | None,
    progress: Progress,
    errors: Sequence[str],
) -> tuple[bytes, bytes | None] | None:
    """The plan and the timings; None where TensorRT ended without one."""
    trt, messages = flavour.module, flavour.messages
    try:
        builder = trt.Builder(messages)
    except TypeError as error:  # what a constructor that returns nothing looks like from Python
        cause = f": {errors[-1]}" if errors else ""
        raise _Refused(f"it does not start{cause}; is an NVIDIA driver installed?") from error
    # By name: the bit's number differs between 10 and 11.
    flag = trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    network = builder.create_network(1 << int(flag))
    # The network's weights are the parser's: it lives as long.
    parser = trt.OnnxParser(network, messages)
    if not parser.parse(data):
        raise _Refused(_refusals(parser))
    _check(trt, network, options)

    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mb << 20)
    config.builder_optimization_level = options.optimisation
    # Else fp32 products are rounded to 10 bits on GPUs that can, and probabilities move by more
    # than the 1e-4 that a GPU and a CPU may differ by. In fp16 and int8 files what stays fp32 is
    # the small head, which is not worth its errors either.
    config.clear_flag(trt.BuilderFlag.TF32)
    profile = builder.create_optimization_profile()
    film = (options.channels, options.size, options.size)
    most = (options.max_batch, *film)
    profile.set_shape(cards.INPUT, (1, *film), most, most)
    if config.add_optimization_profile(profile) < 0:
        raise _Refused("")

    portable = hasattr(trt, "ComputeCapability")  # TensorRT-RTX, which builds for GPUs elsewhere
    if target is not None:
        if not portable or not hasattr(trt.ComputeCapability, target):
            raise _Refused(f"it cannot build for {target}")
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, target), 0)
    cache = None
    if not portable:
        cache = config.create_timing_cache(timing or b"")
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            cache = config.create_timing_cache(b"")
            config.set_timing_cache(cache, ignore_mismatch=False)

    monitor = _monitor(trt, progress)
    config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        return None
    return bytes(plan), None if cache is None else bytes(cache.serialize())


def _refusals(parser: Any) -> str:
    """Why the parser refused the file, in one line."""
    found = []
    for number in range(parser.num_errors):
        error = parser.get_error(number)
        where = f"{error.node_operator()} {error.node_name()}: " if error.node_name() else ""
        found.append(where + " ".join(error.desc().split()))
    return "; ".join(found)


def _check(trt: Any, network: Any, options: Options) -> None:
    """Raises _Refused unless the network is a whole model of ours, of the options' size."""
    inputs = [network.get_input(number) for number in range(network.num_inputs)]
    outputs = {network.get_output(number).name for number in range(network.num_outputs)}
    if [tensor.name for tensor in inputs] != [cards.INPUT] or cards.SCORES not in outputs:
        raise _Refused("it is not a whole model: it wants other inputs or gives no scores")
    expected = (-1, options.channels, options.size, options.size)
    found = tuple(inputs[0].shape)
    if inputs[0].dtype != trt.DataType.UINT8 or found != expected:
        raise _Refused(f"its films are {inputs[0].dtype} {found}, not uint8 {expected}")


def _monitor(trt: Any, progress: Progress) -> Any:
    """What TensorRT reports of its phases, and asks whether to go on."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            progress.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return progress.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            progress.finish(phase_name)

    return Monitor()


@contextlib.contextmanager
def _interrupt_kept() -> Iterator[Callable[[], bool]]:
    """Keeps Ctrl-C until the block's end; what is yielded tells whether there was one.

    Python would raise it inside whichever callback comes next, and TensorRT prints and forgets what
    is raised in most of them.
    """
    seen: list[int] = []
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT) if main else None
    if not callable(before):  # ignored, left to the system, or not this thread's affair
        yield lambda: False
        return
    signal.signal(signal.SIGINT, lambda number, _: seen.append(number))
    try:
        yield lambda: bool(seen)
    finally:
        signal.signal(signal.SIGINT, before)
        if seen:
            signal.raise_signal(signal.SIGINT)


def _name(flavour: Flavour) -> str:
    label = "TensorRT-RTX" if flavour.name == "tensorrt_rtx" else "TensorRT"
    return f"{label} {flavour.version}"


def _out_of_memory(flavour: Flavour, onnx: Path, options: Options, cause: str) -> OutOfMemory:
    return OutOfMemory(
        f"{_name(flavour)} has too little memory to build {onnx.name} for {options.max_batch} "
        f"films with {options.workspace_mb} MiB to work in (PNEUMOQ_GPU_WORKSPACE_MB): {cause}"
    )
