"""Engines run a whole ResNet18 here: what they make of its numbers is what is tested."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.worker import samples
from tests.worker.whole import card as card
from tests.worker.whole import model_file as model_file
from trainer import folded
from trainer.modelfile import quantise
from worker.engine import observe


@pytest.fixture(scope="session")
def files(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`model_file` in each precision that has a file; nobody may change them."""
    folder = tmp_path_factory.mktemp("precisions")
    network = folded.Network(model_file)
    seen = samples.pixels([data for _, data in samples.films(8, seed=3)])
    quantise.int8(network, observe.sample(network, seen, threads=1), folder / "int8.onnx")
    quantise.fp16(network, folder / "fp16.onnx")
    return {"fp32": model_file, "fp16": folder / "fp16.onnx", "int8": folder / "int8.onnx"}
