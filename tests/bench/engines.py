"""OpenVINO beside ONNX Runtime on one model file, in one run: films per second on the processor.

    python -m tests.bench.engines [--size 224] [--threads N]

Rounds alternate, so that a noisy neighbour meets both; the best round of each counts.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from trainer import export, film, model
from trainer.card import Card
from worker.engine.cpu import CpuEngine

ROUNDS = 5
#: Films in one round.
FILMS = 64


def write_model(path: Path, size: int) -> Card:
    """A model file of random weights."""
    torch.manual_seed(0)
    net, _ = model.build(2, "scratch", 0)
    card = Card(
        labels=("NORMAL", "PNEUMONIA"),
        positive="PNEUMONIA",
        size=size,
        film_rule=film.DEFAULT_RULE,
        golden=tuple(film.golden()),
        temperature=1.0,
        threshold=0.5,
        threshold_rule="none",
    )
    export.write(path, net.state_dict(), card)
    return card


def openvino_round(engine: CpuEngine, pixels: np.ndarray) -> None:
    """All batches, as many at once as the engine takes."""
    pending: deque = deque()
    for start in range(0, len(pixels), engine.batch):
        if len(pending) == engine.depth:
            pending.popleft().result()
        pending.append(engine.submit(pixels[start : start + engine.batch]))
    while pending:
        pending.popleft().result()


def best_rate(run: Callable[[], None], rates: list[float]) -> None:
    """One round; its films per second go into `rates`."""
    started = time.perf_counter()
    run()
    rates.append(FILMS / (time.perf_counter() - started))


def main() -> None:
    """Print one line per batch size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--quick", action="store_true", help="one round")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        card = write_model(path, options.size)
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (FILMS, 1, options.size, options.size), dtype=np.uint8)
        session_options = onnxruntime.SessionOptions()
        session_options.intra_op_num_threads = options.threads
        rival = onnxruntime.InferenceSession(
            str(path), session_options, providers=["CPUExecutionProvider"]
        )
        print(f"ResNet18 fp32 at {options.size} px, {options.threads} threads, films/s")
        print("batch  OpenVINO  ONNX Runtime  ratio")
        for batch in (1, 8, 16):
            engine = CpuEngine(path, card, batch=batch, threads=options.threads)
            parts = [pixels[start : start + batch] for start in range(0, FILMS, batch)]

            def rival_round(parts: list = parts) -> None:
                for part in parts:
                    rival.run(None, {"image": part})

            ours: list[float] = []
            theirs: list[float] = []
            for _ in range(1 if options.quick else ROUNDS):
                best_rate(lambda engine=engine: openvino_round(engine, pixels), ours)
                best_rate(rival_round, theirs)
            engine.close()
            print(
                f"{batch:5d}  {max(ours):8.1f}  {max(theirs):12.1f}  {max(ours) / max(theirs):5.2f}"
            )


if __name__ == "__main__":
    main()
