"""What training does to tensors on a GPU, on a machine without one.

PyTorch's fake tensors have a device and a shape and no values. An operation on tensors of two
devices is refused as on a real GPU, and so is any question about a value: a step that passes here
mixes no devices and waits for nothing, as far as operations tell.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from trainer.card import Card
from trainer.data import cache
from trainer.learning import averaging, loop, outputs
from trainer.learning.state import State
from trainer.learning.step import Step
from trainer.modelfile import export
from trainer.network import augment, device, model, ood
from trainer.network.feed import Feed

GPU = torch.device("cuda", 0)
SIZE, BATCH = 64, 8


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorMode]:
    """Tensors are fake and may say that they are on a GPU."""
    # The driver's part, which fake tensors have no fakes for.
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(
        augment, "_noise", lambda shape, dice, seed, where: torch.randn(shape, device=where)
    )
    # A network's copy looks for where its tensors lie, which is nowhere.
    monkeypatch.setattr(model.ResNet18, "__deepcopy__", lambda net, memo: network(), raising=False)
    monkeypatch.setattr(device, "looked_at", lambda where, size, most=BATCH: BATCH)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield mode


def network() -> model.ResNet18:
    with GPU:
        return model.ResNet18(2)


class Crossings(TorchDispatchMode):
    """Notes each operation whose tensors leave the GPU or come to it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        kinds = {t.device.type for t in torch.utils._pytree.tree_leaves((args, kwargs, found))
                 if isinstance(t, torch.Tensor) and t.dim() > 0}  # fmt: skip
        if len(kinds) > 1:
            self.seen.append(str(func))
        return found


def changes(mode: FakeTensorMode, step: int = 0) -> augment.Changes:
    """Drawn for real, brought to the GPU."""
    with torch._subclasses.fake_tensor.unset_fake_temporarily():
        drawn = augment.draw(
            BATCH, SIZE, seed=0, epoch=1, step=step, strength=1.0, device=torch.device("cpu")
        )
    return augment.Changes(
        numbers=drawn.numbers.to(GPU), resized=drawn.resized, noise=drawn.noise.to(GPU)
    )


def films(count: int = 3 * BATCH) -> cache.Pixels:
    planes = np.zeros((count, SIZE, SIZE), np.uint8)
    return cache.Pixels(planes=planes, row={}, size=SIZE, rule="luma-1")


def test_fake_tensors_tell_mixed_devices_and_questions(fake: FakeTensorMode) -> None:
    here, there = torch.ones(3), torch.ones(3, device=GPU)
    with pytest.raises(RuntimeError, match="same device"):
        here + there
    with pytest.raises(DataDependentOutputException):
        float(there.sum())
    with Crossings() as crossings:
        there.cpu()
    assert crossings.seen


def test_a_step_on_a_gpu_mixes_no_devices_and_asks_nothing(
    fake: FakeTensorMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = network()

    def backward(loss: torch.Tensor) -> None:
        # PyTorch's own way back needs a driver; what it leaves is this.
        assert loss.requires_grad
        for parameter in net.parameters():
            parameter.grad = torch.zeros_like(parameter)

    monkeypatch.setattr(torch.Tensor, "backward", backward)
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)
    average = averaging.Average(net, 0.998)
    learn = Step(
        net, optimizer, device=GPU, precision="fp32", weight=torch.ones(2, device=GPU),
        label_smoothing=0.05,
    )  # fmt: skip
    state = State(
        net=net, average=average, optimizer=optimizer, scaler=learn.scaler, history=[],
        outputs=torch.zeros(3 * BATCH, 2, device=GPU),
    )  # fmt: skip
    labels = torch.zeros(3 * BATCH, dtype=torch.int64, device=GPU)
    counts = torch.ones(BATCH, device=GPU)
    feed = Feed(films(), GPU, resident=True)
    assert feed.resident
    batches = feed.batches(np.arange(3 * BATCH), BATCH)
    drawn = [changes(fake, step) for step in range(3)]
    net.train()
    x = next(batches)
    with Crossings() as crossings:
        for step in range(3):
            x = augment.apply(x if step == 0 else next(batches), drawn[step])
            loss, logits = learn(x, labels[step * BATCH : (step + 1) * BATCH], counts)
            average.follow(step)
            state.note(loss, logits)
    assert crossings.seen == []
    assert x.device == loss.device == state.outputs.device == GPU
    moments = [v for s in optimizer.state.values() for v in s.values()]
    assert {v.device for v in moments} == {GPU}


def test_the_numbers_of_an_augmentation_reach_the_gpu_in_one_copy(fake: FakeTensorMode) -> None:
    kinds = {t.device for t in vars(changes(fake)).values() if isinstance(t, torch.Tensor)}
    assert kinds == {GPU}
    with Crossings() as crossings:
        augment.apply(torch.zeros((BATCH, 1, SIZE, SIZE), dtype=torch.uint8, device=GPU),
                      changes(fake))  # fmt: skip
    assert len(crossings.seen) == 2  # the numbers, and in this test the noise


def test_what_a_network_on_a_gpu_says_of_films_ends_up_on_the_processor(
    fake: FakeTensorMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = network()
    rows = np.arange(2 * BATCH + 3)
    for feed in (None, Feed(films(), GPU, resident=True)):
        monkeypatch.setattr(Feed, "_streamed", copied)
        with Crossings() as crossings:
            reading = outputs.predict(net, films(), rows, feed=feed)
        assert reading.logits.shape == (len(rows), 2)
        assert reading.logits.device.type == reading.pooled.device.type == "cpu"
    assert len(crossings.seen) == 3  # which films, and both answers; not one per batch


def copied(feed: Feed, rows: Any, batch: int) -> Iterator[torch.Tensor]:
    """`Feed._streamed` without its streams and events, which need a driver."""
    for start in range(0, len(rows), batch):
        yield torch.from_numpy(feed._films.take(rows[start : start + batch])).to(GPU)


def numbers(tensor: torch.Tensor) -> NDArray[Any]:
    """`Tensor.numpy`, which refuses a GPU's tensor, for one that has no values."""
    if tensor.device.type != "cpu":
        raise TypeError(f"can't convert {tensor.device} device type tensor to numpy")
    return np.zeros(tuple(tensor.shape), np.float32)


def test_a_network_on_a_gpu_is_observed_calibrated_and_written(
    fake: FakeTensorMode, trained: loop.Trained, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.Tensor, "numpy", numbers)
    net = network()
    found = ood.observe(net, np.zeros((BATCH + 3, SIZE, SIZE), np.uint8), batch=BATCH)
    assert [len(x) for x in found] == [BATCH + 3] * len(ood.CELLS)
    one = dataclasses.replace(trained, net=net)
    card = Card(
        labels=("NORMAL", "PNEUMONIA"), positive="PNEUMONIA", size=SIZE, film_rule="luma-1",
        golden=(), temperature=1.5, threshold=0.5, threshold_rule="half",
        provenance={"bias": [0.1, -0.1]},
    )  # fmt: skip
    scores = export.reference_scores(one, card, np.zeros((3, SIZE, SIZE), np.uint8))
    assert scores.shape == (3, 2)
    export.write(tmp_path / "model.onnx", export._calibrated(one, card).state_dict(), card)
    assert (tmp_path / "model.onnx").is_file()
