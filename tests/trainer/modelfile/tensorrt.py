"""TensorRT-RTX, which builds without a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer import card as cards


def check_builds(path: Path) -> None:
    """TensorRT makes an engine of a model file, with the outputs of ours."""
    trt = pytest.importorskip(
        "tensorrt_rtx", reason="needs TensorRT-RTX, which builds without a GPU"
    )
    card = cards.read(path)
    size = card.size
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    flag = trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    network = builder.create_network(1 << int(flag))
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    parsed = parser.parse_from_file(str(path))
    assert parsed, [str(parser.get_error(i)) for i in range(parser.num_errors)]
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    profile.set_shape(cards.INPUT, *((n, 1, size, size) for n in (1, 8, 32)))
    assert config.add_optimization_profile(profile) >= 0
    assert builder.build_serialized_network(network, config) is not None
    outputs = {network.get_output(i).name for i in range(network.num_outputs)}
    optional = {cards.OOD: card.ood_threshold is not None, cards.LOOK: bool(card.looks)}
    assert outputs == {cards.SCORES, cards.CAM, *(name for name in optional if optional[name])}
