from __future__ import annotations

import copy

import pytest
import torch

from trainer.learning import averaging
from trainer.learning.state import State
from trainer.learning.step import Step
from trainer.network import model

pytestmark = pytest.mark.usefixtures("narrow")

CPU = torch.device("cpu")
LABELS = torch.tensor([0, 1, 0, 1])
COUNTS = torch.ones(4)


def make(
    precision: str = "fp32", *, fused: bool | None = None, scale: float = 64.0
) -> tuple[Step, State]:
    """A step and its state; `scale` is fp16's, low enough for a network that knows nothing."""
    net = model.build(2, model.SCRATCH, 0)[0].train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=fused)
    learn = Step(
        net, optimizer, device=CPU, precision=precision, weight=torch.ones(2), label_smoothing=0.05
    )
    state = State(
        net=net, average=averaging.Average(net, 0.9), optimizer=optimizer, scaler=learn.scaler,
        history=[], outputs=torch.zeros(12, 2),
    )  # fmt: skip
    if learn.scaler.is_enabled():
        learn.scaler.load_state_dict({**learn.scaler.state_dict(), "scale": scale})
    return learn, state


def films(seed: int = 0) -> torch.Tensor:
    return torch.rand((4, 1, 16, 16), generator=torch.Generator().manual_seed(seed)) * 255


def weights(state: State) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in state.net.state_dict().items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_losses_are_kept_until_somebody_asks_and_then_added_in_order() -> None:
    learn, state = make()
    expected = 0.0
    for seed in range(3):
        loss, logits = learn(films(seed), LABELS, COUNTS)
        state.note(loss, logits)
        expected += float(loss)
    assert state.losses == 0
    assert state.read() is None
    assert state.losses == expected
    assert state.read() is None
    assert (state.losses, state.step) == (expected, 3)
    assert torch.equal(state.outputs[8:], logits)


def test_the_step_whose_loss_is_no_number_is_named_however_late_it_is_read() -> None:
    _, state = make()
    for loss in (0.5, 0.25, float("nan"), float("inf")):
        state.note(torch.tensor(loss), torch.zeros(2, 2))
    found = state.read()
    assert found is not None
    assert found[0] == 2
    assert found[1] != found[1]
    state.begin(torch.zeros(12, 2))
    state.note(torch.tensor(0.5), torch.zeros(2, 2))
    assert state.read() is None
    state.note(torch.tensor(float("-inf")), torch.zeros(2, 2))
    assert state.read() == (1, float("-inf"))


def test_fp16_skips_a_step_whose_gradients_overflow_and_lowers_its_scale() -> None:
    learn, state = make("fp16")
    learn(films(), LABELS, COUNTS)
    scale, before = learn.scaler.get_scale(), weights(state)
    optimizer = state.optimizer
    moments = copy.deepcopy(optimizer.state_dict()["state"][0]["exp_avg"])
    state.net.fc.bias.register_hook(lambda gradient: gradient * float("inf"))
    learn(films(1), LABELS, COUNTS)
    after = weights(state)
    parameters = dict(state.net.named_parameters())
    assert all(torch.equal(before[name], after[name]) for name in parameters)
    assert torch.equal(moments, optimizer.state_dict()["state"][0]["exp_avg"])
    assert learn.scaler.get_scale() == scale / 2
    assert not learn.spent


def test_fp16_that_overflows_at_every_step_is_at_its_end() -> None:
    learn, state = make("fp16", scale=2.0)
    state.net.fc.bias.register_hook(lambda gradient: gradient * float("nan"))
    learn(films(), LABELS, COUNTS)
    assert not learn.spent
    learn(films(), LABELS, COUNTS)
    assert learn.spent


def test_fp16_goes_on_from_its_checkpoint_with_the_same_scale_to_the_last_bit() -> None:
    learn, state = make("fp16")
    learn(films(), LABELS, COUNTS)
    hook = state.net.fc.bias.register_hook(lambda gradient: gradient * float("inf"))
    learn(films(1), LABELS, COUNTS)  # the scale is another from here on
    hook.remove()
    values = copy.deepcopy(state.values())
    learn(films(2), LABELS, COUNTS)

    again, other = make("fp16")
    other.load(values)
    assert again.scaler.get_scale() == learn.scaler.get_scale() == 32
    again(films(2), LABELS, COUNTS)
    assert equal(weights(other), weights(state))


def test_a_checkpoint_of_one_device_goes_on_with_the_optimizer_of_another() -> None:
    for there, here in ((None, True), (True, None)):
        learn, state = make(fused=there)
        learn(films(), LABELS, COUNTS)
        again, other = make(fused=here)
        other.load(copy.deepcopy(state.values()))
        assert {group["fused"] for group in other.optimizer.param_groups} == {here}
        learn(films(1), LABELS, COUNTS)
        again(films(1), LABELS, COUNTS)
        for name, value in weights(state).items():
            assert torch.allclose(value.float(), other.net.state_dict()[name].float(), atol=1e-4)


def test_a_checkpoint_from_before_there_was_fp16_is_taken() -> None:
    learn, state = make()
    learn(films(), LABELS, COUNTS)
    values = copy.deepcopy(state.values())
    del values["scaler"]
    _, other = make()
    other.load(values)
    assert equal(weights(other), weights(state))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_weights_and_their_gradients_are_float32_in_every_precision(precision: str) -> None:
    learn, state = make(precision)
    _, logits = learn(films(), LABELS, COUNTS)
    assert logits.dtype == torch.float32
    assert {p.dtype for p in state.net.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in state.net.parameters() if p.grad is not None} == {torch.float32}


def test_a_film_that_counts_nothing_changes_no_weight_and_one_that_counts_half_half_as_much() -> (
    None
):
    def moved(counts: list[float], labels: torch.Tensor = LABELS) -> torch.Tensor:
        learn, state = make()
        net = state.net
        learn(films(), labels, torch.tensor(counts))
        assert net.fc.weight.grad is not None
        return net.fc.weight.grad * sum(counts)

    other = LABELS.clone()
    other[0] = 1 - other[0]
    # Batch norms see all films, so that only what is asked of the first one changes here.
    assert torch.equal(moved([0, 1, 1, 1]), moved([0, 1, 1, 1], other))
    whole, half, none = moved([1, 1, 1, 1]), moved([0.5, 1, 1, 1]), moved([0, 1, 1, 1])
    assert torch.allclose(whole - half, half - none, atol=1e-5)
    assert not torch.allclose(whole, none, atol=1e-3)
