"""Floors: what a new model had to reach at night whatever the champion does, and whether it did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from db.nightly import runs
from scheduler.pages import html
from scheduler.pages.html import Content
from scheduler.show import output
from trainer.judging.margins import NAMES


def of_model(engine: sa.Engine, model_id: int) -> Content:
    """The floors of each night on which a model was the new one."""
    return [
        table(run["verdict"] or {}, f"Floors of the night of {output.when(run['scheduled_for'])}")
        for run in runs.of_candidate(engine, model_id)
    ]


def table(verdict: Mapping[str, Any], caption: str) -> Content:
    """The floors of a verdict; nothing where it has none."""
    rows: list[list[Content]] = []
    for name, one in (verdict.get("floors") or {}).items():
        floor, value, low = (float(one[k]) for k in ("floor", "value", "low"))
        # As `trainer.judging.gate` decides.
        if low >= floor:
            reached = "yes"
        elif value > floor:
            reached = "not shown: it may be lower, on so few films"
        else:
            reached = "no"
        rows.append(
            [NAMES.get(name, name), *(f"{number:.4f}" for number in (floor, value, low)), reached]
        )
    if not rows:
        return None
    columns = ["figure", "must be at least", "is", "one-sided 95 % bound", "reached"]
    return html.table(caption, columns, rows)
