from __future__ import annotations

import dataclasses
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support import once
from tests.support.broken.disk import fill, small_disk
from tests.trainer import samples
from trainer import checkpoint
from trainer.data import dataset
from trainer.errors import CheckpointError, Stopped, TrainingFailed
from trainer.judging import crossfit
from trainer.learning import loop, outputs, state

#: Smaller still: what is asked here is what becomes of runs, not how good they are.
OPTIONS = dataclasses.replace(samples.OPTIONS, size=32)

pytestmark = pytest.mark.usefixtures("narrow")


@pytest.fixture
def reference(data: dataset.Dataset, narrow: None) -> Path:
    """Folder of an undisturbed run with OPTIONS; nobody may change it."""
    return once.made("reference-of-loop", lambda folder: loop.train(OPTIONS, data, folder))


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
    logits = outputs.predict(trained.net, trained.films, trained.films.rows(val)).logits
    labels = torch.tensor([film.label for film in val])
    assert loop._measured(logits, labels, 1)["auroc"] == trained.best.val_auroc
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


def test_a_run_of_an_older_release_goes_on_without_defences(
    data: dataset.Dataset, tmp_path: Path
) -> None:
    """Its checkpoint says nothing of them, and its optimizer took several passes."""
    began = dataclasses.replace(OPTIONS, defend=False)
    seen: list[object] = []
    with pytest.raises(Stopped):
        loop.train(began, data, tmp_path, seen.append, stop=lambda: any(
            isinstance(news, loop.Epoch) for news in seen))  # fmt: skip
    path = tmp_path / loop.CHECKPOINT
    values = checkpoint.load(path)
    del values["run"]["defend"]
    for group in values["optimizer"]["param_groups"]:
        group["fused"] = None
    checkpoint.save(path, values)

    with pytest.raises(CheckpointError, match="was made with another defend"):
        loop.train(OPTIONS, data, tmp_path)
    done = loop.train(began, data, tmp_path)
    assert [epoch.epoch for epoch in done.epochs] == [1, 2]
    groups = checkpoint.load(path)["optimizer"]["param_groups"]
    assert {group["fused"] for group in groups} == {True}


def test_a_run_goes_on_without_the_films_that_it_began_without(tmp_path: Path) -> None:
    root = tmp_path / "labelled"
    samples.fill(root, patients=8)
    data = dataset.read(root)
    film = root / data.of("train")[0].path
    film.rename(tmp_path / "away")
    train_one_epoch(data, tmp_path / "run")
    (tmp_path / "away").rename(film)
    heard: list[object] = []
    done = loop.train(OPTIONS, data, tmp_path / "run", heard.append)
    assert "continuing after epoch 1 of 2" in heard
    assert [file.path for file in done.dataset.left_out] == [data.of("train")[0].path]
    fresh = loop.train(dataclasses.replace(OPTIONS, epochs=1), data, tmp_path / "next")
    assert not fresh.dataset.left_out


def test_a_run_stopped_at_any_step_goes_on_there_as_if_it_had_not_been_stopped(
    data: dataset.Dataset, reference: Path, tmp_path: Path
) -> None:
    heard: list[object] = []
    films = reference / "films"  # so that the question is asked at steps only
    for steps in (3, 4, 1, 8, 0):
        asked = [True] + [False] * steps
        with pytest.raises(Stopped):
            loop.train(OPTIONS, data, tmp_path, heard.append, asked.pop, films)
    loop.train(OPTIONS, data, tmp_path, heard.append, cache=films)
    assert "continuing after epoch 0 of 2, at step 4 of the next" in heard
    assert equal(weights(tmp_path), weights(reference))
    ours, theirs = (checkpoint.load(f / loop.CHECKPOINT) for f in (tmp_path, reference))
    assert equal(ours["average"], theirs["average"])
    for mine, other in zip(ours["held_out"], theirs["held_out"], strict=True):
        assert torch.equal(mine, other)
    assert len(ours["held_out"]) == 2
    for mine, other in zip(ours["history"], theirs["history"], strict=True):
        for name in ("train_loss", "train_metrics", "val_loss", "val_metrics"):
            assert mine[name] == other[name]


def test_what_each_epoch_said_of_the_validation_films_is_kept_where_all_epochs_did(
    data: dataset.Dataset, reference: Path, tmp_path: Path
) -> None:
    shutil.copytree(reference, tmp_path / "run")
    path = tmp_path / "run" / loop.CHECKPOINT
    whole = loop.train(OPTIONS, data, tmp_path / "run")
    val = whole.dataset.of("val")
    labels = np.array([film.label for film in val])
    # As they are, and in a counter-shift.
    assert [logits.shape[:2] for logits in whole.held_out] == [(2, len(val))] * 2
    # The same merit as of the run's own choice.
    assert whole.epochs[crossfit.best_by(whole.held_out, labels, 1)] == whole.best
    for logits, one in zip(whole.held_out, whole.epochs, strict=True):
        assert (
            loop._measured(torch.tensor(logits[0]), torch.tensor(labels), 1, val) == one.val_metrics
        )
    # A checkpoint of before has nothing of the kind.
    values = checkpoint.load(path)
    del values["held_out"]
    checkpoint.save(path, values)
    assert loop.train(OPTIONS, data, tmp_path / "run").held_out == ()


