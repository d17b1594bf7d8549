"""Films per second on a GPU: the engine beside a bare loop, and scoring beside the slower stage.

    python -m tests.bench.gpu [FOLDER] [--model FILE] [--precisions fp32 fp16 int8] [--quick]

The engine is fed from ordinary memory through its lanes. The bare loop enqueues the same plan, at
the same number of films, on films that lie in the GPU's memory, and copies nothing: on one stream,
and on as many as the engine has lanes; the faster of both is the limit. Scoring is a real worker's,
warm, over FOLDER (made-up films unless named), beside decoding alone on all cores and the engine
alone. Rounds alternate, and each ratio is the median of the rounds' ratios.

Without `--model` the network's weights are random, which costs a GPU as much as any others.

Claims: 0.90 of the bare loop, for 1, 8, 32 and 64 films at once; 0.85 of the slower stage. Where
there is no GPU, nothing is measured and nothing claimed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.bench.parts import report as reporting
from tests.bench.parts import site, stages
from tests.worker import samples
from trainer import card as cards
from trainer import folded, phantom
from trainer.modelfile import quantise
from worker.engine import Engine, flavour, observe
from worker.engine.onnx import OnnxEngine
from worker.engine.tensorrt import TensorRtEngine
from worker.errors import EngineError
from worker.machine import gpu as gpus
from worker.machine.gpu import Gpu

BARE, STAGE = 0.90, 0.85

#: Films at once; the plan is built for the most.
BATCHES = (1, 8, 32, 64)

#: Seconds of each measurement, and how often each is taken.
SECONDS, ROUNDS = 3.0, 5

#: Made-up patients whose films are scored, one to four each.
PATIENTS = 1500


def main() -> int:
    """Measure what this machine has; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", help="films to score")
    parser.add_argument("--model", type=Path, help="an fp32 model file")
    parser.add_argument("--size", type=int, default=224, help="S of a random model")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "fp16", "int8"])
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes")
    given = parser.parse_args()
    reason = gpus.why_none()
    if reason:
        print(f"Nothing is measured: {reason}. This benchmark needs an NVIDIA GPU.")
        return 0
    gpu = gpus.find()[0]
    print(f"{gpu.device}, {gpu.memory_bytes / 2**30:.1f} GiB, driver for CUDA {gpu.driver}")
    print(", ".join(f"{name} {version}" for name, version in _versions()), flush=True)
    claims = reporting.Claims()
    with tempfile.TemporaryDirectory(prefix="pneumoq-measured-") as name:
        folder = Path(name)
        files = _files(folder, given)
        used = {p: backend for p in given.precisions if (backend := _engine(folder, gpu, files, p,
                given.quick, claims))}  # fmt: skip
        if used:
            films = given.folder or _phantoms(folder / "films", 60 if given.quick else PATIENTS)
            for precision, backend in used.items():
                _scoring(folder, gpu, films, files, precision, backend, given.quick, claims)
    return claims.end()


def _versions() -> list[tuple[str, str]]:
    """What is installed of all that has to do with it."""
    found = []
    trt = flavour.available()
    if trt is not None:
        found.append(trt)
    for name in ("pycuda", "onnxruntime-gpu", "torch"):
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            found.append((name, "not installed"))
    return found


def _files(folder: Path, given: argparse.Namespace) -> dict[str, Path]:
    """The model's file in each precision."""
    path = given.model
    if path is None:
        path = folder / "fp32.onnx"
        samples.write_model(
            path, ("NORMAL", "PNEUMONIA"), seed=1, size=given.size, width=samples.WIDE
        )
    network = folded.Network(path)
    seen = samples.pixels([d for _, d in samples.films(16, seed=3)], network.card.size)
    files = {"fp32": path, "fp16": folder / "fp16.onnx", "int8": folder / "int8.onnx"}
    quantise.fp16(network, files["fp16"])
    threads = len(os.sched_getaffinity(0))
    quantise.int8(network, observe.sample(network, seen, threads=threads), files["int8"])
    return files


def _open(folder: Path, gpu: Gpu, path: Path, precision: str) -> Engine:
    """TensorRT's engine, or ONNX Runtime's where TensorRT cannot be had. Raises EngineError."""
    card = cards.read(path)
    try:
        if flavour.available() is None:
            raise EngineError("TensorRT is not installed")
        return TensorRtEngine(
            path, card, gpu=gpu, home=folder, batch=max(BATCHES), precision=precision,
            workspace_mb=1024, report=_told(),
        )  # fmt: skip
    except EngineError as refusal:
        print(f"TensorRT does not compute {precision} here: {refusal}", flush=True)
    return OnnxEngine(path, card, gpu=gpu, batch=max(BATCHES), precision=precision, lanes=2)


def _told() -> Callable[[str, int, int], None]:
    began = time.monotonic()

    def report(phase: str, step: int, steps: int) -> None:
        if phase == "built":
            print(f"built in {time.monotonic() - began:.1f} s", flush=True)

    return report


