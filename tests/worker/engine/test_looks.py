"""Looks are the same in every precision and engine, and the gate holds engines to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from tests.support.acquired import Films
from tests.trainer.modelfile import tensorrt
from tests.trainer.modelfile.test_fingerprint import learned
from tests.worker import samples
from trainer import card as cards
from trainer import folded
from trainer.acquisition.fingerprint import Fingerprint
from trainer.card import Card, Group
from trainer.film import rules
from trainer.modelfile import export, quantise
from worker.engine import FILE_OF, Engine, gate, observe, open_engine
from worker.engine.cpu import core, has_bf16
from worker.engine.onnx import OnnxEngine

KINDS = ("mark", "frame", "tone", "sharpness")

Made = tuple[dict[str, Path], Fingerprint, Films]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A small model's files by precision, its fingerprint, and films; nobody may change them."""
    folder = tmp_path_factory.mktemp("looks")
    fingerprint, films = learned(samples.SIZE, KINDS)
    card = Card(
        labels=("NORMAL", "PNEUMONIA"), positive="PNEUMONIA", size=samples.SIZE,
        film_rule=rules.DEFAULT_RULE, golden=(), temperature=1.0, threshold=0.5,
        threshold_rule="half",
        looks=tuple(
            Group(what=f"a {kind}", label="NORMAL", films={"NORMAL": 30}, patients=30,
                  found=part.found, false=part.false)
            for kind, part in zip(KINDS, fingerprint.parts, strict=True)
        ),
    )  # fmt: skip
    net = samples.network(2, seed=1)
    with torch.no_grad():
        net.train()(torch.from_numpy(films[:32, None]))
    files = {name: folder / f"{name}.onnx" for name in ("fp32", "fp16", "int8")}
    export.write(files["fp32"], net.state_dict(), card, learned=fingerprint)
    network = folded.Network(files["fp32"])
    quantise.fp16(network, files["fp16"])
    quantise.int8(network, observe.sample(network, films[:8, None], threads=1), files["int8"])
    return files, fingerprint, films[::7]


@pytest.fixture
def opened() -> Iterator[Callable[..., Engine]]:
    """Opens engines, of OpenVINO unless told otherwise, and closes them."""
    engines: list[Engine] = []

    def open_one(path: Path, precision: str, *, ort: bool = False) -> Engine:
        if precision == "bf16" and not has_bf16(core()):
            pytest.skip("this processor has no bfloat16 instructions")
        if ort:
            card = cards.read(path)
            engine: Engine = OnnxEngine(path, card, gpu=None, batch=4, precision=precision)
        else:
            engine = open_engine(path, batch=4, threads=1, precision=precision)
        engines.append(engine)
        return engine

    yield open_one
    for engine in engines:
        engine.close()


@pytest.mark.parametrize(
    ("precision", "ort"),
    [("fp32", False), ("bf16", False), ("fp16", False), ("int8", False), ("fp32", True),
     ("fp16", True), ("int8", True)],
)  # fmt: skip
def test_looks_are_computed_in_float_in_every_precision(
    made: Made, opened: Callable[..., Engine], precision: str, ort: bool
) -> None:
    files, fingerprint, films = made
    engine = opened(files[FILE_OF[precision]], precision, ort=ort)
    found = gate.answers(engine, films[:, None])
    assert found.look is not None
    expected = fingerprint(films)
    assert (expected >= cards.LOOK_LIMIT).any(axis=0).all()
    assert np.abs(found.look - expected).max() < 1e-3
    assert found.scores.shape == (len(films), 2)


def changed(path: Path, to: Path, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Path:
    """A copy of a model file with another picture of its mark."""
    proto = onnx.load(str(path))
    for initializer in proto.graph.initializer:
        if initializer.name == "look.0.pictures":
            array = change(numpy_helper.to_array(initializer))
            initializer.CopyFrom(numpy_helper.from_array(array, initializer.name))
    onnx.save(proto, str(to))
    return to


def test_an_engine_that_sees_other_looks_fails_the_gate(
    made: Made, opened: Callable[..., Engine], tmp_path: Path
) -> None:
    path = made[0]["fp32"]
    card = cards.read(path)
    reference = opened(path, "fp32")
    films = gate.golden(card)
    right = gate.check(opened(path, "fp32", ort=True), reference, films)
    assert right.passed, right.text
    other = changed(path, tmp_path / "other.onnx", lambda picture: np.float32(0.8) * picture)
    wrong = gate.check(opened(other, "fp32"), reference, films)
    assert not wrong.passed
    assert wrong.text.startswith("looks differ by up to ")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_tensorrt_builds_a_model_with_looks(made: Made, precision: str) -> None:
    files, _, _ = made
    tensorrt.check_builds(files[precision])
