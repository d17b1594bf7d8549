"""Report: what became of the scores of dressed films, as it is kept with a model.

`docs/reference/model-file.md` has the structure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from trainer.judging import clusters, metrics
from trainer.shift.measure import SPECTRUM, Dressed, Scored
from trainer.shift.units import Films, Unit

__all__ = ["VERSION", "of"]

#: Of the structure: raised where a reader of this one would misread it.
VERSION = 1

#: What training's augmentation never does.
UNSEEN = frozenset({SPECTRUM})


def of(
    films: Films, units: Sequence[Unit], scored: Scored, *, threshold: float, seed: int
) -> dict[str, Any]:
    """The report, JSON-able.

    `threshold` is the model's operating point, and by `seed` films and donors were drawn.
    """
    dressed = [_figures(scored, one, threshold) for one in scored.dressed]
    worst = min(dressed, key=lambda one: one["auroc"]["value"])
    return {
        "version": VERSION,
        "seed": seed,
        "positive": films.names[films.positive],
        "negative": films.others,
        "threshold": threshold,
        "films": len(scored.films),
        "positives": int(scored.truth.sum()),
        "patients": len(set(scored.patients)),
        "held_out": scored.held_out,
        "patients_are": films.patients_are,
        "draws": max(len(one.score) for one in scored.dressed),
        "plain": _auroc(scored, scored.score),
        "groups": [
            {
                "group": number,
                "look": unit.look,
                "what": unit.what,
                "label": films.names[unit.label],
                "films": len(unit.films),
                "patients": unit.patients,
                "donors": len(unit.donors),
            }
            for number, unit in enumerate(units, 1)
        ],
        "notes": list(scored.notes),
        "dressings": dressed,
        "worst": {"name": worst["name"], "auroc": worst["auroc"]["value"]}
        | {side: worst["auroc"][side] for side in ("low", "high")},
    }


def _figures(scored: Scored, one: Dressed, threshold: float) -> dict[str, Any]:
    truth = scored.truth[one.films]
    before = scored.score[one.films]
    patients = [scored.patients[film] for film in one.films]
    # Of each film the share of draws in which its decision changes.
    flipped = ((before >= threshold) != (one.score >= threshold)).mean(axis=0)
    low, high = clusters.share_interval(flipped, patients)
    classes = {"negative": ~truth, "positive": truth}
    there = [name for name, which in classes.items() if which.any()]
    return {
        "name": one.name,
        "kind": one.kind,
        "group": one.unit,
        "dressed": there[0] if len(there) == 1 else "both",
        "unseen": one.kind in UNSEEN,
        "films": len(one.films),
        "patients": len(set(patients)),
        "draws": len(one.score),
        "auroc": _auroc(scored, scored.after(one)),
        "mean_p": {
            name: {
                "before": float(before[classes[name]].mean()),
                "after": float(one.score[:, classes[name]].mean()),
            }
            for name in there
        },
        "flips": {"value": float(flipped.mean()), "low": low, "high": high},
    }


def _auroc(scored: Scored, score: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, float]:
    """Of P(positive) float64 [n], or the mean of [draws, n]."""
    low, high = clusters.auroc_interval(score, scored.truth, scored.patients)
    value = np.mean([metrics.auroc(one, scored.truth) for one in np.atleast_2d(score)])
    return {"value": float(value), "low": low, "high": high}
