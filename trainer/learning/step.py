"""Step: one batch of films changes the weights a little.

On a GPU nothing in it waits for the device, so that the next step is prepared while this one is
computed; the loss stays there until somebody asks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.network import device as devices
from trainer.network import model

_Function: TypeAlias = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]

#: Steps that are launched kernel by kernel before a graph is captured: libraries choose their
#: kernels and take their memory in the first ones.
_BEFORE_GRAPH = 3

#: Scale of the loss below which fp16 is at its end: it begins at 65536 and is halved at each step
#: whose gradients are not finite.
LEAST_SCALE = 1.0


class Step:
    """How weights are changed: forwards, backwards, and the optimizer's move."""

    def __init__(
        self,
        net: model.ResNet18,
        optimizer: torch.optim.Optimizer,
        *,
        device: torch.device,
        precision: str,
        weight: Tensor,
        label_smoothing: float,
        graphs: bool = False,
    ) -> None:
        """`weight` `[C]` is what a film of each class counts, on `device`.

        `graphs` has CUDA repeat all kernels of a step at one call; every batch must be of the same
        shape then. Without a GPU it does nothing.
        """
        self._net = net
        self._optimizer = optimizer
        self._device = device
        self._precision = precision
        self._weight = weight
        self._label_smoothing = label_smoothing
        #: Keeps fp16's gradients from vanishing; elsewhere it does nothing.
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self._graph = _Graph() if graphs and device.type == "cuda" else None

    def __call__(self, x: Tensor, y: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Learn from films `[N, 1, S, S]`, 0 to 255, and their labels `int64 [N]`; each counts as
        much as `counts` `float32 [N]` says, beside the weight of its class.

        Returns the loss and the logits `float32 [N, C]`, both on the device and good until the
        next step.
        """
        if self._graph is None:
            loss, logits = self._gradients(x, y, counts)
        else:
            loss, logits = self._graph(self._gradients, x, y, counts)
        self.scaler.step(self._optimizer)
        self.scaler.update()
        return loss, logits

    @property
    def spent(self) -> bool:
        """Whether gradients were not finite so often that fp16 cannot go on; waits for the GPU."""
        return self.scaler.is_enabled() and self.scaler.get_scale() < LEAST_SCALE

    def _gradients(self, x: Tensor, y: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        with devices.autocast(self._device, self._precision):
            logits = self._net(x)
        each = F.cross_entropy(
            logits.float(), y, weight=self._weight, label_smoothing=self._label_smoothing,
            reduction="none",
        )  # fmt: skip
        loss = (counts * each).sum() / (counts * self._weight[y]).sum()
        self._optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch has no hint
        return loss.detach(), logits.detach()


class _Graph:
    """A function of three tensors, recorded once and repeated with others.

    What it leaves behind (its results, gradients) lies in the same memory each time.
    """

    def __init__(self) -> None:
        self._seen = 0
        self._side = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch has no hint
        self._recorded: torch.cuda.CUDAGraph | None = None
        self._given: tuple[Tensor, Tensor, Tensor]
        self._found: tuple[Tensor, Tensor]

    def __call__(
        self, function: _Function, x: Tensor, y: Tensor, counts: Tensor
    ) -> tuple[Tensor, Tensor]:
        if self._seen < _BEFORE_GRAPH:
            self._seen += 1
            main = torch.cuda.current_stream()
            self._side.wait_stream(main)
            with torch.cuda.stream(self._side):
                found = function(x, y, counts)
            main.wait_stream(self._side)
            return found
        if self._recorded is None:
            self._given = x.clone(), y.clone(), counts.clone()
            recorded = torch.cuda.CUDAGraph()
            with torch.cuda.graph(recorded):
                self._found = function(*self._given)
            self._recorded = recorded
        for ours, theirs in zip(self._given, (x, y, counts), strict=True):
            ours.copy_(theirs)
        self._recorded.replay()
        return self._found
