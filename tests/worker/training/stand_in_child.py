"""A stand-in for the training process: it speaks the same messages, and trains nothing.

With it, what happens to a training job from outside (cancelled, stopped, taken over) is tested in
tenths of a second. test_child.py has it and the real one do the same, and compares the messages.
Its "model" is a copy of the file that the variable TORCH_STAND_IN_MODEL names: variables of torch
reach a training process.
"""

from __future__ import annotations

import dataclasses
import json
import os
import select
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

from trainer import card as cards
from trainer.judging import figures
from trainer.learning.epoch import Epoch
from worker.machine.process import die_with_parent

#: Name of the variable with the model file.
MODEL = "TORCH_STAND_IN_MODEL"

#: Seconds that an epoch takes.
EPOCH_S = 0.1

#: P(positive) of two films, and the truth of them, that every epoch comes to.
SCORE, TRUTH = np.array([0.2, 0.9]), np.array([False, True])

CHECKPOINT = "checkpoint.pth"


def main() -> None:
    """Do as the real one does with what standard input names."""
    parent_pid, report_fd = map(int, sys.argv[1:])
    die_with_parent(parent_pid)
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.SIG_IGN)
    order = json.loads(sys.stdin.readline())
    with os.fdopen(report_fd, "w", buffering=1) as stream:

        def report(event: str, **values: Any) -> None:
            stream.write(json.dumps({"event": event, **values}) + "\n")

        run(order, report)


def run(order: dict[str, Any], report: Any) -> None:
    """Go through epochs, from those that an earlier attempt finished on, until told to stop."""
    spec, folder = order["spec"], Path(order["folder"])
    data, epochs = Path(spec["data"]), spec["epochs"]
    if not data.is_dir():
        report("failed", reason=f"{data} is no folder")
        return
    report("dataset", **described(data))
    done = finished(folder) or finished(Path(order["resume_from"] or folder))
    if done:
        report("note", text=f"continuing after epoch {done} of {epochs}")
    for epoch in range(done + 1, epochs + 1):
        if told_to_stop(EPOCH_S):
            keep(folder, epoch - 1)
            report("saved", epoch=epoch, step=0)
            report("stopped")
            return
        keep(folder, epoch)
        report("saved", epoch=epoch + 1, step=0)
        report("epoch", **dataclasses.asdict(came_to(epoch, epochs)))
    report("note", text="nothing was trained")
    path = folder / "model.onnx"
    shutil.copy(os.environ[MODEL], path)
    report(
        "done",
        files={"fp32": str(path)},
        card=json.loads(cards.read(path).to_json()),
        engines=[],
        judged=None,
        n_val=len(TRUTH),
        reference={},
    )


def told_to_stop(within_s: float) -> bool:
    """Whether standard input is closed, looked at for so many seconds."""
    return bool(select.select([0], [], [], within_s)[0])


def keep(folder: Path, done: int) -> None:
    """Write a checkpoint in one step: so many epochs are finished."""
    part = folder / "part"
    part.write_text(json.dumps(done))
    part.replace(folder / CHECKPOINT)


def finished(folder: Path) -> int:
    """How many epochs the attempt in this folder had finished; 0 without a checkpoint."""
    path = folder / CHECKPOINT
    return int(json.loads(path.read_text())) if path.is_file() else 0


def came_to(epoch: int, epochs: int) -> Epoch:
    """What each epoch comes to."""
    found = figures.summary(SCORE, TRUTH, 0.5)
    return Epoch(
        epoch=epoch,
        epochs=epochs,
        train_loss=0.5,
        train_accuracy=1.0,
        train_auroc=1.0,
        val_loss=0.5,
        val_accuracy=1.0,
        val_auroc=1.0,
        train_metrics=found,
        val_metrics=found,
        lr=1e-3,
        seconds=EPOCH_S,
        films_per_s=len(TRUTH) / EPOCH_S,
        best=epoch == 1,
    )


def described(data: Path) -> dict[str, Any]:
    """The dataset, by its folders' names."""
    classes = {path.name: len(list(path.iterdir())) for path in sorted(data.iterdir())}
    films = sum(classes.values())
    return {
        "digest": f"stand-in of {data}",
        "root": str(data),
        "n_train": films - len(TRUTH),
        "n_val": len(TRUTH),
        "n_patients": films,
        "classes": classes,
        "notes": [],
        "manifest_csv": "",
        "names": {},
    }


if __name__ == "__main__":
    main()
