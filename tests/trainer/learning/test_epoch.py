from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from trainer.learning import epoch
from trainer.learning.epoch import Epoch


def run(
    val_loss: Sequence[float],
    *,
    auroc: Sequence[float] | None = None,
    shifted: Sequence[float] | None = None,
    train_loss: Sequence[float] | None = None,
    epochs: int = 0,
) -> list[Epoch]:
    """Epochs with these figures."""
    count = len(val_loss)
    return [
        Epoch(
            epoch=n + 1, epochs=epochs or count,
            train_loss=(train_loss or [1 - i / 10 for i in range(count)])[n],
            train_accuracy=0.9, train_auroc=0.9, val_loss=val_loss[n], val_accuracy=0.9,
            val_auroc=(auroc or [0.9] * count)[n],
            shift_auroc=None if shifted is None else shifted[n],
            lr=1e-3, seconds=1, films_per_s=1, best=False,
        )
        for n in range(count)
    ]  # fmt: skip


def test_the_best_epoch_has_the_highest_auroc_then_the_lowest_loss() -> None:
    assert epoch.best(run([0.3, 0.2, 0.1], auroc=[0.9, 0.95, 0.94])).epoch == 2  # type: ignore[union-attr]
    assert epoch.best(run([0.3, 0.2, 0.25])).epoch == 2  # type: ignore[union-attr]
    assert epoch.best(run([0.2, 0.2])).epoch == 1  # type: ignore[union-attr]
    assert epoch.best([]) is None


def test_the_best_epoch_is_the_one_whose_least_auroc_is_highest_films_dressed_included() -> None:
    history = run([0.3, 0.2, 0.1], auroc=[0.9, 0.95, 0.99], shifted=[0.8, 0.91, 0.85])
    assert epoch.best(history).epoch == 2  # type: ignore[union-attr]
    history = run([0.3, 0.2, 0.1], auroc=[0.9, 0.95, 0.89], shifted=[0.99, 0.97, 0.98])
    assert epoch.best(history).epoch == 2  # type: ignore[union-attr]


def test_the_epoch_that_a_run_kept_is_named_where_only_its_mark_is_known() -> None:
    first, second = run([0.2, 0.3], auroc=[0.99, 0.98])
    said = epoch.verdict([first, dataclasses.replace(second, best=True)])
    assert "epoch 2 is kept (validation AUROC 0.9800)" in said


def test_a_run_is_tired_after_so_many_epochs_without_a_better_one() -> None:
    falling = run([0.3, 0.2, 0.25, 0.26])
    assert epoch.tired(falling, 2)
    assert not epoch.tired(falling, 3)
    assert not epoch.tired(falling, 0), "0 is never"
    assert not epoch.tired([], 1)


def test_a_validation_loss_that_rises_while_the_training_loss_falls_is_overfitting() -> None:
    said = epoch.verdict(run([0.3, 0.2, 0.22, 0.31]))
    assert said.startswith(
        "overfitting after epoch 2: the validation loss rose from 0.2000 to 0.3100 while the "
        "training loss fell from 0.9000 to 0.7000; 4 epochs; epoch 2 is kept"
    )


def test_losses_that_fall_together_or_rise_together_are_no_overfitting() -> None:
    for history in (
        run([0.3, 0.2, 0.1]),
        run([0.3, 0.2, 0.205]),
        run([0.3, 0.2, 0.4]),
        run([0.2, 0.3, 0.4], train_loss=[1, 0.9, 1.2]),
    ):
        assert epoch.verdict(history).startswith("no sign of overfitting: 3 epochs; epoch ")


def test_the_verdict_says_when_a_run_ended_early_and_when_there_is_nothing_to_say() -> None:
    assert "ended early, after 3 of 9 epochs" in epoch.verdict(run([0.3, 0.2, 0.2], epochs=9))
    assert "one epoch says nothing" in epoch.verdict(run([0.3]))
    assert epoch.verdict([]) == "no epoch was finished"
