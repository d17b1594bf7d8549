"""Judged: a model's scores of labelled films, and the charts that judge it by them.

Where the films are from is said with them, since figures of films that a model chose its operating
point on are too good.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from db.base import database
from scheduler.pages import charts, html
from scheduler.pages.charts import Axis, Interval, Mark, Series
from scheduler.pages.html import Content, Html
from trainer.judging import clusters, metrics
from trainer.judging import figures as figures_of
from trainer.judging.metrics import Confusion

#: Points of a curve that are drawn, and lines of the table behind it.
POINTS, LINES = 200, 21

#: Bins of calibration and of the scores' distribution.
BINS, BUCKETS = 10, 20

#: What is said of figures that do not say what their films had a part in.
UNSAID = "not said whether they chose epoch, temperature or threshold"

#: Metric → in words, as charts name it.
NAMES = {
    "auroc": "AUROC",
    "auprc": "average precision",
    "accuracy": "accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "ppv": "PPV",
    "npv": "NPV",
}


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Scores of labelled films."""

    #: Which films, for a person.
    of: str
    #: P(positive), `float64 [N]`.
    score: NDArray[np.float64]
    #: Whether the film is positive, `bool [N]`.
    truth: NDArray[np.bool_]
    #: What names each film: the item of a job, or the place in a list, `int64 [N]`.
    number: NDArray[np.int64]
    #: The job that the numbers are items of; None where they are places in `files`.
    job_id: int | None = None
    files: Sequence[str] = ()
    #: Whose each film is, by which intervals are; empty where each is taken for its patient's only
    #: one.
    patients: Sequence[str] = ()
    #: Sentences that a person should read before trusting figures of these films.
    notes: Sequence[str] = ()
    #: How many films could not be read, by code of the error.
    unreadable: Mapping[str, int] = field(default_factory=dict)

    @property
    def owners(self) -> NDArray[np.int64]:
        """Whose each film is, as numbers, `int64 [N]`."""
        return clusters.numbered(self.patients) if self.patients else np.arange(len(self.score))

    def interval(self, hit: NDArray[np.bool_], of: NDArray[np.bool_]) -> tuple[float, float]:
        """95 % interval of the share of these films that are hit, `bool [N]` each."""
        return clusters.share_interval(hit[of], self.owners[of])

    def worst(self, threshold: float, most: int) -> list[int]:
        """Places of the films that are called wrongly, the furthest from the threshold first."""
        wrong = np.flatnonzero((self.score >= threshold) != self.truth)
        order = np.argsort(-np.abs(self.score[wrong] - threshold), kind="stable")
        return [int(place) for place in wrong[order][:most]]


#: Of films of which nothing says whose they are.
NOBODYS = (
    "Patients are not known: each film is taken for a patient of its own, and the intervals are "
    "too narrow where some are of one patient."
)

#: Of films of which it is not known whether they were learned from.
GIVEN = f"{figures_of.GIVEN[0].upper()}{figures_of.GIVEN[1:]}."


def of_job(engine: sa.Engine, row: sa.RowMapping) -> Judged | None:
    """The scores of the newest job of a model's row whose films have true labels; None where none
    has.

    Whose a film is, is what its tags said when it was scored, or its name.
    """
    from trainer.data import whose
    from worker.training import site_films

    newest = sa.text(
        "SELECT MAX(j.id) FROM jobs j WHERE j.model_id = :model AND j.kind = 'score' "
        "AND EXISTS (SELECT 1 FROM labels t WHERE t.job_id = j.id)"
    )
    with database.reading(engine) as connection:
        job_id = connection.execute(newest, {"model": int(row["id"])}).scalar()
        if job_id is None:
            return None
        labelled = connection.execute(
            sa.text(
                "SELECT v.probability, v.truth, v.item_no, v.name, i.patient, i.study "
                "FROM v_labelled v "
                "LEFT JOIN identities i ON i.job_id = v.job_id AND i.item_no = v.item_no "
                "WHERE v.job_id = :job ORDER BY v.item_no"
            ),
            {"job": job_id},
        ).all()
    if not labelled:
        return None
    classes = sorted({one.truth for one in labelled})
    # A folder of an archive may be a patient's, a ward's or a year's.
    says = whose.KNOWN - {whose.FOLDER}
    owned = [
        film if film.known_by in says else dataclasses.replace(film, patient=film.path, known_by="")
        for film in site_films.owned(labelled, whose.BY_THEMSELVES, classes)[0]
    ]
    return Judged(
        of=f"the films of job {job_id} whose true labels were brought in",
        score=np.array([one.probability for one in labelled], np.float64),
        truth=np.array([one.truth == row["positive"] for one in labelled], np.bool_),
        number=np.array([one.item_no for one in labelled], np.int64),
        job_id=int(job_id),
        patients=[film.patient for film in owned],
        notes=[GIVEN, *([NOBODYS] if whose.state(owned) == "unknown" else [])],
    )


