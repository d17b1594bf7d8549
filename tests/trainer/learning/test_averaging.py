from __future__ import annotations

import pytest
import torch

from trainer.learning import averaging
from trainer.network import model


@pytest.fixture
def net() -> model.ResNet18:
    return model.build(2, model.SCRATCH, 0)[0]


def test_the_average_moves_by_its_decay_from_every_weight_and_every_mean(
    net: model.ResNet18,
) -> None:
    average = averaging.Average(net, 0.5)
    before = {k: v.clone() for k, v in average.net.state_dict().items()}
    with torch.no_grad():
        for name, value in net.state_dict().items():
            value.add_(3 if name.endswith("num_batches_tracked") else 1)
    average.follow(1_000_000)
    for name, value in average.net.state_dict().items():
        expected = before[name] + (3 if name.endswith("num_batches_tracked") else 0.5)
        assert torch.allclose(value, expected), name


def test_the_first_steps_count_more_than_the_weights_before_them(net: model.ResNet18) -> None:
    average = averaging.Average(net, 0.998)
    with torch.no_grad():
        net.fc.bias.fill_(1.0)
    before = average.net.fc.bias.clone()
    average.follow(0)
    assert torch.allclose(average.net.fc.bias, 0.1 * before + 0.9)


def test_without_a_decay_the_network_itself_is_kept(net: model.ResNet18) -> None:
    average = averaging.Average(net, 0.0)
    average.follow(0)
    assert average.net is net
