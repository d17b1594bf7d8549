"""The report of a scoring job: which films to look at first and why, and how the job went.

What is asked of the database are sums and a few films, so that a page of a million films takes as
long as its pictures and a look through the job's predictions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import sqlalchemy as sa

from db.base import database
from db.queue import jobs, measured, overview, picks
from db.registry import drift, models
from scheduler.pages import charts, films, html
from scheduler.pages.charts import Axis, Mark, Series
from scheduler.pages.films import Picture
from scheduler.pages.html import Content, Html, Section, el
from scheduler.show import output

#: Spans of time that throughput is shown in.
SPANS = 40

#: Why → heading and what it means.
GROUPS = {
    "highest": ("The most suspicious", "The highest probabilities of the job."),
    "nearest": (
        "The most uncertain",
        "Nearest to the operating point: a small change turns the answer. A label of these teaches "
        "a model most.",
    ),
    "unusual": (
        "The least like the training films",
        "The model was not made for such films: its answer means little, whatever it is.",
    ),
    "look": (
        "Acquired like training films of one class",
        "Nearly all training films that look acquired so were of one class: the model may go by "
        "the look.",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Made:
    """A page, and the films that are in it."""

    page: str
    #: Job and item of each.
    films: list[tuple[int, int]]
    #: Films that could not be shown.
    missing: int


def make(engine: sa.Engine, job_id: int, most: int) -> Made:
    """The report of a scoring job with up to `most` films of each kind."""
    row = jobs.progress(engine, job_id)
    model = models.get(engine, row["model_id"])
    chosen: dict[str, list[picks.Pick]] = {}
    taken: list[int] = []
    for why in GROUPS:
        # A film is shown once, for its first reason.
        chosen[why] = picks.films(engine, job_id, why, most, without=taken) if most else []
        taken += [pick.item_no for pick in chosen[why]]
    pictures = films.read(
        engine, job_id, [pick for group in chosen.values() for pick in group], films.REPORT
    )
    parts = [
        _first(engine, row, model, chosen, pictures),
        _scores(engine, row, model),
        _not_scored(engine, row),
        Section(
            "job",
            "How the job went",
            el("div", _throughput(engine, row), _about(engine, row, model), class_="split"),
        ),
    ]
    shown = any(picture.cam for picture in pictures.values())
    page = html.page(
        f"Job {job_id}: {output.text(int(row['items']))} films for {model['positive']}",
        _lead(engine, row, model),
        parts,
        made=made_by(f"pneumoq report {job_id}"),
        controls=evidence_switch() if shown else None,
    )
    return Made(
        page=page,
        films=[(job_id, item_no) for item_no in pictures],
        missing=sum(bool(picture.reason) for picture in pictures.values()),
    )


def made_by(command: str) -> str:
    """When and by what a page was made."""
    now = datetime.now(timezone.utc)
    return (
        f"Made {output.when(now)} by {html.version()} with `{command}`. It needs no network; what "
        "it shows of films is all inside this file, so keep it as you keep the films."
    )


def evidence_switch() -> Html:
    """The switch that shows and hides the evidence on all films."""
    return el(
        "p",
        el("input", type="checkbox", id="evidence", checked=True),
        " ",
        el("label", "Show the evidence on films", for_="evidence"),
        class_="switch",
    )


def _lead(engine: sa.Engine, row: sa.RowMapping, model: sa.RowMapping) -> Content:
    done, items = int(row["done"]), int(row["items"])
    state = str(row["state"]).replace("_", " ")
    took = _seconds(row["started_at"], row["finished_at"])
    predictions = int(row["predictions"])
    sentence = [
        f"{state.capitalize()}"
        + (f" in {output.seconds(took)}" if took else "")
        + f", scored by model {model['id']} (",
        html.name(model["name"]),
        f") in {row['precision'] or 'fp32'}; films at or above "
        f"{100 * model['threshold']:.1f} % are called {output.printable(model['positive'])}.",
    ]
    unfinished = row["finished_at"] is None
    return [
        el("p", sentence),
        html.note(
            f"The job goes on: this is what it had come to, {done:,} of {items:,} films.",
            kind="warn",
        )
        if unfinished
        else None,
        html.note(f"Reason: {row['reason']}", kind="warn") if row["reason"] else None,
        html.tiles(
            [
                ("Films", f"{items:,}", "listed"),
                ("Scored", f"{predictions:,}", _share(predictions, items)),
                (
                    f"Called {output.printable(model['positive'])[:24]}",
                    f"{int(row['positives']):,}",
                    _share(int(row["positives"]), predictions),
                ),
                ("Unusual", f"{int(row['unusual']):,}", "unlike the training films"),
                ("Refused", f"{int(row['refused']):,}", "intact, but no films to be scored"),
                ("In error", f"{int(row['errors']):,}", "could not be read"),
            ]
        ),
    ]


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} % of {whole:,}" if whole else "of none"


def _first(
    engine: sa.Engine,
    row: sa.RowMapping,
    model: sa.RowMapping,
    chosen: dict[str, list[picks.Pick]],
    pictures: dict[int, Picture],
) -> Section:
    title = "Films to look at first, and why"
    if not any(chosen.values()):
        return Section("first", title, html.note("No film of this job was scored."))
    content: list[Content] = []
    without = sum(not found.mapped and bool(found.jpeg) for found in pictures.values())
    if without:
        content.append(
            html.note(
                f"Of {without} of these films there is no map of the evidence: none was kept "
                "(`pneumoq score --keep-cam all` keeps one of each film), and this machine could "
                "not compute it."
            )
        )
    for why, (heading, meaning) in GROUPS.items():
        if not chosen[why]:
            continue
        found = [pictures[pick.item_no] for pick in chosen[why]]
        content += [
            el("h3", f"{heading} ({len(found)})"),
            el("p", meaning, class_="note"),
            films.grid(found, model["positive"]),
        ]
    return Section("first", title, content)


def _scores(engine: sa.Engine, row: sa.RowMapping, model: sa.RowMapping) -> Section:
    job_id, total = int(row["job_id"]), int(row["predictions"])
    with database.reading(engine) as connection:
        counted = overview.histogram(connection, job_id)
    drifted = drift.of_job(engine, job_id)
    if not total or not counted:
        gone = "were removed with the job's outcomes" if row["purged_at"] else "are none"
        return Section("scores", "Scores", html.note(f"There {gone}."))
    names = [str(found["name"]) for found in models.detail(engine, model["id"])["labels"]]
    bins = overview.BUCKETS
    counts = {n: [0] * bins for n in range(len(names))}
    for bucket, label_no, n in counted:
        counts[label_no][bucket] += n
    positive = names.index(model["positive"])
    order = [n for n in range(len(names)) if n != positive] + [positive]
    reference = (model["reference"] or {}).get("histogram") or ()
    known = len(reference) == bins and sum(reference)
    shares = [n / sum(reference) for n in reference] if known else []
    edges = [n / bins for n in range(bins + 1)]
    sums = [sum(counts[n][b] for n in counts) for b in range(bins)]
    top = max(max(sums) / total, *(shares or [0]))
    styles = ["a", "c", "d"]
    stacked = [
        Series(
            name=f"called {names[n]}",
            points=[(edges[b], counts[n][b] / total) for b in range(bins)],
            style="b" if n == positive else styles[place % len(styles)],
        )
        for place, n in enumerate(order)
    ]
    of = (model["reference"] or {}).get("of", "validation")
    over = (
        Series(name=f"the model's reference ({of})", points=list(zip(edges, shares, strict=False)),
               style="d")
        if shares
        else None
    )  # fmt: skip
    columns = ["probability", *(f"called {names[n]}" for n in order), "all"]
    if shares:
        columns.append("share of the reference")
    rows: list[list[Any]] = []
    for b in range(bins):
        line: list[Any] = [f"{edges[b]:.2f} to {edges[b + 1]:.2f}"]
        line += [counts[n][b] for n in order] + [sums[b]]
        rows.append([*line, f"{100 * shares[b]:.1f} %"] if shares else line)
    called = sum(counts[positive])
    chart = charts.bars(
        f"Probability of {model['positive']}",
        f"{total:,} scored films; {called:,} ({100 * called / total:.1f} %) are at or above the "
        f"operating point of {model['threshold']:.3f}.",
        edges,
        stacked,
        Axis(label=f"probability of {model['positive']}", low=0, high=1, form="{:.1f}"),
        Axis(label="share of the films", low=0, high=top * 1.12, form="{:.0%}"),
        columns=columns,
        rows=rows,
        marks=[Mark(x=model["threshold"], text=f"operating point {model['threshold']:.3f}")],
        over=over,
    )
    return Section(
        "scores", "Scores and drift",
        [_drift(drifted), el("div", chart, _truth(engine, job_id), class_="charts")],
    )  # fmt: skip


def _drift(drifted: dict[str, Any] | None) -> Html:
    if drifted is None:
        return html.note("Drift was not measured: the model has no reference, or the job goes on.")
    said = "Drift: " if drifted["warned"] else "No drift seen: "
    return html.note(said, drifted["detail"], ".", kind="warn" if drifted["warned"] else "note")


def _truth(engine: sa.Engine, job_id: int) -> Html | None:
    """How the job did by labels that were brought in."""
    found = measured.stored(engine, job_id)
    if found is None:
        return None
    return html.table(
        f"By {found['n_films']:,} labels that were brought in",
        ["figure", "value"],
        [
            [name, f"{value:.4f}" if isinstance(value, float) else value]
            for name, value in found["metrics"].items()
        ],
    )


def _not_scored(engine: sa.Engine, row: sa.RowMapping) -> Section:
    job_id = int(row["job_id"])
    content: list[Content] = []
    with database.reading(engine) as connection:
        for refused, heading in ((False, "In error"), (True, "Refused")):
            found = overview.codes(connection, job_id, refused=refused)
            if not found:
                continue
            rows: list[list[Content]] = [
                [
                    code,
                    n,
                    el(
                        "ul",
                        [
                            el("li", html.name(one["name"]), ": ", _cut(one["detail"]))
                            for one in examples
                        ],
                        class_="plain",
                    ),
                ]
                for code, n, examples in found
            ]
            content += [
                html.table(f"{heading}, by code", ["code", "films", "examples"], rows),
            ]
    if not content:
        counted = int(row["refused"]) + int(row["errors"])
        content.append(
            html.note(
                f"{counted:,} films, of which nothing more is known: the job was purged."
                if counted
                else "Nothing was refused, and nothing is in error."
            )
        )
    passed = jobs.get(engine, job_id)["passed_over"] or {}
    if passed:
        entries = ", ".join(f"{n:,} {kind}" for kind, n in sorted(passed.items()))
        content.append(html.note(f"Entries that are no items: {entries}."))
    return Section("errors", "Not scored", content)


def _cut(sentence: str, most: int = 200) -> str:
    text = output.printable(sentence)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _throughput(engine: sa.Engine, row: sa.RowMapping) -> Html | None:
    with database.reading(engine) as connection:
        spans = overview.finished(connection, int(row["job_id"]), SPANS)
    if len(spans) < 2 or row["purged_at"] is not None:
        return None
    begin = spans[0][0]
    width = (spans[1][0] - begin).total_seconds()
    unit, factor = ("s", 1.0) if width * len(spans) < 600 else ("min", 60.0)
    if width * len(spans) > 6 * 3600:
        unit, factor = "h", 3600.0
    edges = [n * width / factor for n in range(len(spans) + 1)]
    rates = [n / width for _, n in spans]
    total, long = sum(n for _, n in spans), width * len(spans)
    return charts.bars(
        "Films per second",
        f"{total:,} outcomes were committed within {output.seconds(long)}, "
        f"{total / long:,.1f} a second on the average. Films count when their part of the job is "
        "committed.",
        edges,
        [Series(name="films/s", points=list(zip(edges, rates, strict=False)))],
        Axis(label=f"since the first commit, in {unit}", low=0, high=edges[-1]),
        Axis(label="films/s", low=0, high=max(rates) * 1.12 or 1, form="{:,.6g}"),
        columns=["from", "films", "films/s"],
        rows=[
            [output.when(at), n, round(rate, 1)] for (at, n), rate in zip(spans, rates, strict=True)
        ],
    )


def _about(engine: sa.Engine, row: sa.RowMapping, model: sa.RowMapping) -> Html:
    sources: Sequence[sa.RowMapping] = jobs.source_rows(engine, int(row["job_id"]))
    listed: Content = [
        el(
            "ul",
            [el("li", f"{one['kind']} ", html.name(one["uri"], 120)) for one in sources[:50]],
            class_="plain",
        )
    ]
    if len(sources) > 50:
        listed = [listed, html.note(f"and {len(sources) - 50:,} more")]
    return html.facts(
        [
            ("Submitted", f"{output.when(row['created_at'])} by {row['submitted_by']}"),
            ("Started", output.when(row["started_at"])),
            ("Finished", output.when(row["finished_at"])),
            ("Model", [f"{model['id']} ", html.name(model["name"])]),
            ("Model made", output.when(model["created_at"])),
            ("Operating point", f"{model['threshold']:.4f} ({model['threshold_rule']})"),
            ("Film rule", model["film_rule"]),
            ("Sources", listed if sources else "not known any more: the job was purged"),
        ]
    )


def _seconds(started: datetime | str | None, finished: datetime | str | None) -> float | None:
    if started is None or finished is None:
        return None
    begin, end = (
        datetime.fromisoformat(at.replace("Z", "+00:00")) if isinstance(at, str) else at
        for at in (started, finished)
    )
    return (end - begin).total_seconds()
