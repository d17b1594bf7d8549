"""Ray Data's batch inference on the same ONNX file. Runs in a Python of its own that has Ray.

    PYTHON tests/bench/parts/ray_data.py LIST MODEL.onnx OUT.csv [--size 224]

LIST names a film a line. An actor per core reads and decodes films with Pillow's shortcut and
computes them with ONNX Runtime on one thread, so that nothing large is passed on. Prints JSON:
films per second from the first batch on.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import ray
from PIL import Image

BATCH = 32


class Scorer:
    """Turns paths into probabilities."""

    def __init__(self, model: str, size: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        self._size = size

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        pixels = np.stack([self._decode(path) for path in batch["path"]])
        (scores,) = self._session.run(["scores"], {"image": pixels[:, None]})
        count = len(pixels)
        return {
            "path": batch["path"],
            "probability": scores[:, 1],
            "at": np.full(count, time.time()),
        }

    def _decode(self, path: str) -> Any:
        size = (self._size, self._size)
        with Image.open(path) as image:
            image.draft("L", size)
            return np.asarray(image.convert("L").resize(size, Image.Resampling.BILINEAR))


def main() -> None:
    """Score the films."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("list", type=Path)
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, default=224)
    given = parser.parse_args()
    paths = given.list.read_text().splitlines()
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        ray.init(
            num_cpus=cores,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=folder,
        )
        films = ray.data.from_items(
            [{"path": path} for path in paths], override_num_blocks=max(1, len(paths) // BATCH)
        )
        scored = films.map_batches(
            Scorer,
            fn_constructor_args=(given.model, given.size),
            batch_size=BATCH,
            num_cpus=1,
            compute=ray.data.ActorPoolStrategy(size=cores),
        )
        rows = list(scored.iter_rows())
        ray.shutdown()
    with given.out.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "probability"])
        table.writerows((r["path"], int(r["probability"] >= 0.5), r["probability"]) for r in rows)
    times = np.array([row["at"] for row in rows])
    rate = (times > times.min()).sum() / (times.max() - times.min())
    print(json.dumps({"films_per_s": float(rate)}))


if __name__ == "__main__":
    main()
