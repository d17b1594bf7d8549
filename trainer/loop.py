"""Loop: one training run, top to bottom, and what it reports on the way.

A run lives in a folder: `checkpoint.pth` about every minute, `best.pth` for the epoch that
validation likes best. Called again on the same folder it goes on where it was, in the middle of an
epoch too, and ends with the same weights as if it had never been interrupted (on the same
hardware): nothing random depends on the past.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from trainer import augment, dataset, ema, film, metrics, model, pixels
from trainer import epoch as epochs
from trainer import order as orders
from trainer.epoch import Epoch, Progress, Saved
from trainer.errors import CheckpointError, Stopped, TrainingFailed
from trainer.state import BEST, CHECKPOINT, Keeper, State

__all__ = [
    "BEST", "CHECKPOINT", "Epoch", "Options", "Progress", "Saved", "Trained", "predict",
    "settings", "train",
]  # fmt: skip

#: Seconds between two Progress reports.
REPORT_EVERY_S = 1.0

#: Share of all steps in which the learning rate rises from 0, and what is left of it at the end.
WARM_UP = 0.05
COOL = 0.01


@dataclass(frozen=True, kw_only=True)
class Options:
    """Everything that a run may be told."""

    #: Passes over the training films, 1 or more. From ImageNet weights a few are enough.
    epochs: int = 5
    #: Films per step. At 32 a CPU is as fast as it gets, and a 4 GB board still holds it at 224
    #: pixels.
    batch_size: int = 32
    #: AdamW's highest learning rate, above 0. From scratch 1e-3 is better.
    lr: float = 3e-4
    #: AdamW's decay, of convolutions and the classifier only; 0 or more.
    weight_decay: float = 0.05
    #: Share of each label spread over all classes, 0 to 1. Films near the border are labelled by
    #: opinion, and a network that is never quite sure calibrates better.
    label_smoothing: float = 0.05
    #: Share of itself that the moving average of the weights keeps at each step, 0 to below 1; the
    #: average is what is validated and kept. 0: the weights themselves.
    ema: float = 0.998
    #: How classes of unequal size are made to count the same: weights, sampling or none.
    balance: str = orders.WEIGHTS
    #: Epochs without a better validation after which the run ends early; 0: never.
    patience: int = 5
    #: How far films are changed at random, 0 (not) to 1: see `trainer.augment`. From random weights
    #: on few films 0.5 learns sooner.
    augment: float = 1.0
    #: S: films are S × S pixels. 224 is what ImageNet's weights have seen.
    size: int = 224
    #: `imagenet`, `scratch`, or a file of torchvision's ResNet18 weights.
    init: str = model.IMAGENET
    #: Everything random follows from it, 0 to 2**32 - 1.
    seed: int = 0
    #: For `dataset.read`: share of each class that is held out, by patient; above 0, to 0.5.
    val_fraction: float = 0.12
    #: Threads that decode films, once per data set.
    workers: int = 2
    #: Threads that compute; 0 leaves PyTorch's own number.
    threads: int = 0
    #: `fp32`, `bf16` (mixed: weights stay fp32), or `auto`: bf16 where the hardware has it, twice
    #: as fast.
    precision: str = "auto"
    #: Rule that makes the pixels.
    film_rule: str = film.DEFAULT_RULE
    #: Folder of an earlier run to continue, used when this run's own has no checkpoint yet.
    resume_from: Path | None = None


#: Options that do not change what is learned: a run may be continued with others.
_INCIDENTAL = ("workers", "threads", "resume_from")


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The outcome of a run."""

    #: With the best epoch's weights, in evaluation mode.
    net: model.ResNet18
    #: The data set less the films that could not be decoded.
    dataset: dataset.Dataset
    #: Their pixels.
    films: pixels.Pixels
    #: As asked for.
    options: Options
    #: Where the weights began.
    init: model.Init
    #: Oldest first.
    epochs: tuple[Epoch, ...]
    #: The epoch whose weights these are.
    best: Epoch
    #: Whether the run learned its films by heart, in a sentence for a person.
    verdict: str
    #: `cpu`, or the GPU's name.
    device: str
    #: `fp32` or `bf16`, as used.
    precision: str


Report = Callable[[Epoch | Progress | Saved | str], None]


