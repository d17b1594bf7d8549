"""OpenVINO in every precision beside ONNX Runtime, in one run: films per second on the processor.

    python -m tests.bench.engines [--model FILE] [--films FOLDER] [--size 224] [--threads N]

Without `--model` (an fp32 file) the weights are random. Rounds alternate, so that a noisy neighbour
meets all; the best round of each counts. With `--films`, a folder or .zip, the precisions' gate is
measured besides: on films that were not used to calibrate, but of which the model may have been
trained on some.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from trainer import card as cards
from trainer import folded
from trainer.card import Card
from trainer.film import rules
from trainer.judging import parity
from trainer.modelfile import export, quantise
from trainer.network import model
from worker.decoding.labelled import Limits
from worker.engine import FILE_OF, observe, open_engine
from worker.errors import EngineError
from worker.training import precisions

ROUNDS = 5
#: Films in one round.
FILMS = 64


def write_model(path: Path, size: int) -> None:
    """A model file of random weights."""
    torch.manual_seed(0)
    net, _ = model.build(2, "scratch", 0)
    card = Card(
        labels=("NORMAL", "PNEUMONIA"),
        positive="PNEUMONIA",
        size=size,
        film_rule=rules.DEFAULT_RULE,
        golden=tuple(rules.golden()),
        temperature=1.0,
        threshold=0.5,
        threshold_rule="none",
    )
    export.write(path, net.state_dict(), card)


def write_files(path: Path, films: np.ndarray, threads: int) -> dict[str, Path]:
    """The model in every precision that has a file."""
    network = folded.Network(path)
    files = {name: path.with_name(f"{name}.onnx") for name in ("fp16", "int8")}
    sample = observe.sample(network, films, threads=threads)
    quantise.int8(network, sample, files["int8"])
    quantise.fp16(network, files["fp16"])
    return {"fp32": path, **files}


def main() -> None:
    """Print one line per batch size and engine, and the gate's verdicts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--films")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    threads = options.threads
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        if options.model:
            shutil.copyfile(options.model, path)
        else:
            write_model(path, options.size)
        card = cards.read(path)
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (FILMS, 1, card.size, card.size), dtype=np.uint8)
        if options.films:
            pixels, _ = precisions.pick(
                options.films,
                card,
                quantise.FILMS + parity.FILMS,
                Limits(decoders=threads, deadline_s=30.0, limit_mb=2048),
            )
            derived = precisions.derive(
                path, pixels[: quantise.FILMS], pixels[quantise.FILMS :], batch=8, threads=threads
            )
            print("\n".join(derived.notes))
            pixels = pixels[:FILMS]
        compare(write_files(path, pixels, threads), pixels, threads)


def compare(files: dict[str, Path], pixels: np.ndarray, threads: int) -> None:
    """Print films per second of each engine, and how many times fp32's in OpenVINO that is."""
    print(f"ResNet18 at {pixels.shape[-1]} px, {threads} threads: films/s (times OpenVINO fp32)")
    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = threads
    session_options.log_severity_level = 3
    rivals = {
        f"ORT {name}": onnxruntime.InferenceSession(
            str(files[name]), session_options, providers=["CPUExecutionProvider"]
        )
        for name in ("fp32", "int8")
    }
    for batch in (1, 8, 16):
        parts = [pixels[start : start + batch] for start in range(0, len(pixels), batch)]
        runs: dict[str, Callable[[], float]] = {}
        engines = []
        for precision in ("fp32", "bf16", "int8"):
            try:
                engine = open_engine(
                    files[FILE_OF[precision]], batch=batch, threads=threads, precision=precision
                )
            except EngineError as error:
                print(f"  {precision}: {error}")
                continue
            engines.append(engine)
            runs[precision] = lambda engine=engine: precisions.scores(engine, pixels)[1]

        for name, session in rivals.items():

            def rate(session=session, parts: list = parts) -> float:
                started = time.perf_counter()
                for part in parts:
                    session.run(None, {"image": part})
                return len(pixels) / (time.perf_counter() - started)

            runs[name] = rate
        rates: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(ROUNDS):
            for name, run in runs.items():
                rates[name].append(run())
        for engine in engines:
            engine.close()
        best = {name: max(values) for name, values in rates.items()}
        line = "  ".join(f"{name} {r:.1f} ({r / best['fp32']:.2f})" for name, r in best.items())
        print(f"batch {batch:2d}: {line}", flush=True)


if __name__ == "__main__":
    main()
