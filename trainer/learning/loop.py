"""Loop: one training run, top to bottom, and what it reports on the way.

A run lives in a folder: `checkpoint.pth` about every minute, `best.pth` for the epoch that
validation likes best. Called again on the same folder it goes on where it was, in the middle of an
epoch too, and ends with the same weights as if it had never been interrupted (on the same
hardware): nothing random depends on the past.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from trainer.checking.fingerprints import Found
from trainer.data import cache as pixel_cache
from trainer.data import dataset, decoding
from trainer.data.decoding import Decoder
from trainer.data.labelled import Film
from trainer.errors import CheckpointError, Stopped, TrainingFailed
from trainer.judging import figures
from trainer.learning import averaging, defence, outputs, warm
from trainer.learning import epoch as epochs
from trainer.learning import order as orders
from trainer.learning.epoch import Epoch, Progress, Saved, Without
from trainer.learning.files import BEST, CHECKPOINT
from trainer.learning.options import INCIDENTAL, Options
from trainer.learning.state import Keeper, State, keep_left_out, without_left_out
from trainer.learning.step import Step
from trainer.network import augment, disguise, model, optimizers
from trainer.network import device as devices
from trainer.network import feed as feeds

__all__ = [
    "BEST", "CHECKPOINT", "Epoch", "Options", "Progress", "Saved", "Trained", "Without",
    "train",
]  # fmt: skip

#: Seconds between two Progress reports.
REPORT_EVERY_S = 1.0

#: Share of all steps in which the learning rate rises from 0, and what is left of it at the end.
WARM_UP = 0.05
COOL = 0.01


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The outcome of a run."""

    #: With the best epoch's weights, in evaluation mode.
    net: model.ResNet18
    #: The data set less the films that could not be decoded.
    dataset: dataset.Dataset
    #: Their pixels.
    films: pixel_cache.Pixels
    #: As asked for.
    options: Options
    #: Where the weights began.
    init: model.Init
    #: Oldest first.
    epochs: tuple[Epoch, ...]
    #: The epoch whose weights these are.
    best: Epoch
    #: Logits of the validation films after each epoch, `float32 [1 + K, N, C]`: as they are, and
    #: with those dressed that are, in each of K dressings; none where an epoch's are not known.
    held_out: tuple[NDArray[np.float32], ...] = ()
    #: Groups of one class among the training films; None where they were not looked for.
    found: Found | None = None
    #: Whether the run learned its films by heart, in a sentence for a person.
    verdict: str
    #: `cpu`, or the GPU's name.
    device: str
    #: `fp32`, `bf16` or `fp16`, as used.
    precision: str


Report = Callable[[Epoch | Progress | Saved | Without | str], None]


