"""Fixtures of the tests that need a GPU: what the machine has, a small model in each precision.

Everything in this folder is marked `gpu`: it is skipped, with the reason, where there is none.
`make test-gpu` runs it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.trainer import samples as drawn
from tests.worker import samples
from trainer import card as cards
from trainer import folded
from trainer.data import dataset
from trainer.learning import loop
from trainer.modelfile import export, quantise
from worker.engine import Outputs, flavour, observe, open_engine
from worker.engine.tensorrt import TensorRtEngine
from worker.errors import EngineError, GpuLost, OutOfMemory
from worker.machine import gpu as gpus
from worker.machine.gpu import Gpu

#: Films of one batch in these tests.
BATCH = 8

Open = Callable[..., TensorRtEngine]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Also called for the items of other folders, which stay as they are."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            item.add_marker(pytest.mark.timeout(1200))  # building takes minutes on a small board


@pytest.fixture(scope="session")
def gpu() -> Gpu:
    """The first GPU."""
    return gpus.find()[0]


@pytest.fixture(scope="session")
def cuda() -> Any:
    """PyCUDA's driver module."""
    if importlib.util.find_spec("pycuda") is None:
        pytest.skip("PyCUDA is not installed")
    import pycuda.driver

    return pycuda.driver


@pytest.fixture(scope="session")
def model_files(
    tmp_path_factory: pytest.TempPathFactory, films: NDArray[np.uint8]
) -> dict[str, Path]:
    """A model of two classes at 64 pixels, its file in each precision.

    It was trained, on the processor: what random weights decide hangs on the last digit.
    """
    folder = tmp_path_factory.mktemp("models")
    drawn.fill(folder / "films", patients=60)
    options = replace(drawn.OPTIONS, epochs=5, size=samples.SIZE)
    data = dataset.read(folder / "films", val_fraction=0.25)
    trained = loop.train(options, data, folder / "run", device=torch.device("cpu"))
    path = folder / "fp32.onnx"
    export.export(trained, path)
    network = folded.Network(path)
    seen = observe.sample(network, films[:64], threads=2)
    quantise.int8(network, seen, folder / "int8.onnx")
    quantise.fp16(network, folder / "fp16.onnx")
    return {name: folder / f"{name}.onnx" for name in ("fp32", "fp16", "int8")}


@pytest.fixture(scope="session")
def films() -> NDArray[np.uint8]:
    """`uint8 [256, 1, S, S]`, another film each, every other one ill."""
    return samples.pixels([drawn.film(90_000 + n, sick=n % 2 == 1) for n in range(256)])


@pytest.fixture(scope="session")
def on_cpu(model_files: dict[str, Path], films: NDArray[np.uint8]) -> dict[str, Outputs]:
    """What the processor says of all films, by the precision of the file."""
    found = {}
    for precision, path in model_files.items():
        engine = open_engine(path, batch=len(films), threads=2, precision=precision)
        found[precision] = engine.submit(films).result()
        engine.close()
    return found


@pytest.fixture(scope="session")
def engines_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose plans all tests share, so that each is built once."""
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(scope="session")
def tensorrt(gpu: Gpu, cuda: Any, model_files: dict[str, Path], engines_home: Path) -> str:
    """TensorRT's name here: `tensorrt`, or `tensorrt_rtx` where it runs on this GPU."""
    found = flavour.available()
    if found is None:
        pytest.skip("TensorRT is not installed")
    name, version = found
    try:
        open_trt(gpu, model_files["fp32"], engines_home).close()
    except (GpuLost, OutOfMemory):
        raise
    except EngineError as refusal:
        # RTX cards are what it is for; what it says of others is what there is to know.
        if name == "tensorrt_rtx":
            pytest.skip(f"TensorRT-RTX {version} does not run on {gpu.device}: {refusal}")
        raise
    return name


def open_trt(gpu: Gpu, path: Path, home: Path, **options: Any) -> TensorRtEngine:
    """Open a model file's engine."""
    card = cards.read(path)
    given: dict[str, Any] = {"batch": BATCH, "precision": card.precision, "workspace_mb": 512}
    return TensorRtEngine(path, card, gpu=gpu, home=home, **{**given, **options})


@pytest.fixture
def opened(
    tensorrt: str, gpu: Gpu, model_files: dict[str, Path], engines_home: Path
) -> Iterator[Open]:
    """Opens TensorRT engines, of the fp32 file unless told otherwise, and closes them."""
    made: list[TensorRtEngine] = []

    def open_one(precision: str = "fp32", home: Path = engines_home, **more: Any) -> TensorRtEngine:
        made.append(open_trt(gpu, model_files[precision], home, **more))
        return made[-1]

    yield open_one
    for engine in reversed(made):
        engine.close()