def _engine(
    folder: Path,
    gpu: Gpu,
    files: dict[str, Path],
    precision: str,
    quick: bool,
    claims: reporting.Claims,
) -> str:
    """One precision's table; the word that a worker is told to use what was measured, or ""."""
    try:
        engine = _open(folder, gpu, files[precision], precision)
    except EngineError as refusal:
        print(f"ONNX Runtime does not compute {precision} here: {refusal}\n", flush=True)
        return ""
    card = engine.card
    rng = np.random.default_rng(0)
    films = rng.integers(0, 256, (max(BATCHES), card.channels, card.size, card.size), np.uint8)
    seconds, rounds = (0.5, 3) if quick else (SECONDS, ROUNDS)
    rows: list[tuple[Any, ...]] = []
    try:
        for batch in BATCHES:
            if isinstance(engine, TensorRtEngine) and engine.options["max_batch"] < batch:
                print(f"{batch} films at once: this GPU's memory is too small", flush=True)
                continue
            ours: list[float] = []
            bare: list[float] = []
            for _ in range(rounds):
                ours.append(_fed(engine, films, batch, seconds))
                if isinstance(engine, TensorRtEngine):
                    bare.append(max(_bare(engine, batch, n, seconds) for n in {1, engine.depth}))
            limit = statistics.median(bare) if bare else "-"
            ratio = statistics.median(a / b for a, b in zip(ours, bare, strict=True)) if bare else 0
            rows.append((batch, statistics.median(ours), limit, ratio or "-"))
            if bare:
                what = f"{BARE:.2f} of the bare loop, {precision}, {batch} films at once"
                claims.check(ratio >= BARE, what, f"{ratio:.3f}")
    finally:
        backend = engine.backend
        engine.close()
    print(f"{backend} {engine.backend_version}, {precision}, {engine.options}")
    reporting.table(("films at once", "films/s", "bare loop", "share"), rows)
    return "tensorrt" if backend.startswith("tensorrt") else "onnx"


def _fed(engine: Engine, films: NDArray[np.uint8], batch: int, seconds: float) -> float:
    """Films per second through the engine, as many batches under way as it can have."""
    pending: deque[Any] = deque()

    def turn() -> None:
        if len(pending) == engine.depth:
            pending.popleft().result()
        pending.append(engine.submit(films, batch))

    for _ in range(2 * engine.depth):
        turn()
    began, count = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        turn()
        count += 1
    while pending:
        pending.popleft().result()
    return count * batch / (time.monotonic() - began)


def _bare(engine: TensorRtEngine, batch: int, streams: int, seconds: float) -> float:
    """Films per second of the engine's own plan on films that are on the GPU already."""
    from worker.engine.device import pycuda

    cuda = pycuda()
    card, plan = engine.card, engine._engine
    lanes: list[tuple[Any, Any, list[Any]]] = []
    try:
        for _ in range(streams):
            context, stream = plan.create_execution_context(), cuda.Stream(1)
            memory: list[Any] = []
            lanes.append((context, stream, memory))
            context.set_input_shape(cards.INPUT, (batch, card.channels, card.size, card.size))
            for number in range(plan.num_io_tensors):
                name = plan.get_tensor_name(number)
                # Room for the widest answer, a float for each pixel.
                memory.append(cuda.mem_alloc(4 * batch * card.channels * card.size**2))
                context.set_tensor_address(name, int(memory[-1]))
        for context, stream, _ in lanes * 3:
            context.execute_async_v3(stream.handle)
        cuda.Context.synchronize()
        began, count = time.monotonic(), 0
        # So many between two looks at the clock that the GPU never waits for the host.
        rounds = max(4, 256 // batch)
        while time.monotonic() - began < seconds:
            for _ in range(rounds):
                for context, stream, _ in lanes:
                    context.execute_async_v3(stream.handle)
            cuda.Context.synchronize()
            count += rounds * streams
        return count * batch / (time.monotonic() - began)
    finally:
        for _, _, memory in lanes:
            for allocation in memory:
                allocation.free()
        lanes.clear()


def _phantoms(folder: Path, patients: int) -> Path:
    """Made-up films in two class folders."""
    phantom.write_folder(folder, patients, seed=5)
    return folder


def _scoring(
    folder: Path,
    gpu: Gpu,
    films: Path,
    files: dict[str, Path],
    precision: str,
    backend: str,
    quick: bool,
    claims: reporting.Claims,
) -> None:
    """A warm worker's rate beside the slower of decoding and inference."""
    size = cards.read(files["fp32"]).size
    paths = sorted(path for path in films.rglob("*") if path.is_file())
    seconds, rounds = (1.0, 1) if quick else (2 * SECONDS, 3)
    engine = _open(folder, gpu, files[precision], precision)
    noise = np.random.default_rng(0).integers(0, 256, (max(BATCHES), 1, size, size), np.uint8)
    computing = statistics.median(
        _fed(engine, noise, max(BATCHES), seconds / 2) for _ in range(rounds)
    )
    engine.close()
    rates: dict[str, list[float]] = {"decoding alone": [], "ours": []}
    with site.installation("sqlite", engine=backend, gpu_batch=max(BATCHES)) as at:
        model_id = samples.register(at.engine, {p: files[p] for p in {"fp32", precision}})
        at.worker()
        site.score(at, model_id, films, precision=precision, force=True)  # builds, and gets warm
        for _ in range(rounds):
            rates["decoding alone"].append(
                stages.measure("decoding", paths, size, seconds, files["fp32"], "fp32")
            )
            _, course = site.score(at, model_id, films, precision=precision, force=True)
            rates["ours"].append(course.rate)
    slower = [min(computing, decoding) for decoding in rates["decoding alone"]]
    ratio = statistics.median(a / b for a, b in zip(rates["ours"], slower, strict=True))
    print(f"scoring {len(paths):,} films, {precision}, {len(os.sched_getaffinity(0))} cores")
    reporting.table(
        ("films/s", "median"),
        [(name, statistics.median(found)) for name, found in rates.items()]
        + [("the engine alone", computing)],
    )
    claims.check(ratio >= STAGE, f"{STAGE:.2f} of the slower stage, {precision}", f"{ratio:.3f}")


if __name__ == "__main__":
    sys.exit(main())
