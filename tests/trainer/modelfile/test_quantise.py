"""The fp16 and int8 files: what is in them, what engines say of them, and which take them."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]  # ships no hints
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from tests.trainer.modelfile import tensorrt
from trainer import card as cards
from trainer.errors import QuantiseError
from trainer.folded import Network
from trainer.learning import loop
from trainer.modelfile import export, quantise
from trainer.modelfile.quantise import Sample
from worker.engine import observe


@pytest.fixture(scope="module")
def fp32(exported: tuple[Path, cards.Card], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "fp32.onnx"
    shutil.copyfile(exported[0], path)
    return path


@pytest.fixture(scope="module")
def sample(fp32: Path, trained: loop.Trained) -> Sample:
    rows = trained.films.rows(trained.dataset.of("train"))
    return observe.sample(Network(fp32), trained.films.take(rows), threads=1)


@pytest.fixture(scope="module")
def files(fp32: Path, sample: Sample) -> dict[str, Path]:
    """The model in every precision."""
    made = {name: fp32.with_name(f"{name}.onnx") for name in ("fp32", "fp16", "int8")}
    quantise.fp16(Network(fp32), made["fp16"])
    quantise.int8(Network(fp32), sample, made["int8"])
    return made


@pytest.fixture(scope="module")
def films(trained: loop.Trained) -> NDArray[np.uint8]:
    """Validation films `[24, 1, S, S]`."""
    return trained.films.take(trained.films.rows(trained.dataset.of("val")))


def by_onnxruntime(path: Path, films: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {cards.INPUT: films}), strict=True))


def constants(path: Path) -> dict[str, NDArray[Any]]:
    return {i.name: numpy_helper.to_array(i) for i in onnx.load(str(path)).graph.initializer}


@pytest.mark.parametrize(("precision", "delta"), [("fp16", 0.005), ("int8", 0.02)])
def test_a_file_says_nearly_what_the_fp32_file_says(
    files: dict[str, Path], films: NDArray[np.uint8], precision: str, delta: float
) -> None:
    expected = by_onnxruntime(files["fp32"], films)
    found = by_onnxruntime(files[precision], films)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].dtype == np.float32
        assert found[name].shape == values.shape
    assert np.abs(found[cards.SCORES] - expected[cards.SCORES]).max() < delta
    # Place by place, at the borders too.
    scale = np.abs(expected[cards.CAM]).max()
    assert np.abs(found[cards.CAM] - expected[cards.CAM]).max() < 5 * delta * scale
    # 72 films leave the distance directions that no film moves in, and rounding does.
    assert found[cards.OOD] == pytest.approx(expected[cards.OOD], rel=10 * delta)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_card_is_the_fp32_files_but_for_the_precision(
    files: dict[str, Path], precision: str
) -> None:
    before, after = cards.read(files["fp32"]), cards.read(files[precision])
    assert after.precision == precision
    provenance = {**before.provenance, "calibration_films": 72} if precision == "int8" else None
    expected = dataclasses.replace(
        before, precision=precision, provenance=provenance or before.provenance
    )
    assert after.to_json() == expected.to_json()


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_file_is_what_the_oldest_supported_tensorrt_parses(
    files: dict[str, Path], precision: str
) -> None:
    proto = onnx.load(str(files[precision]))
    onnx.checker.check_model(proto, full_check=True)
    assert (proto.ir_version, proto.opset_import[0].version) == (8, 17)
    assert proto.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"


def test_int8_is_written_as_tensorrt_takes_it(files: dict[str, Path]) -> None:
    graph = onnx.load(str(files["int8"])).graph
    held = constants(files["int8"])
    coders = [n for n in graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(coders) > 50
    for node in coders:
        scale, zero = held[node.input[1]], held[node.input[2]]
        assert zero.dtype == np.int8
        assert not zero.any()
        assert scale.dtype == np.float32
        assert (scale > 0).all()
        weights = held.get(node.input[0])
        if weights is None:
            assert scale.shape == ()
        else:
            assert weights.dtype == np.int8
            assert weights.min() >= -127
            assert scale.shape == (len(weights),)
            assert node.attribute[0].i == 0  # the axis
    convolutions = [n for n in graph.node if n.op_type == "Conv"]
    made_by = {node.output[0]: node.op_type for node in graph.node}
    in_float = [
        n.name for n in convolutions
        if [made_by.get(i) for i in n.input[:2]] != ["DequantizeLinear"] * 2
    ]  # fmt: skip
    assert in_float == ["maps"]
    assert all(held[n.input[2]].dtype == np.float32 for n in convolutions if len(n.input) > 2)


def test_half_precision_is_in_the_trunk_and_not_in_the_head(files: dict[str, Path]) -> None:
    held = constants(files["fp16"])
    half = {name for name, value in held.items() if value.dtype == np.float16}
    assert half == {
        f"{node.name}.{part}"
        for node in Network(files["fp32"]).convolutions
        for part in ("weight", "bias")
    }
    assert files["fp16"].stat().st_size < 0.6 * files["fp32"].stat().st_size


def test_equal_films_give_equal_bytes(
    files: dict[str, Path], trained: loop.Trained, tmp_path: Path
) -> None:
    network = Network(files["fp32"])
    rows = trained.films.rows(trained.dataset.of("train"))
    again = observe.sample(network, trained.films.take(rows), threads=1)
    quantise.int8(network, again, tmp_path / "int8.onnx")
    quantise.fp16(network, tmp_path / "fp16.onnx")
    for name in ("int8", "fp16"):
        assert (tmp_path / f"{name}.onnx").read_bytes() == files[name].read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fp16.onnx", "int8.onnx"]


def test_a_side_that_32_does_not_divide_is_quantised_too(
    trained: loop.Trained, fp32: Path, tmp_path: Path
) -> None:
    odd = dataclasses.replace(cards.read(fp32), size=50)
    export.write(tmp_path / "fp32.onnx", trained.net.state_dict(), odd)
    network = Network(tmp_path / "fp32.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (8, 1, 50, 50), dtype=np.uint8)
    quantise.int8(network, observe.sample(network, pixels, threads=1), tmp_path / "int8.onnx")
    said, expected = (
        by_onnxruntime(tmp_path / f"{name}.onnx", pixels) for name in ("int8", "fp32")
    )
    assert said.keys() == {cards.SCORES, cards.CAM}
    assert np.abs(said[cards.SCORES] - expected[cards.SCORES]).max() < 0.05


def test_only_an_fp32_file_of_ours_is_quantised(files: dict[str, Path], tmp_path: Path) -> None:
    proto = onnx.load(str(files["fp32"]))
    for node in proto.graph.node:
        node.name = ""
    onnx.save(proto, str(tmp_path / "other.onnx"))
    for path in (files["int8"], files["fp16"], tmp_path / "other.onnx"):
        with pytest.raises(QuantiseError, match=f"{path.name} is not an fp32 file that PneumoQ"):
            Network(path)


def test_weights_are_rounded_to_what_the_films_need() -> None:
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(16, 40))
    # Inputs that move together, as neighbouring places do, and never fall below 0.
    values = np.abs(rng.normal(size=(2000, 5)) @ rng.normal(size=(5, 40))).astype(np.float32)
    codes, scale, shift = quantise._round(kernel, values, values)
    plain = np.clip(np.rint(kernel / scale[:, None]), -127, 127)
    exact = values @ kernel.T
    error = values @ (codes * scale[:, None]).T + shift - exact
    naive = values @ (plain * scale[:, None]).T - exact
    assert np.abs(error.mean(axis=0)).max() < 1e-4
    assert np.square(error).mean() < np.square(naive).mean() / 4


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_tensorrt_builds_the_file(files: dict[str, Path], precision: str) -> None:
    tensorrt.check_builds(files[precision])
