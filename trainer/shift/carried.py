"""Carried: the shift report of a model of the same weights, which was not measured anew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def over(
    report: Mapping[str, Any] | None, origin: Mapping[str, Any], classes: int
) -> dict[str, Any] | None:
    """The report for a model that has another temperature, bias and threshold; None without one.

    `origin` is the model that it was measured with, as JSON, with its number as `model`. Of two
    classes temperature and bias leave the order of films as it is, and so every AUROC and its
    interval; of more classes they do not, and there is nothing to carry. `measured_with` and a note
    say whose figures the others are: mean P and the decisions that change.
    """
    if report is None or classes != 2:
        return None
    if "measured_with" in report:
        return dict(report)
    note = (
        f"measured with model {origin['model']}, of the same weights: AUROCs are this model's too, "
        "but mean P and the decisions that change are at that one's temperature and threshold"
    )
    return {**report, "measured_with": dict(origin), "notes": [*report.get("notes", ()), note]}
