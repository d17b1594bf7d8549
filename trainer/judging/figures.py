"""Figures: what a model's decisions are worth, every metric by name, with intervals by patient.

Start here for anything that is reported. NumPy only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from trainer.judging import clusters, metrics
from trainer.judging.clusters import Owners
from trainer.judging.metrics import Scores, Truth

#: What the films of figures had a part in, for a person: those that a night's models are compared
#: on, those of a test split, and others that were given, of which nothing is known.
FROZEN = "frozen films, which chose no epoch and no threshold"
TESTED = "films of a test split, which chose nothing"
GIVEN = "films as given: too good where the model has learned from them or they chose its threshold"


def summary(
    score: Scores,
    truth: Truth,
    threshold: float | Scores,
    patients: Sequence[str] | Owners | None = None,
    *,
    known: str = "",
) -> dict[str, float]:
    """Every metric by the name it is stored under, and its interval: `auroc_low`, `auroc_high`.

    `score` is P(positive), float [N]; `threshold` is one, or each film's own, float [N]; and
    `patients` whose each film is, which the intervals are by: None where each is a patient's only
    one. A metric that these films do not allow (a sensitivity without positives) is absent. Where
    `known`, as of `trainer.data.whose.state`, is `unknown`, `patients_unknown` is 1: these
    intervals are too narrow where films are of one patient.
    """
    called = np.asarray(score >= threshold)
    counts = metrics.confusion(called.astype(np.float64), truth, 0.5)
    who = np.arange(len(truth)) if patients is None else clusters.numbered(patients)
    area, right = metrics.auroc(score, truth), called == truth
    with_interval = {
        "auroc": (area, clusters.auroc_interval(score, truth, who)),
        "auprc": (metrics.auprc(score, truth), clusters.auprc_interval(score, truth, who)),
    }
    for name, value, which in (
        ("accuracy", counts.accuracy, np.ones(len(truth), np.bool_)),
        ("sensitivity", counts.sensitivity, truth),
        ("specificity", counts.specificity, ~truth),
        ("ppv", counts.ppv, called),
        ("npv", counts.npv, ~called),
    ):
        with_interval[name] = value, clusters.share_interval(right[which], who[which])
    found: dict[str, float] = {}
    for name, (value, (low, high)) in with_interval.items():
        if not math.isnan(value):
            found |= {name: value, f"{name}_low": low, f"{name}_high": high}
    if known == "unknown":
        found["patients_unknown"] = 1.0
    if len(score):
        found["ece"] = metrics.ece(score, truth)
    return found | {
        "true_positive": float(counts.true_positive),
        "false_positive": float(counts.false_positive),
        "true_negative": float(counts.true_negative),
        "false_negative": float(counts.false_negative),
        "films": float(counts.films),
    }


def goal(rule: str, found: Mapping[str, float]) -> str:
    """What came of a rule that asks for a sensitivity or a specificity, for a person.

    `found` are figures of films that did not choose the threshold. Empty for other rules.
    """
    name, _, wanted = rule.partition("=")
    if name not in ("sensitivity", "specificity") or name not in found:
        return ""
    low, high = found[f"{name}_low"], found[f"{name}_high"]
    return (
        f"{rule} holds on the films that chose the threshold and is no promise for others: on "
        f"films that did not choose it {name} is {found[name]:.3f} (95 % interval {low:.3f} to "
        f"{high:.3f})" + ("; ask for more where it must not be less" if low < float(wanted) else "")
    )
