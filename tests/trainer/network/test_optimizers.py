"""Our optimizers are torch's to the last bit, and bring nothing with them."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from trainer.network import optimizers

_ALONE = """
import sys, torch
from trainer.network import optimizers
weights = torch.ones(3, requires_grad=True)
for make in (optimizers.AdamW, optimizers.LBFGS):
    optimizer = make([weights])
    def loss():
        optimizer.zero_grad()
        found = weights.square().sum()
        found.backward()
        return found
    optimizer.step(loss)
    optimizer.load_state_dict(optimizer.state_dict())
print("torch._dynamo" in sys.modules)
"""


def moved(make: Any, **options: Any) -> tuple[list[torch.Tensor], dict[str, Any]]:
    """Weights after some steps of a small network, and the optimizer's state."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    x, y = torch.randn(32, 5), torch.randint(0, 2, (32,))
    optimizer = make(net.parameters(), **options)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        found = F.cross_entropy(net(x), y)
        found.backward()  # type: ignore[no-untyped-call]  # torch has no hint
        return found

    for _ in range(7):
        optimizer.step(loss)
    return [p.detach() for p in net.parameters()], optimizer.state_dict()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("AdamW", {"lr": 1e-2, "weight_decay": 0.1}),
        ("AdamW", {"lr": 1e-2, "weight_decay": 0.1, "fused": True}),
        ("LBFGS", {"max_iter": 5, "line_search_fn": "strong_wolfe"}),
    ],
)
def test_weights_move_as_torchs_optimizer_moves_them(name: str, options: dict[str, Any]) -> None:
    ours, our_state = moved(getattr(optimizers, name), **options)
    theirs, their_state = moved(getattr(torch.optim, name), **options)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert our_state["param_groups"] == their_state["param_groups"]
    assert our_state["state"].keys() == their_state["state"].keys()


def test_torchs_compiler_is_not_imported() -> None:
    said = subprocess.run(
        [sys.executable, "-c", _ALONE], capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == "False"
