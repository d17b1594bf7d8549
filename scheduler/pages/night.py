"""The report of a night: the new model and the champion side by side, and why one was chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from db.base import database
from db.base.schema import schedules
from db.queue import training
from db.registry import models
from scheduler.pages import charts, floors, html
from scheduler.pages import model as model_page
from scheduler.pages.charts import Axis, Interval, Mark
from scheduler.pages.html import Content, Html, Section, el
from scheduler.pages.job import Made, made_by
from scheduler.show import output
from trainer.judging.margins import NAMES

#: Who may stand in a verdict beside the two: name → in words.
SIDES = {"candidate": "new model", "champion": "champion", "anchor": "anchor"}

#: What made a run begin → in words.
CAUSES = {
    "clock": "begun at its time",
    "catch_up": "begun later than its time, since no worker ran then",
    "hand": "begun by hand",
}


def make(engine: sa.Engine, run: sa.RowMapping) -> Made:
    """The report of a run of a schedule."""
    with database.reading(engine) as connection:
        schedule = connection.execute(
            sa.select(schedules.c.name).where(schedules.c.id == run["schedule_id"])
        ).scalar_one()
    verdict: Mapping[str, Any] = run["verdict"] or {}
    learned = training.epoch_rows(engine, run["job_id"]) if run["job_id"] is not None else []
    outcome = run["outcome"] or run["state"]
    page = html.page(
        f"Night of {output.when(run['scheduled_for'])}: {outcome}",
        _lead(run, str(schedule)),
        [
            Section("why", "Why", _why(verdict)),
            Section("models", "The models side by side", _models(engine, run, verdict)),
            Section("slices", "Parts of the films", _slices(verdict)),
            Section("films", "The films of that night", _snapshot(run["snapshot"] or {})),
            Section(
                "learned", "How the new model learned", model_page.learning(engine, None, learned)
            ),
        ],
        made=made_by(f"pneumoq report run:{run['id']}"),
    )
    return Made(page=page, films=[], missing=0)


def _lead(run: sa.RowMapping, schedule: str) -> Content:
    promoted = run["outcome"] == "promoted"
    return [
        el(
            "p",
            f"Run {run['id']} of the schedule ",
            html.name(schedule),
            f", {CAUSES[run['cause']]}.",
        ),
        html.note(_sentence(str(run["reason"])), kind="note" if promoted else "warn")
        if run["reason"]
        else html.note("No reason is known yet: the run goes on."),
        html.tiles(
            [
                ("Outcome", str(run["outcome"] or run["state"]), "of the night"),
                ("New model", run["candidate_id"] or "–", "its number"),
                ("Champion", run["champion_id"] or "–", "when the night began"),
                ("Job", run["job_id"] or "–", "that trained"),
            ]
        ),
    ]


def _sentence(reason: str) -> str:
    """A reason as it stands alone: with a capital and a full stop."""
    return reason[:1].upper() + reason[1:].rstrip(".") + "."


def _why(verdict: Mapping[str, Any]) -> Content:
    differences = {n: verdict[n] for n in NAMES if isinstance(verdict.get(n), Mapping)}
    if not differences:
        return html.note("The two models were not compared; the reason stands above.")
    margins: Mapping[str, float] = verdict.get("margins") or {}
    films, positives, patients = (verdict.get(k, 0) for k in ("films", "positives", "patients"))
    anchor = verdict.get("anchor") or {}
    return [
        html.note(
            f"Compared on {films:,} frozen films ({positives:,} positive) of {patients:,} patients "
            "that neither was trained on. The new one may be worse by no more than a margin: the "
            "one-sided 95 % bound of its difference must lie right of it."
        ),
        el(
            "div",
            [_difference(name, one, margins.get(name)) for name, one in differences.items()],
            class_="charts",
        ),
        el(
            "div",
            [
                _difference(name, anchor[name], margins.get(name), of="anchor")
                for name in NAMES
                if isinstance(anchor.get(name), Mapping)
            ],
            class_="charts",
        ),
        floors.table(verdict, "Floors"),
    ]


def _difference(
    name: str, one: Mapping[str, float], margin: float | None, of: str = "champion"
) -> Html:
    ends = [0.0, float(one["low"]), float(one["high"]), float(one["difference"])]
    if margin is not None:
        ends.append(-float(margin))
    room = max(0.005, 0.1 * (max(ends) - min(ends)))
    good = margin is None or one["low"] > -margin
    return charts.intervals(
        f"Difference in {NAMES[name]}" + ("" if of == "champion" else f" to the {of}"),
        f"New model {one['candidate']:.4f}, {of} {one['champion']:.4f}: "
        f"{one['difference']:+.4f} (one-sided 95 % bound {one['low']:+.4f}"
        + (f"; margin {-margin:+.4f}" if margin is not None else "")
        + ("). Within the margin." if good else "). Not within the margin."),
        [
            Interval(label=NAMES[name], value=float(one["difference"]), low=float(one["low"]),
                     high=float(one["high"]), style="a" if good else "b")
        ],
        Axis(label=f"new model less {of}", low=min(ends) - room, high=max(ends) + room,
             form="{:+.3f}"),
        columns=["", "new model", of, "difference", "low", "high", "margin"],
        rows=[
            [NAMES[name], *(f"{one[k]:.4f}" for k in ("candidate", "champion")),
             *(f"{one[k]:+.4f}" for k in ("difference", "low", "high")),
             "" if margin is None else f"{-margin:+.4f}"]
        ],
        marks=[] if margin is None else [Mark(x=-float(margin), text="margin")],
    )  # fmt: skip


def _models(engine: sa.Engine, run: sa.RowMapping, verdict: Mapping[str, Any]) -> Content:
    numbers = {
        "candidate": run["candidate_id"],
        "champion": run["champion_id"],
        "anchor": (verdict.get("anchor") or {}).get("model"),
    }
    there = {side: models.get(engine, n) for side, n in numbers.items() if n is not None}
    if not there:
        return html.note("No model was made, and there was no champion.")
    columns = ["", *(f"{SIDES[side]} ({row['id']})" for side, row in there.items())]
    rows: list[list[Content]] = [
        ["name", *(html.name(row["name"]) for row in there.values())],
        ["made", *(output.when(row["created_at"]) for row in there.values())],
        ["operating point", *(f"{row['threshold']:.4f}" for row in there.values())],
    ]
    for name, words in NAMES.items():
        one = verdict.get(name)
        if isinstance(one, Mapping):
            rows.append(
                [
                    f"{words}, frozen films",
                    *(
                        _four(
                            one.get(side)
                            if side != "anchor"
                            else (verdict["anchor"].get(name) or {}).get("champion")
                        )
                        for side in there
                    ),
                ],
            )
    for name in ("auroc", "sensitivity", "specificity", "ece"):
        values = [(row["metrics"] or {}).get(name) for row in there.values()]
        if any(value is not None for value in values):
            rows.append(
                [f"{NAMES.get(name, 'calibration error')}, validation of its own",
                 *("" if value is None else f"{value:.4f}" for value in values)]
            )  # fmt: skip
    return html.table("The models", columns, rows, shown=False)


def _four(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else ""


def _slices(verdict: Mapping[str, Any]) -> Content:
    slices: Mapping[str, Mapping[str, Any]] = verdict.get("slices") or {}
    if not slices:
        return html.note("The frozen films have no named parts.")
    rows: list[list[Content]] = []
    for name, one in slices.items():
        auroc = one.get("auroc")
        cells: Sequence[Content] = (
            [f"{auroc[k]:.4f}" for k in ("candidate", "champion")]
            + [f"{auroc[k]:+.4f}" for k in ("difference", "low", "high")]
            if isinstance(auroc, Mapping)
            else ["", "", "", "", ""]
        )
        rows.append(
            [html.name(str(name)), one.get("films"), "yes" if one.get("judged") else "too few",
             *cells]
        )  # fmt: skip
    return html.table(
        "AUROC by part",
        ["part", "films", "judged", "new model", "champion", "difference", "low", "high"],
        rows,
    )


def _snapshot(found: Mapping[str, Any]) -> Content:
    if not found:
        return html.note("The films of that night were not recorded.")
    classes = found.get("classes") or {}
    return html.facts(
        [
            ("Films", f"{found.get('films', 0):,}"),
            ("Classes", ", ".join(f"{n:,} {name}" for name, n in classes.items())),
            *(
                (
                    name.capitalize(),
                    f"{found[name]:,}" if isinstance(found.get(name), int) else None,
                )
                for name in ("added", "removed", "relabelled", "unreadable")
            ),
            ("Hash", found.get("hash")),
        ]
    )
