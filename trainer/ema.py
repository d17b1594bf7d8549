"""Ema: the moving average of a network's weights, which is steadier than the weights themselves."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from trainer import model


class Average:
    """A network that follows another: after each step it has moved a little towards it."""

    def __init__(self, net: model.ResNet18, decay: float) -> None:
        """`decay` is the share of itself that it keeps per step, 0 to below 1; 0: it is `net`."""
        if not 0 <= decay < 1:
            raise ValueError(f"ema is {decay:g}; give 0 (off) or a number below 1, like 0.998")
        self._decay = decay
        self._source = net
        #: The network that is validated and kept.
        self.net = copy.deepcopy(net) if decay else net

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Move after `step` (from 0) of the whole run. Early on it moves fast: its first weights
        are nobody's."""
        if self.net is self._source:
            return
        keep = min(self._decay, (1 + step) / (10 + step))
        ours, theirs = _state(self.net), _state(self._source)
        floats = [name for name, value in theirs.items() if value.is_floating_point()]
        # What batch norms have counted of the films (mean and variance) is averaged too.
        torch._foreach_lerp_([ours[n] for n in floats], [theirs[n] for n in floats], 1 - keep)
        for name in theirs.keys() - set(floats):
            ours[name].copy_(theirs[name])


def _state(net: nn.Module) -> dict[str, Tensor]:
    return {**dict(net.named_parameters()), **dict(net.named_buffers())}