def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(
    data: dataset.Dataset, reference: Path, tmp_path: Path
) -> None:
    train_one_epoch(data, tmp_path)
    newest = tmp_path / loop.CHECKPOINT
    newest.write_bytes(newest.read_bytes()[:100_000])
    heard: list[Any] = []
    loop.train(OPTIONS, data, tmp_path, heard.append)
    assert any("going on from the checkpoint before it" in str(news) for news in heard)
    assert equal(weights(tmp_path), weights(reference))


def test_a_checkpoint_that_was_lost_between_two_names_is_found(
    data: dataset.Dataset, reference: Path, tmp_path: Path
) -> None:
    train_one_epoch(data, tmp_path)
    (tmp_path / loop.CHECKPOINT).replace(tmp_path / state.PREVIOUS)
    heard: list[object] = []
    loop.train(OPTIONS, data, tmp_path, heard.append)
    assert "continuing after epoch 1 of 2" in heard
    assert equal(weights(tmp_path), weights(reference))


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
    with pytest.raises(CheckpointError, match=r"has no checkpoint.pth; start anew"):
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
        figures = dataclasses.asdict(epoch)
        for of in ("train_metrics", "val_metrics"):
            measured = figures.pop(of)
            assert {"auprc_low", "sensitivity", "ece", "true_positive"} <= set(measured)
            figures |= {f"{of} {name}": value for name, value in measured.items()}
        assert all(math.isfinite(value) for value in figures.values())
        assert 0 <= epoch.train_auroc <= 1
        assert epoch.seconds > 0
    assert epochs[0].best


def test_mixed_precision_trains_on_a_processor_without_it_too(
    data: dataset.Dataset, tmp_path: Path
) -> None:
    done = loop.train(dataclasses.replace(OPTIONS, precision="bf16", epochs=1), data, tmp_path)
    assert done.precision == "bf16"
    assert done.net.conv1.weight.dtype == torch.float32
    with pytest.raises(ValueError, match="give auto, fp32, bf16 or fp16"):
        loop.train(dataclasses.replace(OPTIONS, precision="int4"), data, tmp_path / "other")


def test_a_run_ends_early_when_validation_gets_no_better(
    data: dataset.Dataset, tmp_path: Path
) -> None:
    options = dataclasses.replace(OPTIONS, epochs=30, lr=1e-9, ema=0, patience=2)
    done = loop.train(options, data, tmp_path)
    assert len(done.epochs) == done.best.epoch + 2 < 30
    assert f"after {len(done.epochs)} of 30 epochs" in done.verdict
    heard: list[object] = []
    again = loop.train(options, data, tmp_path, heard.append)
    assert again.epochs == done.epochs, "a run that ended early goes on no further"
    assert again.verdict in heard


def test_without_averaging_the_weights_themselves_are_kept(
    data: dataset.Dataset, reference: Path, tmp_path: Path
) -> None:
    done = loop.train(dataclasses.replace(OPTIONS, ema=0), data, tmp_path)
    best = checkpoint.load(tmp_path / loop.BEST)["net"]
    assert equal(best, dict(done.net.state_dict()))
    assert equal(weights(tmp_path), weights(reference)), "the average changes no step"
    assert not equal(best, checkpoint.load(reference / loop.BEST)["net"])
    with pytest.raises(ValueError, match="a number below 1"):
        loop.train(dataclasses.replace(OPTIONS, ema=1), data, tmp_path / "other")


@pytest.mark.parametrize("balance", ["sampling", "none"])
def test_each_way_to_balance_classes_trains(
    data: dataset.Dataset, tmp_path: Path, balance: str
) -> None:
    done = loop.train(dataclasses.replace(OPTIONS, balance=balance), data, tmp_path)
    assert done.best.val_auroc > 0.5


def test_a_full_disk_ends_the_run_and_keeps_the_best_epoch(
    data: dataset.Dataset, tmp_path: Path
) -> None:
    # The films, and room for the best weights and one checkpoint besides.
    with small_disk(256) as disk:
        best: list[bytes] = []

        def fill_after_an_epoch(news: object) -> None:
            if isinstance(news, loop.Epoch):
                best.append((disk / loop.BEST).read_bytes())
                fill(disk)

        with pytest.raises(CheckpointError, match="No space left on device; make room there"):
            loop.train(OPTIONS, data, disk, fill_after_an_epoch, cache=tmp_path / "films")
        assert (disk / loop.BEST).read_bytes() == best[0]
        assert checkpoint.load(disk / loop.CHECKPOINT)["history"][0]["epoch"] == 1


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