def train(
    options: Options,
    data: dataset.Dataset,
    folder: Path,
    report: Report = lambda news: None,
    stop: Callable[[], bool] = lambda: False,
    cache: Path | None = None,
    device: torch.device | None = None,
    decoder: Decoder | None = None,
) -> Trained:
    """Train on `data` in `folder`, or go on there; decoded films are kept in `cache`.

    `device` is where; None: the GPU if there is one. `decoder` is what decodes; None: threads of
    this process.

    `report` gets sentences, a Without where films are left out, a Progress about every second, a
    Saved per checkpoint and an Epoch per epoch; `stop` is asked at each step. Raises Stopped when
    it is true, with a checkpoint written, TrainingFailed, CheckpointError, and what reading films
    and weights raises.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data, films = pixel_cache.decode(
        without_left_out(data, folder, options.resume_from),
        cache or folder / "films",
        size=options.size,
        rule=options.film_rule,
        decoder=decoder or decoding.threads(options.workers),
        report=report,
        stop=stop,
    )
    keep_left_out(folder, data)
    for note in data.notes:
        report(note)
    if data.doubt:
        report(data.doubt)
    if data.left_out:
        report(Without(files=data.left_out))

    device = devices.pick() if device is None else device
    precision = devices.precision(options.precision, device)
    train_films, val_films = data.of(dataset.TRAIN), data.of(dataset.VAL)
    train_rows, val_rows = films.rows(train_films), films.rows(val_films)
    net, init = _network(options, data, films, train_rows, device, report, stop)
    # One pass changes all weights; on a GPU it is one kernel, which also skips fp16's infinite
    # gradients by itself.
    optimizer = optimizers.AdamW(_groups(net, options.weight_decay), lr=options.lr, fused=True)
    average = averaging.Average(net, options.ema)
    train_labels = torch.tensor([f.label for f in train_films])
    val_labels = torch.tensor([f.label for f in val_films])
    batch = min(options.batch_size, len(train_rows))
    steps = len(train_rows) // batch
    defended = defence.none(len(train_rows))
    if options.defend:
        defended = defence.prepare(data, films, options.seed, stop)
        if defended.note:
            report(defended.note)
    learn = Step(
        net,
        optimizer,
        device=device,
        precision=precision,
        weight=_class_weights(train_labels, len(data.labels), options.balance).to(device),
        label_smoothing=options.label_smoothing,
        graphs=options.graphs,
    )
    state = State(
        net=net,
        average=average,
        optimizer=optimizer,
        scaler=learn.scaler,
        history=[],
        outputs=torch.empty(0),
    )
    keeper = Keeper(folder, _run(options, data, init))
    if keeper.restore(state, options.resume_from, report):
        report(_continued(state, options))
    elif options.resume_from is not None:
        raise CheckpointError(f"{options.resume_from} has no {CHECKPOINT}; start anew")
    history = state.history
    positive = data.positive_index
    # A processor is done with a step when it returns. A GPU has only begun, and is let run ahead.
    ahead = device.type == "cuda"
    feed = feeds.open(films, device, batch=batch)
    report(f"training on {devices.described(device)} in {precision}{feed.description}")

    with devices.settings(options.threads):
        while len(history) < options.epochs and not epochs.tired(history, options.patience):
            epoch = len(history) + 1
            order = orders.order(
                train_labels.numpy(),
                batch=batch,
                balance=options.balance,
                seed=options.seed,
                epoch=epoch,
            )
            labels = devices.send(train_labels[order], device)
            counts = devices.send(defended.counts[order], device)
            began = reported = time.monotonic()
            if state.step == 0:
                state.begin(torch.zeros(steps * batch, len(data.labels), device=device))
            before_s, first = state.seconds, state.step
            batches = feed.batches(train_rows[order[first * batch :]], batch)
            net.train()
            for step in range(first, steps):
                state.seconds = before_s + time.monotonic() - began
                if (stopping := stop()) or keeper.due:
                    _read(state, learn, options)
                    keeper.save(state)
                    report(Saved(epoch=epoch, step=step))
                if stopping:
                    raise Stopped(
                        f"stopped in epoch {epoch} of {options.epochs}; {folder} can be continued"
                    )
                asked = time.monotonic()
                x = next(batches)
                state.waited += time.monotonic() - asked
                part = order[step * batch : (step + 1) * batch]
                if options.defend:
                    x = disguise.disguise(
                        x, defended.known[part], [defended.boxes[n] for n in part],
                        seed=options.seed, epoch=epoch, step=step, strength=options.augment,
                    )  # fmt: skip
                x = augment.augment(
                    x, seed=options.seed, epoch=epoch, step=step, strength=options.augment
                )
                overall = (epoch - 1) * steps + step
                lr = options.lr * _schedule(overall, options.epochs * steps)
                for group in optimizer.param_groups:
                    group["lr"] = lr
                loss, logits = learn(
                    x,
                    labels[step * batch : (step + 1) * batch],
                    counts[step * batch : (step + 1) * batch],
                )
                average.follow(overall)
                state.note(loss, logits)

                due = time.monotonic() - reported > REPORT_EVERY_S
                if due or not ahead:
                    _read(state, learn, options)
                if due:
                    reported = time.monotonic()
                    report(
                        Progress(
                            epoch=epoch,
                            epochs=options.epochs,
                            films_done=(step + 1) * batch,
                            films_total=steps * batch,
                            films_per_s=(step + 1 - first) * batch / (reported - began),
                            loss=state.losses / (step + 1),
                        )
                    )
            _read(state, learn, options)
            trained_s = state.seconds = before_s + time.monotonic() - began

            try:
                val = outputs.predict(
                    average.net, films, val_rows, feed=feed, precision=precision, stop=stop
                ).logits
                acquired = outputs.acquired(average.net, val, defended.dressed(), precision, stop)
            except Stopped:
                keeper.save(state)
                raise
            shifted = [_measured(one, val_labels, positive) for one in acquired[1:]]
            seen_logits, truth = state.outputs.cpu(), train_labels[order]
            news = Epoch(
                epoch=epoch,
                epochs=options.epochs,
                train_loss=state.losses / steps,
                train_accuracy=_accuracy(seen_logits, truth),
                train_metrics=(seen := _measured(seen_logits, truth, positive)),
                train_auroc=seen.get("auroc", math.nan),
                val_loss=float(F.cross_entropy(val, val_labels)),
                val_accuracy=_accuracy(val, val_labels),
                val_metrics=(held_out := _measured(val, val_labels, positive, val_films)),
                val_auroc=held_out.get("auroc", math.nan),
                shift_auroc=min((one["auroc"] for one in shifted), default=None),
                lr=options.lr * _schedule(epoch * steps - 1, options.epochs * steps),
                seconds=before_s + time.monotonic() - began,
                films_per_s=steps * batch / trained_s,
                waiting=state.waited / trained_s,
                best=False,
            )
            chosen = epochs.best([*history, news])
            news = dataclasses.replace(news, best=chosen is news)
            history.append(news)
            state.held_out.append(acquired)
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
        held_out=_of_all(state),
        found=defended.found,
        verdict=verdict,
        device=devices.name(device),
        precision=precision,
    )


def _network(
    options: Options,
    data: dataset.Dataset,
    films: pixel_cache.Pixels,
    train_rows: NDArray[np.int64],
    device: torch.device,
    report: Report,
    stop: Callable[[], bool],
) -> tuple[model.ResNet18, model.Init]:
    """The network on its device, with its initial weights."""
    start = Path(options.init)
    if start.suffix != warm.SUFFIX:
        net, init = model.build(len(data.labels), options.init, options.seed)
        net.to(device).to(memory_format=torch.channels_last)
        return net, init
    net, init, note = warm.build(data.labels, start, options.seed)
    report(note)
    net.to(device).to(memory_format=torch.channels_last)
    # Also where the run goes on from a checkpoint: what that holds takes its place.
    with devices.settings(options.threads):
        warm.fit_norms(
            net, films, train_rows,
            strength=options.augment, seed=options.seed, batch=options.batch_size, stop=stop,
        )  # fmt: skip
    return net, init


def _read(state: State, learn: Step, options: Options) -> None:
    """Wait for the device; raises TrainingFailed where a step since the last time went wrong."""
    wrong = state.read()
    advice = f"lower the learning rate (it is {options.lr:g}), or train with precision fp32"
    epoch = len(state.history) + 1
    if wrong is not None:
        step, loss = wrong
        raise TrainingFailed(f"the loss is {loss} at step {step + 1} of epoch {epoch}; {advice}")
    if learn.spent:
        raise TrainingFailed(
            f"gradients overflow fp16 again and again, up to step {state.step} of epoch {epoch}; "
            f"{advice}"
        )


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
        key: value for key, value in dataclasses.asdict(options).items() if key not in INCIDENTAL
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


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(1) == labels).float().mean())


def _of_all(state: State) -> tuple[NDArray[np.float32], ...]:
    """`Trained.held_out`; none where one is missing."""
    known = len(state.held_out) == len(state.history)
    return tuple(logits.numpy() for logits in state.held_out) if known else ()


def _measured(
    logits: Tensor, labels: Tensor, positive: int, films: Sequence[Film] | None = None
) -> dict[str, float]:
    """At a half; intervals are by patient where the films are given."""
    score = torch.softmax(logits.double(), dim=1)[:, positive].numpy()
    patients = None if films is None else [film.patient for film in films]
    return figures.summary(score, (labels == positive).numpy(), 0.5, patients)
