from __future__ import annotations

import numpy as np
import pytest
import torch

from trainer.data import cache
from trainer.network import device, feed
from trainer.network.feed import Feed

CPU = torch.device("cpu")


@pytest.fixture
def films() -> cache.Pixels:
    planes = np.random.default_rng(0).integers(0, 256, (300, 8, 8), np.uint8)
    planes.setflags(write=False)  # as a file's
    return cache.Pixels(planes=planes, row={}, size=8, rule="luma-1")


@pytest.mark.parametrize("resident", [False, True])
def test_batches_are_the_films_in_their_order_however_they_get_there(
    films: cache.Pixels, resident: bool
) -> None:
    rows = np.random.default_rng(1).permutation(300)[:70].astype(np.int64)
    one = Feed(films, CPU, resident=resident)
    assert one.resident is resident
    found = list(one.batches(rows, 32))
    assert [len(x) for x in found] == [32, 32, 6]
    assert all(x.shape[1:] == (1, 8, 8) and x.dtype == torch.uint8 for x in found)
    assert np.array_equal(torch.cat(found).numpy()[:, 0], films.planes[rows])


def test_no_films_are_no_batches(films: cache.Pixels) -> None:
    none = np.zeros(0, np.int64)
    assert list(Feed(films, CPU).batches(none, 4)) == []


def test_a_processor_keeps_films_in_their_file(films: cache.Pixels) -> None:
    one = feed.open(films, CPU, batch=4)
    assert not one.resident
    assert one.description == ""


def test_films_that_do_not_fit_after_all_are_copied_batch_by_batch(
    films: cache.Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> torch.Tensor:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "empty", full)
    one = Feed(films, CPU, resident=True)
    assert not one.resident
    assert len(next(one.batches(np.arange(4), 4))) == 4


def test_what_a_processor_sends_to_itself_is_not_copied() -> None:
    tensor = torch.zeros(3)
    assert device.send(tensor, CPU) is tensor
