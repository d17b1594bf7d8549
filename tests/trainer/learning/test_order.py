from __future__ import annotations

import numpy as np
import pytest

from trainer.learning import order

LABELS = np.array([0] * 7 + [1] * 25)


@pytest.mark.parametrize("balance", ["weights", "none"])
def test_an_epoch_sees_each_film_once_at_most_in_whole_batches(balance: str) -> None:
    seen = order.order(LABELS, batch=5, balance=balance, seed=0, epoch=1)
    assert len(seen) == len(set(seen)) == 30


@pytest.mark.parametrize("batch", [4, 5])
def test_sampling_gives_each_batch_as_many_of_each_class(batch: int) -> None:
    seen = order.order(LABELS, batch=batch, balance="sampling", seed=0, epoch=1)
    for films in seen.reshape(-1, batch):
        assert abs(int(LABELS[films].sum()) - batch / 2) <= 0.5
    sick = seen[LABELS[seen] == 1]
    assert len(set(sick)) == len(sick), "none of a large class comes twice"
    counts = np.bincount(seen[LABELS[seen] == 0], minlength=7)
    assert counts.max() - counts.min() <= 1, "those of a small class come equally often"


@pytest.mark.parametrize("balance", order.BALANCES)
def test_the_order_follows_from_seed_and_epoch(balance: str) -> None:
    def draw(seed: int, epoch: int) -> list[int]:
        made = order.order(LABELS, batch=4, balance=balance, seed=seed, epoch=epoch)
        return [int(film) for film in made]

    assert draw(3, 2) == draw(3, 2)
    assert draw(3, 2) != draw(3, 1)
    assert draw(3, 2) != draw(4, 2)


def test_an_unknown_way_to_balance_is_named() -> None:
    with pytest.raises(ValueError, match="balance is 'equal'; give weights, sampling, none"):
        order.order(LABELS, batch=4, balance="equal", seed=0, epoch=1)
