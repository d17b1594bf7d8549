"""Margins: what may be lost by a new model, as a person asks for it. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

#: What is compared: name → in words.
NAMES = {"auroc": "AUROC", "sensitivity": "sensitivity", "specificity": "specificity"}


@dataclass(frozen=True, kw_only=True)
class Margins:
    """By how much a new model may be worse, each 0 to 1."""

    auroc: float = 0.01
    sensitivity: float = 0.02
    specificity: float = 0.05
    #: On AUROC, sensitivity and specificity within a slice.
    slice: float = 0.05
    #: On the AUROC of the dressing that confuses a model most, of its shift report.
    shift: float = 0.05
