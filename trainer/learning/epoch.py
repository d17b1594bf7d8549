"""Epoch: what one pass over the films came to, and what a run of them says. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from trainer.data.labelled import LeftOut

#: A validation loss by this share above its lowest in each of the last RISEN_EPOCHS is no chance.
RISE = 0.05
RISEN_EPOCHS = 2


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far the current epoch is."""

    #: From 1.
    epoch: int
    #: Asked for.
    epochs: int
    #: In this epoch, so far.
    films_done: int
    #: In this epoch.
    films_total: int
    #: Since the epoch began, or was continued.
    films_per_s: float
    #: Mean of the epoch so far, as optimised.
    loss: float


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A checkpoint was written: a run that ends now goes on from here."""

    #: Epoch in which it was, from 1; one above the epochs asked for at the very end.
    epoch: int
    #: Steps of that epoch done.
    step: int


@dataclass(frozen=True, kw_only=True)
class Without:
    """The run does without these files."""

    files: tuple[LeftOut, ...]


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What one pass over the films came to.

    Training figures are of augmented films, on the fly, by the weights as they were at each step;
    validation figures are of the averaged weights, which are kept.
    """

    #: From 1.
    epoch: int
    #: Asked for.
    epochs: int
    #: Mean over steps, as optimised: weighted and smoothed. In nats, 0 or more.
    train_loss: float
    #: Share whose likeliest class is right, 0 to 1.
    train_accuracy: float
    #: Of P(positive) against the rest, 0 to 1; NaN without both.
    train_auroc: float
    #: Mean negative log-likelihood in nats, neither weighted nor smoothed; 0 or more.
    val_loss: float
    #: Share whose likeliest class is right, 0 to 1.
    val_accuracy: float
    #: Of P(positive) against the rest, 0 to 1; NaN without both.
    val_auroc: float
    #: Least AUROC where validation films are dressed as groups of one class look, or as the other
    #: class was mostly acquired, 0 to 1; None where none are.
    shift_auroc: float | None = None
    #: `figures.summary` at 0.5, before calibration, by name.
    train_metrics: dict[str, float] = field(default_factory=dict)
    #: The same of validation.
    val_metrics: dict[str, float] = field(default_factory=dict)
    #: Learning rate at the last step, above 0.
    lr: float
    #: Training and validation together, interruptions left out.
    seconds: float
    #: Training alone.
    films_per_s: float
    #: Share of its time in which training waited for films, 0 to 1.
    waiting: float = 0.0
    #: Whether no earlier epoch did better on validation.
    best: bool


def merit(epoch: Epoch) -> tuple[float, float]:
    """Greater is better: the least AUROC on validation, as it is and dressed, then likelihood."""
    least = (
        epoch.val_auroc if epoch.shift_auroc is None else min(epoch.val_auroc, epoch.shift_auroc)
    )
    return least, -epoch.val_loss


def best(history: Sequence[Epoch]) -> Epoch | None:
    """The epoch that validation likes best: of equals the first."""
    return max(history, key=merit, default=None)


def tired(history: Sequence[Epoch], patience: int) -> bool:
    """Whether the last `patience` epochs brought nothing better; never where that is 0."""
    chosen = best(history)
    return chosen is not None and 0 < patience <= history[-1].epoch - chosen.epoch


def verdict(history: Sequence[Epoch]) -> str:
    """Whether the run learned its films by heart, in a sentence for a person."""
    # What is read from a database lacks what the dressed films said: the run's own choice counts.
    chosen = next((one for one in reversed(history) if one.best), best(history))
    if chosen is None:
        return "no epoch was finished"
    last = history[-1]
    ended = (
        f"{len(history)} epochs"
        if last.epoch == last.epochs
        else f"ended early, after {len(history)} of {last.epochs} epochs"
    )
    kept = f"epoch {chosen.epoch} is kept (validation AUROC {chosen.val_auroc:.4f})"
    if len(history) < 2:
        return f"{kept}; one epoch says nothing about overfitting"
    lowest = min(history, key=lambda e: e.val_loss)
    risen = all(e.val_loss > (1 + RISE) * lowest.val_loss for e in history[-RISEN_EPOCHS:])
    if risen and last.train_loss < lowest.train_loss:
        return (
            f"overfitting after epoch {lowest.epoch}: the validation loss rose from "
            f"{lowest.val_loss:.4f} to {last.val_loss:.4f} while the training loss fell from "
            f"{lowest.train_loss:.4f} to {last.train_loss:.4f}; {ended}; {kept}. More films, "
            "fewer epochs or a lower learning rate may help"
        )
    return f"no sign of overfitting: {ended}; {kept}"