def figures(judged: Judged, threshold: float, positive: str) -> list[Html]:
    """The charts that these scores make; ROC and precision-recall need films of both classes."""
    counts = metrics.confusion(judged.score, judged.truth, threshold)
    drawn = []
    if counts.positives and counts.negatives:
        called = judged.score >= threshold
        drawn += [_roc(judged, counts, called), _precision_recall(judged, counts, called)]
    return [
        *drawn,
        _calibration(judged),
        _distribution(judged, threshold, positive),
    ]


def confusion(judged: Judged, threshold: float, positive: str) -> Html:
    """Films by truth and by what they are called."""
    counts = metrics.confusion(judged.score, judged.truth, threshold)

    def cell(n: int, of: int) -> str:
        return f"{n:,} ({100 * n / of:.1f} %)" if of else f"{n:,}"

    rows: list[list[Content]] = [
        [f"{positive} by truth", cell(counts.true_positive, counts.positives),
         cell(counts.false_negative, counts.positives), counts.positives],
        ["others by truth", cell(counts.false_positive, counts.negatives),
         cell(counts.true_negative, counts.negatives), counts.negatives],
        ["all", cell(counts.called_positive, counts.films),
         cell(counts.called_negative, counts.films), counts.films],
    ]  # fmt: skip
    return html.table(
        f"Confusion matrix at the operating point {threshold:.4f}",
        ["", f"called {positive}", "called otherwise", "films"],
        rows,
    )


def measured(title: str, found: dict[str, Any], sentence: str) -> Html:
    """Metrics by name, with their intervals, as one chart."""
    named = [name for name in NAMES if found.get(name) is not None]
    values = [
        Interval(label=NAMES[name], value=found[name], low=found.get(f"{name}_low"),
                 high=found.get(f"{name}_high"))
        for name in named
    ]  # fmt: skip
    least = min((v.low if v.low is not None else v.value for v in values), default=0.0)
    low = max(0.0, min(0.9, np.floor(least * 10) / 10))
    return charts.intervals(
        title,
        sentence,
        values,
        Axis(label="value, with its 95 % interval", low=float(low), high=1, form="{:.2f}"),
        columns=["figure", "value", "low", "high"],
        rows=[[v.label, _four(v.value), _four(v.low), _four(v.high)] for v in values],
    )


def _four(value: float | None) -> str | None:
    return None if value is None else f"{value:.4f}"


def _steps(judged: Judged) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Thresholds from the highest score down, and positives and negatives at or above each."""
    order = np.argsort(-judged.score, kind="stable")
    score, truth = judged.score[order], judged.truth[order]
    last = np.r_[np.flatnonzero(np.diff(score)), len(score) - 1]
    positive = np.cumsum(truth, dtype=np.int64)[last]
    return score[last], positive, last + 1 - positive


def _some(n: int, most: int) -> NDArray[np.int64]:
    """So many places of n, the first and the last among them."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(np.int64))


def _roc(judged: Judged, counts: Confusion, called: NDArray[np.bool_]) -> Html:
    at, above, below = _steps(judged)
    sensitivity, other = above / counts.positives, below / counts.negatives
    area = metrics.auroc(judged.score, judged.truth)
    low, high = clusters.auroc_interval(judged.score, judged.truth, judged.owners)
    keep = _some(len(at), POINTS)
    points = [(0.0, 0.0), *((float(other[n]), float(sensitivity[n])) for n in keep)]
    falsely = 1 - counts.specificity
    spread = judged.interval(~called, ~judged.truth)
    return charts.lines(
        "ROC curve",
        f"AUROC {area:.3f} (95 % interval {low:.3f} to {high:.3f}) of {counts.positives:,} "
        f"positive and {counts.negatives:,} other films; at the operating point sensitivity "
        f"{counts.sensitivity:.3f}, specificity {counts.specificity:.3f}.",
        [Series(name="model", points=points)],
        Axis(label="1 − specificity", low=0, high=1, form="{:.1f}"),
        Axis(label="sensitivity", low=0, high=1, form="{:.1f}"),
        columns=["at or above", "sensitivity", "specificity"],
        rows=[
            [f"{at[n]:.4f}", f"{sensitivity[n]:.4f}", f"{1 - other[n]:.4f}"]
            for n in _some(len(at), LINES)
        ],
        marks=[
            Mark(
                x=falsely, y=counts.sensitivity, text="operating point",
                across=(1 - spread[1], 1 - spread[0]),
                upright=judged.interval(called, judged.truth),
            )
        ],
        diagonal=True,
    )  # fmt: skip


