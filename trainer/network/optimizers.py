"""Optimizers: torch's own, without what they import for `torch.compile`, which is not used here.

Making an optimizer, or one step of it, imports `torch._dynamo`, and that takes longer than training
takes to start. The methods that do so are taken without their wrappers (`inspect.unwrap`), which
change nothing of what they compute.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch.optim import Optimizer


class _Bare(Optimizer):
    add_param_group: Any = inspect.unwrap(Optimizer.add_param_group)
    load_state_dict: Any = inspect.unwrap(Optimizer.load_state_dict)
    state_dict: Any = inspect.unwrap(Optimizer.state_dict)
    zero_grad: Any = inspect.unwrap(Optimizer.zero_grad)


class AdamW(_Bare, torch.optim.AdamW):
    """`torch.optim.AdamW`."""

    step: Any = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


class LBFGS(_Bare, torch.optim.LBFGS):
    """`torch.optim.LBFGS`."""