def train(
    options: Options,
    data: dataset.Dataset,
    folder: Path,
    report: Report = lambda news: None,
    stop: Callable[[], bool] = lambda: False,
    cache: Path | None = None,
) -> Trained:
    """Train on `data` in `folder`, or go on there; decoded films are kept in `cache`.

    `report` hears sentences, a Progress about every second, a Saved per checkpoint and an Epoch per
    epoch; `stop` is asked at each step. Raises Stopped when it says so, with a checkpoint written,
    TrainingFailed, CheckpointError, and what reading films and weights raises.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data, films = pixels.decode(
        data,
        cache or folder / "films",
        size=options.size,
        rule=options.film_rule,
        workers=options.workers,
        report=report,
        stop=stop,
    )
    for note in data.notes:
        report(note)
    for file in data.left_out:
        report(f"left out: {file.path} ({file.code}: {file.reason})")

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bf16 = _bf16(options.precision, device)
    net, init = model.build(len(data.labels), options.init, options.seed)
    net.to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(_groups(net, options.weight_decay), lr=options.lr)
    average = ema.Average(net, options.ema)
    state = State(
        net=net,
        average=average,
        optimizer=optimizer,
        history=[],
        outputs=torch.empty(0),
    )
    keeper = Keeper(folder, _run(options, data, init))
    if keeper.restore(state, options.resume_from, report):
        report(_continued(state, options))
    elif options.resume_from is not None:
        raise CheckpointError(f"{options.resume_from} has no {CHECKPOINT}; start anew")
    history = state.history

    train_films, val_films = data.of(dataset.TRAIN), data.of(dataset.VAL)
    train_rows, val_rows = films.rows(train_films), films.rows(val_films)
    train_labels = torch.tensor([f.label for f in train_films])
    val_labels = torch.tensor([f.label for f in val_films])
    weight = _class_weights(train_labels, len(data.labels), options.balance).to(device)
    positive = data.positive_index
    batch = min(options.batch_size, len(train_rows))
    steps = len(train_rows) // batch

    with settings(options.threads):
        while len(history) < options.epochs and not epochs.tired(history, options.patience):
            epoch = len(history) + 1
            order = orders.order(
                train_labels.numpy(),
                batch=batch,
                balance=options.balance,
                seed=options.seed,
                epoch=epoch,
            )
            began = heard = time.monotonic()
            if state.step == 0:
                state.begin(torch.zeros(steps * batch, len(data.labels)))
            before_s, first = state.seconds, state.step
            net.train()
            for step in range(first, steps):
                state.seconds = before_s + time.monotonic() - began
                if (stopping := stop()) or keeper.due:
                    keeper.save(state)
                    report(Saved(epoch=epoch, step=step))
                if stopping:
                    raise Stopped(
                        f"stopped in epoch {epoch} of {options.epochs}; {folder} can be continued"
                    )
                picked = order[step * batch : (step + 1) * batch]
                asked = time.monotonic()
                x = torch.from_numpy(films.take(train_rows[picked])).to(device)
                state.waited += time.monotonic() - asked
                y = train_labels[picked].to(device)
                x = augment.augment(
                    x, seed=options.seed, epoch=epoch, step=step, strength=options.augment
                )
                with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                    logits = net(x)
                loss = F.cross_entropy(
                    logits, y, weight=weight, label_smoothing=options.label_smoothing
                )
                value = float(loss.detach())
                if not math.isfinite(value):
                    raise TrainingFailed(
                        f"the loss is {value} at step {step + 1} of epoch {epoch}; lower the "
                        f"learning rate (it is {options.lr:g}), or train with precision fp32"
                    )
                overall = (epoch - 1) * steps + step
                lr = options.lr * _schedule(overall, options.epochs * steps)
                for group in optimizer.param_groups:
                    group["lr"] = lr
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]  # torch has no hint for it
                optimizer.step()
                average.follow(overall)

                state.step = step + 1
                state.losses += value
                state.outputs[step * batch : state.step * batch] = logits.detach().float().cpu()
                clock = time.monotonic()
                if clock - heard > REPORT_EVERY_S:
                    heard = clock
                    report(
                        Progress(
                            epoch=epoch,
                            epochs=options.epochs,
                            films_done=(step + 1) * batch,
                            films_total=steps * batch,
                            films_per_s=(step + 1 - first) * batch / (clock - began),
                            loss=state.losses / (step + 1),
                        )
                    )
            trained_s = state.seconds = before_s + time.monotonic() - began

            try:
                val = predict(average.net, films, val_rows, bf16=bf16, stop=stop).logits
            except Stopped:
                keeper.save(state)
                raise
            news = Epoch(
                epoch=epoch,
                epochs=options.epochs,
                train_loss=state.losses / steps,
                train_accuracy=_accuracy(state.outputs, train_labels[order]),
                train_metrics=(seen := _measured(state.outputs, train_labels[order], positive)),
                train_auroc=seen.get("auroc", math.nan),
                val_loss=float(F.cross_entropy(val, val_labels)),
                val_accuracy=_accuracy(val, val_labels),
                val_metrics=(held_out := _measured(val, val_labels, positive)),
                val_auroc=held_out.get("auroc", math.nan),
                lr=options.lr * _schedule(epoch * steps - 1, options.epochs * steps),
                seconds=before_s + time.monotonic() - began,
                films_per_s=steps * batch / trained_s,
                waiting=state.waited / trained_s,
                best=False,
            )
            chosen = epochs.best([*history, news])
            news = dataclasses.replace(news, best=chosen is news)
            history.append(news)
            # The best weights first: a crash in between repeats this epoch and writes them again.
            if news.best:
                keeper.save_best(epoch, average.net)
            state.step = 0
            keeper.save(state)
            report(Saved(epoch=epoch + 1, step=0))
            report(news)

    best = epochs.best(history)
    if best is None:
        raise TrainingFailed(
            f"{options.epochs} epochs leave nothing to choose from; ask for at least 1"
        )
    report(verdict := epochs.verdict(history))
    net.load_state_dict(keeper.best())
    return Trained(
        net=net.eval(),
        dataset=data,
        films=films,
        options=options,
        init=init,
        epochs=tuple(history),
        best=best,
        verdict=verdict,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        precision="bf16" if bf16 else "fp32",
    )


@torch.no_grad()
def predict(
    net: model.ResNet18,
    films: pixels.Pixels,
    rows: NDArray[np.int64],
    *,
    view: int | None = None,
    strength: float = 1.0,
    bf16: bool = False,
    batch: int = 64,
    stop: Callable[[], bool] = lambda: False,
) -> model.Reading:
    """What the network says of these films, float32 on the CPU, without the maps.

    They are read as they are, or with `view` (0, 1, …) as another acquisition would have made them:
    changed as in training (see `augment` for `strength`), the same way each time.
    """
    device = next(net.parameters()).device
    net.eval()
    logits, pooled = [], []
    for start in range(0, len(rows), batch):
        if stop():
            raise Stopped("stopped during validation")
        x = torch.from_numpy(films.take(rows[start : start + batch])).to(device)
        if view is not None:
            # Training's epochs begin at 1.
            x = augment.augment(x, seed=view, epoch=0, step=start, strength=strength)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            reading = net.read(x)
        logits.append(reading.logits.float().cpu())
        pooled.append(reading.pooled.float().cpu())
    return model.Reading(torch.cat(logits), torch.empty(0), torch.cat(pooled))


def _continued(state: State, options: Options) -> str:
    """Where the run goes on, for a person."""
    within = f", at step {state.step + 1} of the next" if state.step else ""
    return f"continuing after epoch {len(state.history)} of {options.epochs}{within}"


def _class_weights(labels: Tensor, classes: int, balance: str) -> Tensor:
    """What a film of each class counts in the loss, float `[C]`."""
    if balance != orders.WEIGHTS:
        return torch.ones(classes)
    # A class is worth as much as any other, however rare: the archive's share of it will be
    # another.
    return len(labels) / (classes * torch.bincount(labels, minlength=classes))


def _run(options: Options, data: dataset.Dataset, init: model.Init) -> dict[str, Any]:
    """What must be equal for a run to be continued."""
    chosen = {
        key: value for key, value in dataclasses.asdict(options).items() if key not in _INCIDENTAL
    }
    # The same weights may lie elsewhere by now.
    return {**chosen, "init": init.sha256 or init.name, "dataset": data.hash}


def _schedule(step: int, steps: int) -> float:
    """Share of the learning rate at a step: a linear rise, then half a cosine."""
    rise = max(1, round(WARM_UP * steps))
    if step < rise:
        return (step + 1) / rise
    along = (step - rise) / max(1, steps - 1 - rise)
    return COOL + (1 - COOL) * (1 + math.cos(math.pi * along)) / 2


def _groups(net: model.ResNet18, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters to decay, and those that decay would only unsettle: norms and biases."""
    decayed = [p for p in net.parameters() if p.dim() > 1]
    others = [p for p in net.parameters() if p.dim() <= 1]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def _bf16(precision: str, device: torch.device) -> bool:
    """Whether to compute in bfloat16; raises ValueError for an unknown word."""
    if precision not in ("auto", "fp32", "bf16"):
        raise ValueError(f"precision is {precision!r}; give auto, fp32 or bf16")
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        # Emulated bfloat16 (before Ampere, so the older Jetsons) is slower than fp32.
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Private names of PyTorch, absent on other processors and perhaps in other versions.
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, lambda: False)()) for name in asked)


@contextlib.contextmanager
def settings(threads: int) -> Iterator[None]:
    """PyTorch's global settings for a run, put back afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        # Without the search for the fastest kernel two runs on one GPU take the same one.
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            yield
    finally:
        torch.set_num_threads(before)


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(1) == labels).float().mean())


def _measured(logits: Tensor, labels: Tensor, positive: int) -> dict[str, float]:
    score = torch.softmax(logits.double(), dim=1)[:, positive].numpy()
    return metrics.summary(score, (labels == positive).numpy(), 0.5)
