"""Averaging: the moving average of a network's weights, steadier than the weights themselves."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from trainer.network import model


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
        # Both change in place, so that their tensors are found once; on a GPU each step is short.
        ours, theirs = _state(self.net), _state(net)
        floats = [name for name, value in theirs.items() if value.is_floating_point()]
        others = [name for name in theirs if name not in floats]
        self._floats = [ours[n] for n in floats], [theirs[n] for n in floats]
        self._others = [ours[n] for n in others], [theirs[n] for n in others]

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Move after `step` (from 0) of the whole run. Early on it moves fast: its first weights
        are nobody's."""
        if self.net is self._source:
            return
        keep = min(self._decay, (1 + step) / (10 + step))
        # What batch norms have counted of the films (mean and variance) is averaged too.
        torch._foreach_lerp_(*self._floats, 1 - keep)
        torch._foreach_copy_(*self._others)


def _state(net: nn.Module) -> dict[str, Tensor]:
    return {**dict(net.named_parameters()), **dict(net.named_buffers())}
