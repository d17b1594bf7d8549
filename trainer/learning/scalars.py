"""Scalars: a run's curves for TensorBoard, under the names that jetson-inference's train.py has."""

from __future__ import annotations

import math
from pathlib import Path

from tensorboardX import SummaryWriter

from trainer.learning.epoch import Epoch

#: Name in Epoch.train_metrics and Epoch.val_metrics → in TensorBoard.
NAMES = {
    "auroc": "AUROC", "auprc": "AUPRC", "sensitivity": "Sensitivity", "specificity": "Specificity",
    "ppv": "PPV", "npv": "NPV", "ece": "ECE",
}  # fmt: skip


class Scalars:
    """One run's event file in a folder, which may hold those of earlier attempts."""

    def __init__(self, folder: Path) -> None:
        self._writer = SummaryWriter(str(folder))

    def add(self, epoch: Epoch) -> None:
        """Write an epoch's figures; those that it lacks are left out."""
        figures = {
            "Loss/train": epoch.train_loss,
            "Accuracy/train": epoch.train_accuracy,
            "Loss/val": epoch.val_loss,
            "Accuracy/val": epoch.val_accuracy,
            "Learning_Rate/train": epoch.lr,
        }
        for part, measured in (("train", epoch.train_metrics), ("val", epoch.val_metrics)):
            figures |= {f"{NAMES[k]}/{part}": v for k, v in measured.items() if k in NAMES}
        for name, value in figures.items():
            if math.isfinite(value):
                self._writer.add_scalar(name, value, epoch.epoch)
        self._writer.flush()

    def close(self) -> None:
        """Nothing more comes."""
        self._writer.close()
