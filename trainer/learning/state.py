"""State: where a training run is, and its way to disk and back."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer import atomic, checkpoint
from trainer.data.dataset import Dataset, LeftOut
from trainer.errors import CheckpointError
from trainer.learning import averaging
from trainer.learning.epoch import Epoch
from trainer.learning.files import BEST, CHECKPOINT, LEFT_OUT, PREVIOUS
from trainer.network import model

#: Seconds between two checkpoints inside an epoch; more where writing one takes more than
#: CHECKPOINT_SHARE of that.
CHECKPOINT_EVERY_S = 60.0
CHECKPOINT_SHARE = 0.02


@dataclass(kw_only=True)
class State:
    """Everything that a run needs to go on as if it had never been interrupted."""

    net: model.ResNet18
    average: averaging.Average
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    #: Finished epochs, oldest first.
    history: list[Epoch]
    #: Logits `float32 [1 + K, validation films, C]` after each of them, as of `Trained.held_out`;
    #: as far as they are known.
    held_out: list[Tensor] = field(default_factory=list)
    #: Steps done of the epoch after these.
    step: int = 0
    #: Sum of the mean losses of its steps, as far as they were read.
    losses: float = 0.0
    #: Those not read yet, on the device.
    unread: list[Tensor] = field(default_factory=list)
    #: Logits `float32 [films, C]` of its films on the device, by the weights of their step; 0 where
    #: not yet.
    outputs: Tensor
    #: Seconds that it has taken.
    seconds: float = 0.0
    #: Of these, those in which training waited for films.
    waited: float = 0.0

    def begin(self, outputs: Tensor) -> None:
        """The next epoch begins, with room for its logits."""
        self.step, self.losses, self.outputs = 0, 0.0, outputs
        self.unread.clear()
        self.seconds = self.waited = 0.0

    def note(self, loss: Tensor, logits: Tensor) -> None:
        """A step is done; waits for nothing."""
        n = len(logits)
        self.outputs[self.step * n : (self.step + 1) * n] = logits
        self.unread.append(loss.clone())
        self.step += 1

    def read(self) -> tuple[int, float] | None:
        """Wait for the device and add up the losses; to be called before anything is kept.

        Returns the first that is not finite, after its step, from 0 in this epoch; None without.
        """
        first = self.step - len(self.unread)
        found = torch.stack(self.unread).tolist() if self.unread else []
        self.unread.clear()
        for step, loss in enumerate(found, first):
            if not math.isfinite(loss):
                return step, loss
            self.losses += loss
        return None

    def values(self) -> dict[str, Any]:
        """Tensors and plain values for a checkpoint."""
        return {
            "history": [dataclasses.asdict(epoch) for epoch in self.history],
            "held_out": self.held_out,
            "net": self.net.state_dict(),
            "average": self.average.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "losses": self.losses,
            "outputs": self.outputs.cpu(),
            "seconds": self.seconds,
            "waited": self.waited,
        }

    def load(self, values: dict[str, Any]) -> None:
        """Be what `values` once returned; CheckpointError where it is something else."""
        try:
            self.history = [Epoch(**epoch) for epoch in values["history"]]
            # A checkpoint of release 0.1.0 has none.
            self.held_out = list(values.get("held_out", ()))
            self.net.load_state_dict(values["net"])
            self.average.net.load_state_dict(values["average"])
            for theirs, ours in zip(
                values["optimizer"]["param_groups"], self.optimizer.param_groups, strict=True
            ):
                theirs["fused"] = ours["fused"]  # release 0.1.0 has it on GPUs only
            self.optimizer.load_state_dict(values["optimizer"])
            if self.scaler.is_enabled() and values.get("scaler"):
                self.scaler.load_state_dict(values["scaler"])
            self.step, self.losses = int(values["step"]), float(values["losses"])
            self.outputs = values["outputs"].to(self.net.mean.device)
            self.seconds = float(values["seconds"])
            self.waited = float(values["waited"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"this is no complete checkpoint: {error}") from error


class Keeper:
    """Writes a run's checkpoints and reads them back."""

    def __init__(self, folder: Path, run: dict[str, Any]) -> None:
        """`run` is what must be equal for a run to be continued."""
        self._folder = folder
        self._run = run
        self._due = time.monotonic() + CHECKPOINT_EVERY_S

    @property
    def due(self) -> bool:
        """Whether it is time for a checkpoint inside an epoch."""
        return time.monotonic() >= self._due

    def save(self, state: State) -> None:
        """Replace the checkpoint; the one before it is kept, should this one be damaged."""
        began = time.monotonic()
        values = {"run": self._run, **state.values()}
        checkpoint.save(self._folder / CHECKPOINT, values, self._folder / PREVIOUS)
        now = time.monotonic()
        self._due = now + max(CHECKPOINT_EVERY_S, (now - began) / CHECKPOINT_SHARE)

    def save_best(self, epoch: int, net: model.ResNet18) -> None:
        """Keep these weights as the best so far."""
        checkpoint.save(self._folder / BEST, {"epoch": epoch, "net": net.state_dict()})

    def best(self) -> dict[str, Tensor]:
        """The weights that `save_best` kept."""
        weights: dict[str, Tensor] = checkpoint.load(self._folder / BEST)["net"]
        return weights

    def restore(self, state: State, other: Path | None, report: Callable[[str], None]) -> bool:
        """Load the newest complete checkpoint of our folder, or else of `other`; False without one.

        Raises CheckpointError where there are only damaged ones, or one of another run.
        """
        for source in (self._folder, other):
            if source is None:
                continue
            found = [p for p in (source / CHECKPOINT, source / PREVIOUS) if p.is_file()]
            for path in found:
                try:
                    values = checkpoint.load(path)
                except CheckpointError as error:
                    if path == found[-1]:
                        raise
                    report(f"{error}; going on from the checkpoint before it")
                    continue
                self._must_be_ours(path, values)
                state.load(values)
                if source != self._folder:
                    if state.history:
                        checkpoint.save(self._folder / BEST, checkpoint.load(source / BEST))
                    checkpoint.save(self._folder / CHECKPOINT, values)
                return True
        return False

    def _must_be_ours(self, path: Path, values: dict[str, Any]) -> None:
        # A run of release 0.1.0 says nothing of it.
        theirs = {"defend": False, **values.get("run", {})}
        other = [key for key in self._run if theirs.get(key) != self._run[key]]
        if other:
            raise CheckpointError(
                f"{path} was made with another {', '.join(other)}; continue with the same, or "
                "train in an empty folder"
            )


def keep_left_out(folder: Path, data: Dataset) -> None:
    """Write down what a run does without: when it is continued, it is trained on the same films."""
    files = [dataclasses.asdict(file) for file in data.left_out]
    atomic.replace(folder / LEFT_OUT, json.dumps(files).encode())


def without_left_out(data: Dataset, *folders: Path | None) -> Dataset:
    """The films less those that the run in the first of these folders that has one did without.

    Whether they can be read now does not matter. Raises DatasetError where too little is left.
    """
    for folder in folders:
        if folder is not None and (folder / LEFT_OUT).is_file():
            there = {film.path for film in data.films}
            files = [LeftOut(**file) for file in json.loads((folder / LEFT_OUT).read_text())]
            return data.without([file for file in files if file.path in there])
    return data
