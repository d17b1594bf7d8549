from __future__ import annotations

import dataclasses
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer import samples
from trainer import checkpoint, dataset, loop
from trainer.errors import CheckpointError, Stopped, TrainingFailed

OPTIONS = samples.OPTIONS


@pytest.fixture(scope="module")
def reference(data: dataset.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an undisturbed run with OPTIONS."""
    folder = tmp_path_factory.mktemp("reference")
    loop.train(OPTIONS, data, folder)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The last epoch's weights in a run's folder."""
    found: dict[str, torch.Tensor] = checkpoint.load(folder / loop.CHECKPOINT)["net"]
    return found


def train_one_epoch(data: dataset.Dataset, folder: Path) -> None:
    """Start a run in `folder` and stop it in its second epoch."""
    seen: list[object] = []
    with pytest.raises(Stopped, match="stopped in epoch 2 of 2"):
        loop.train(
            OPTIONS,
            data,
            folder,
            report=seen.append,
            stop=lambda: any(isinstance(news, loop.Epoch) for news in seen),
        )


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two sets of weights are the same to the last bit."""
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_network_learns_what_distinguishes_the_classes(trained: loop.Trained) -> None:
    assert trained.best.val_auroc > 0.9
    assert trained.epochs[-1].train_loss < trained.epochs[0].train_loss


def test_the_best_epochs_weights_are_returned(trained: loop.Trained) -> None:
    val = trained.dataset.of("val")
    logits = loop.predict(trained.net, trained.films, trained.films.rows(val)).logits
    labels = torch.tensor([film.label for film in val])
    assert loop._auroc(logits, labels, 1) == trained.best.val_auroc
    assert trained.best.val_auroc == max(epoch.val_auroc for epoch in trained.epochs)
    assert [e for e in trained.epochs if e.best][-1] == trained.best


def test_the_same_seed_gives_the_same_weights_to_the_last_bit(
    data: dataset.Dataset, reference: Path, tmp_path: Path
) -> None:
    torch.manual_seed(99)  # the caller's own randomness does not matter
    loop.train(OPTIONS, data, tmp_path)
    assert equal(weights(tmp_path), weights(reference))


def test_another_seed_gives_other_weights(
    data: dataset.Dataset, reference: Path, tmp_path: Path
) -> None:
    loop.train(dataclasses.replace(OPTIONS, seed=1), data, tmp_path)
    assert not equal(weights(tmp_path), weights(reference))


def test_a_stopped_run_goes_on_as_if_it_had_not_been_stopped(
    data: dataset.Dataset, reference: Path, tmp_path: Path
) -> None:
    train_one_epoch(data, tmp_path)
    heard: list[object] = []
    done = loop.train(OPTIONS, data, tmp_path, heard.append)
    assert "continuing after epoch 1 of 2" in heard
    assert equal(weights(tmp_path), weights(reference))
    assert [epoch.epoch for epoch in done.epochs] == [1, 2]


def test_a_run_goes_on_from_another_runs_folder_and_leaves_that_alone(
    data: dataset.Dataset, reference: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    train_one_epoch(data, first)
    before = (first / loop.CHECKPOINT).read_bytes()
    loop.train(dataclasses.replace(OPTIONS, resume_from=first), data, second)
    assert equal(weights(second), weights(reference))
    assert (first / loop.CHECKPOINT).read_bytes() == before


def test_a_finished_run_is_not_trained_again(
    data: dataset.Dataset, reference: Path, tmp_path: Path
) -> None:
    shutil.copytree(reference, tmp_path / "copy")
    heard: list[object] = []
    done = loop.train(OPTIONS, data, tmp_path / "copy", heard.append)
    assert not any(isinstance(news, loop.Epoch) for news in heard)
    assert len(done.epochs) == 2


@pytest.mark.parametrize(
    ("change", "named"), [({"lr": 1e-4}, "lr"), ({"epochs": 3}, "epochs"), ({"seed": 1}, "seed")]
)
def test_a_run_with_other_options_is_not_mixed_into_a_checkpoint(
    data: dataset.Dataset, reference: Path, change: dict[str, Any], named: str
) -> None:
    with pytest.raises(CheckpointError, match=f"another {named}; continue with the same"):
        loop.train(dataclasses.replace(OPTIONS, **change), data, reference)


def test_a_run_on_other_films_is_not_mixed_into_a_checkpoint(
    data: dataset.Dataset, reference: Path
) -> None:
    fewer = dataclasses.replace(data, films=data.films[:-1])
    with pytest.raises(CheckpointError, match="another dataset"):
        loop.train(OPTIONS, fewer, reference)


def test_a_damaged_checkpoint_is_named(data: dataset.Dataset, tmp_path: Path) -> None:
    (tmp_path / loop.CHECKPOINT).write_bytes(b"half a che")
    with pytest.raises(CheckpointError, match="damaged"):
        loop.train(OPTIONS, data, tmp_path)


def test_a_folder_to_continue_without_a_checkpoint_is_refused(
    data: dataset.Dataset, tmp_path: Path
) -> None:
    options = dataclasses.replace(OPTIONS, resume_from=tmp_path / "empty")
    with pytest.raises(CheckpointError, match="finished no epoch"):
        loop.train(options, data, tmp_path / "run")


def test_a_loss_that_is_no_number_ends_the_run_with_advice(
    data: dataset.Dataset, tmp_path: Path
) -> None:
    with pytest.raises(TrainingFailed, match="lower the learning rate"):
        loop.train(dataclasses.replace(OPTIONS, lr=1e30), data, tmp_path)


def test_every_epoch_is_reported_with_its_figures(data: dataset.Dataset, tmp_path: Path) -> None:
    heard: list[object] = []
    loop.train(OPTIONS, data, tmp_path, heard.append)
    assert list(data.notes) == heard[: len(data.notes)]
    epochs = [news for news in heard if isinstance(news, loop.Epoch)]
    assert [(e.epoch, e.epochs) for e in epochs] == [(1, 2), (2, 2)]
    for epoch in epochs:
        assert all(math.isfinite(value) for value in dataclasses.astuple(epoch))
        assert 0 <= epoch.train_auroc <= 1
        assert epoch.seconds > 0
    assert epochs[0].best


def test_mixed_precision_trains_on_a_processor_without_it_too(
    data: dataset.Dataset, tmp_path: Path
) -> None:
    done = loop.train(dataclasses.replace(OPTIONS, precision="bf16", epochs=1), data, tmp_path)
    assert done.precision == "bf16"
    assert done.net.conv1.weight.dtype == torch.float32
    with pytest.raises(ValueError, match="give auto, fp32 or bf16"):
        loop.train(dataclasses.replace(OPTIONS, precision="int4"), data, tmp_path / "other")


def test_pytorchs_settings_are_put_back(data: dataset.Dataset, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    loop.train(dataclasses.replace(OPTIONS, epochs=1, threads=before + 1), data, tmp_path)
    assert torch.get_num_threads() == before


def test_the_learning_rate_rises_then_falls_to_almost_nothing() -> None:
    rates = [loop._schedule(step, 200) for step in range(200)]
    top = rates.index(max(rates))
    assert max(rates) == 1
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] == pytest.approx(loop.COOL)
    assert all(0 < loop._schedule(step, steps) <= 1 for steps in (1, 2, 3) for step in range(steps))