def _precision_recall(judged: Judged, counts: Confusion, called: NDArray[np.bool_]) -> Html:
    at, above, below = _steps(judged)
    recall, precision = above / counts.positives, above / (above + below)
    area = metrics.auprc(judged.score, judged.truth)
    keep = _some(len(at), POINTS)
    marks = []
    if counts.called_positive:
        marks.append(
            Mark(
                x=counts.sensitivity, y=counts.ppv, text="operating point",
                across=judged.interval(called, judged.truth),
                upright=judged.interval(judged.truth, called),
            )
        )  # fmt: skip
    return charts.lines(
        "Precision and recall",
        f"Average precision {area:.3f}. Of these films "
        f"{100 * counts.positives / counts.films:.1f} % are positive; where fewer are, precision "
        "is lower.",
        [Series(name="model", points=[(float(recall[n]), float(precision[n])) for n in keep])],
        Axis(label="recall (sensitivity)", low=0, high=1, form="{:.1f}"),
        Axis(label="precision (PPV)", low=0, high=1, form="{:.1f}"),
        columns=["at or above", "recall", "precision"],
        rows=[
            [f"{at[n]:.4f}", f"{recall[n]:.4f}", f"{precision[n]:.4f}"]
            for n in _some(len(at), LINES)
        ],
        marks=marks,
    )


def _calibration(judged: Judged) -> Html:
    bin_of = np.minimum((judged.score * BINS).astype(np.int64), BINS - 1)
    rows, points, marks = [], [], []
    for number in range(BINS):
        inside = bin_of == number
        n = int(inside.sum())
        if not n:
            continue
        said, found = float(judged.score[inside].mean()), float(judged.truth[inside].mean())
        low, high = judged.interval(judged.truth, inside)
        rows.append([f"{number / BINS:.1f} to {(number + 1) / BINS:.1f}", n, f"{said:.4f}",
                     f"{found:.4f}", f"{low:.4f}", f"{high:.4f}"])  # fmt: skip
        points.append((said, found))
        marks.append(Mark(x=said, y=found, text="", upright=(low, high)))
    return charts.lines(
        "Calibration",
        f"Expected calibration error {metrics.ece(judged.score, judged.truth):.3f}: of films with "
        "probability p a share of p should be positive, which is the dotted line.",
        [Series(name="films", points=points)],
        Axis(label="mean probability", low=0, high=1, form="{:.1f}"),
        Axis(label="share that is positive", low=0, high=1, form="{:.1f}"),
        columns=["probability", "films", "mean", "positive", "low", "high"],
        rows=rows,
        marks=marks,
        diagonal=True,
    )


def _distribution(judged: Judged, threshold: float, positive: str) -> Html:
    edges = [n / BUCKETS for n in range(BUCKETS + 1)]
    counted = {
        name: np.bincount(
            np.minimum((judged.score[of] * BUCKETS).astype(np.int64), BUCKETS - 1),
            minlength=BUCKETS,
        )
        for name, of in (("others", ~judged.truth), (positive, judged.truth))
    }
    shares = {name: n / max(1, n.sum()) for name, n in counted.items()}
    return charts.bars(
        "Scores by true class",
        f"Share of each class in twentieths of the probability of {positive}: bars are the other "
        f"films, the line is {positive}.",
        edges,
        [Series(name="others by truth", points=list(zip(edges, shares["others"], strict=False)))],
        Axis(label=f"probability of {positive}", low=0, high=1, form="{:.1f}"),
        Axis(label="share of the class", low=0,
             high=float(max(s.max() for s in shares.values())) * 1.12 or 1, form="{:.0%}"),
        columns=["probability", "others", positive],
        rows=[
            [f"{edges[b]:.2f} to {edges[b + 1]:.2f}", int(counted["others"][b]),
             int(counted[positive][b])]
            for b in range(BUCKETS)
        ],
        marks=[Mark(x=threshold, text=f"operating point {threshold:.3f}")],
        over=Series(
            name=f"{positive} by truth", style="b",
            points=list(zip(edges, shares[positive], strict=False)),
        ),
    )  # fmt: skip
