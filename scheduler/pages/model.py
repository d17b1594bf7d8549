"""The report of a model: how it learned, how good it is, where it fails, where it comes from.

Its curves and figures of labelled films are those that the database has; films are scored anew only
where a person names labelled ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from db.base import database
from db.queue import jobs, picks, training
from db.registry import aliases, drift, models
from scheduler.pages import card, charts, films, floors, html, judged
from scheduler.pages import dressed as dressed_page
from scheduler.pages.charts import Axis, Interval, Mark, Series
from scheduler.pages.dressed import Dressed
from scheduler.pages.html import Content, Html, Section, el
from scheduler.pages.job import Made, evidence_switch, made_by
from scheduler.pages.judged import Judged
from scheduler.show import output
from trainer.learning import epoch as epochs


def make(
    engine: sa.Engine, row: sa.RowMapping, found: Judged | None, worst: int, dressed: Dressed
) -> Made:
    """The report of a model's row; `found` are scores of labelled films, `worst` how many mistakes
    are shown of them, and `dressed` films as others look."""
    model_id, positive = int(row["id"]), str(row["positive"])
    found = found or judged.of_job(engine, row)
    detail = models.detail(engine, model_id)
    learned = training.epoch_rows(engine, row["job_id"]) if row["job_id"] is not None else []
    pictures = _worst(engine, row, found, worst) if found is not None else []
    with database.reading(engine) as connection:
        champion = aliases.model_of(connection, aliases.CHAMPION) == model_id
    title = f"Model {model_id}: {output.printable(row['name'])[:80]}"
    page = html.page(
        title,
        _lead(row, champion, detail["evaluations"]),
        [
            Section("learned", "How it learned", learning(engine, row, learned)),
            Section(
                "good",
                "How good it is",
                [_good(row, detail["evaluations"], found), floors.of_model(engine, model_id)],
            ),
            Section("worst", "Its worst mistakes", _mistakes(found, pictures, positive)),
            Section(
                "shift",
                "Films that look acquired otherwise",
                [
                    shift(row["card"]),
                    dressed_page.markup(
                        dressed, (row["card"] or {}).get("shift"), float(row["threshold"])
                    ),
                ],
            ),
            Section("lineage", "Where it comes from", _lineage(engine, row, detail)),
            Section("card", "Model card", card.of(engine, row, detail["evaluations"])),
        ],
        made=made_by(f"pneumoq report model:{model_id}"),
        controls=evidence_switch() if any(p.cam for p in pictures) else None,
    )
    job_id = None if found is None else found.job_id
    return Made(
        page=page,
        films=[(job_id, p.pick.item_no) for p in pictures] if job_id is not None else [],
        missing=sum(bool(p.reason) for p in pictures),
    )


def _lead(row: sa.RowMapping, champion: bool, evaluations: Sequence[sa.RowMapping]) -> Content:
    found = row["metrics"] or {}

    def figure(name: str) -> tuple[Content, str]:
        if found.get(name) is None:
            return "–", "not known"
        low, high = found.get(f"{name}_low"), found.get(f"{name}_high")
        between = f"{low:.3f} to {high:.3f}" if low is not None and high is not None else ""
        return f"{found[name]:.3f}", f"on validation {between}"

    state = "the champion" if champion else str(row["state"])
    basis = (row["card"] or {}).get("basis")
    return [
        el(
            "p",
            f"{state[0].upper()}{state[1:]}, {row['origin']} {output.when(row['created_at'])}; "
            f"films at or above {100 * row['threshold']:.1f} % are called ",
            output.printable(row["positive"]), ".",
        ),
        html.tiles(
            [
                ("AUROC", *figure("auroc")),
                ("Sensitivity", *figure("sensitivity")),
                ("Specificity", *figure("specificity")),
                ("Operating point", f"{row['threshold']:.3f}", str(row["threshold_rule"])),
                ("Evaluations", len(evaluations), "kept in the database"),
            ]
        ),
        html.note(f"Figures: {basis}.") if basis else None,
        html.note(
            "It is not known whose the training films are: figures may be too good, and their "
            "intervals too narrow.",
            kind="warn",
        )
        if (row["card"] or {}).get("patients") == "unknown"
        else None,
    ]  # fmt: skip


def learning(
    engine: sa.Engine, row: Mapping[Any, Any] | None, rows: Sequence[sa.RowMapping]
) -> Content:
    """Loss and accuracy of training and validation by epoch, with where overfitting begins."""
    if not rows:
        return html.note("No epochs are known: it was imported, or its training job is gone.")
    job_id = int(rows[0]["job_id"])
    asked = int(jobs.get(engine, job_id)["spec"].get("epochs") or rows[-1]["epoch"])
    kept = [r for r in rows if r["best"]]
    begins = overfitting(rows)
    best = kept[-1]["epoch"] if kept else None
    marks = [] if best is None else [Mark(x=best, text=f"epoch {best} is kept")]
    of_loss = marks
    if begins is not None:
        of_loss = [Mark(x=begins, text="kept; overfitting begins" if begins == best else
                        "overfitting begins"),
                   *(marks if begins != best else [])]  # fmt: skip
    drawn = [
        _curve(rows, name, title, label, of_loss if name == "loss" else marks)
        for name, title, label in (
            ("loss", "Loss by epoch", "loss"),
            ("accuracy", "Accuracy by epoch", "accuracy"),
            ("auroc", "AUROC by epoch", "AUROC"),
        )
    ]
    said = (
        f"Overfitting begins after epoch {begins}: from there on the loss of validation rises "
        "while that of training falls."
        if begins is not None
        else "No overfitting is seen: the loss of validation does not rise while that of training "
        "falls."
    )
    return [
        html.note(
            f"{len(rows)} of {asked} epochs. {said} Training is measured on augmented films, "
            "validation on films as they are."
        ),
        el("div", drawn, class_="charts"),
    ]


def overfitting(rows: Sequence[Mapping[Any, Any]]) -> int | None:
    """The epoch after which validation's loss only rises while training's falls, if it does.

    As `trainer.learning.epoch.verdict` judges it: the last epochs are all well above the lowest.
    """
    if len(rows) < 2:
        return None
    lowest = min(rows, key=lambda r: r["val_loss"])
    risen = all(
        r["val_loss"] > (1 + epochs.RISE) * lowest["val_loss"] for r in rows[-epochs.RISEN_EPOCHS :]
    )
    if risen and rows[-1]["train_loss"] < lowest["train_loss"]:
        return int(lowest["epoch"])
    return None


def _curve(
    rows: Sequence[sa.RowMapping], name: str, title: str, label: str, marks: Sequence[Mark]
) -> Html:
    series = [
        Series(
            name=which,
            points=[(r["epoch"], r[f"{column}_{name}"]) for r in rows],
            style=style,
            marked=len(rows) <= 40,
        )
        for which, column, style in (("training", "train", "a"), ("validation", "val", "b"))
    ]
    values = [y for one in series for _, y in one.points if y is not None and y == y]
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = (high - low) * 0.08 or 0.05
    if name == "loss":
        low, high = 0.0 if low < 0.4 * high else low - room, high + room
    else:
        low, high = max(0.0, low - room), min(1.0, high + room)
    first, last = rows[0]["epoch"], rows[-1]["epoch"]
    ticks = [t for t in charts.nice(first, last) if float(t).is_integer()] or [first, last]
    now = rows[-1]
    return charts.lines(
        title,
        f"After epoch {now['epoch']}: training {_number(now[f'train_{name}'])}, validation "
        f"{_number(now[f'val_{name}'])}.",
        series,
        Axis(label="epoch", low=first, high=max(last, first + 1), ticks=ticks, form="{:.0f}"),
        Axis(label=label, low=low, high=high, form="{:.3g}"),
        columns=["epoch", "training", "validation"],
        rows=[[r["epoch"], _number(r[f"train_{name}"]), _number(r[f"val_{name}"])] for r in rows],
        marks=marks,
    )


def _number(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.4f}"


def _good(
    row: sa.RowMapping, evaluations: Sequence[sa.RowMapping], found: Judged | None
) -> Content:
    threshold, positive = float(row["threshold"]), output.printable(str(row["positive"]))
    drawn: list[Html] = []
    for one in [e for e in evaluations if e["metrics"].get("auroc") is not None][-6:]:
        drawn.append(
            judged.measured(
                f"{output.printable(one['split'])}, {output.when(one['created_at'])}",
                dict(one["metrics"]),
                f"{one['n_films']:,} films; {one['metrics'].get('basis') or judged.UNSAID}.",
            )
        )
    content: list[Content] = [el("div", drawn, class_="charts")] if drawn else []
    if found is None:
        content.append(
            html.note(
                "ROC, precision and recall, calibration and mistakes need films one by one: bring "
                "in labels of a job (`pneumoq labels import`), or name labelled films with "
                "`pneumoq report --data`."
            )
        )
        return content
    content += [
        el("h3", f"Film by film: {found.of} ({len(found.score):,})"),
        *(html.note(note, kind="warn") for note in found.notes),
        el("div", judged.figures(found, threshold, positive), class_="charts"),
        judged.confusion(found, threshold, positive),
    ]
    return content


def _worst(engine: sa.Engine, row: sa.RowMapping, found: Judged, most: int) -> list[films.Picture]:
    places = found.worst(float(row["threshold"]), most)
    names = [str(name) for name in (row["card"] or {}).get("labels") or ()]
    others = [name for name in names if name != row["positive"]]
    other = others[0] if len(others) == 1 else f"not {row['positive']}"
    truth = {int(found.number[n]): row["positive"] if found.truth[n] else other for n in places}
    if found.job_id is None:
        files = [
            (int(found.number[n]), found.files[int(found.number[n])], float(found.score[n]))
            for n in places
        ]
        return [
            dataclasses.replace(picture, truth=truth[picture.pick.item_no])
            for picture in films.of_files(engine, row, "fp32", files)
        ]
    items = [int(found.number[n]) for n in places]
    chosen = picks.named(engine, found.job_id, items)
    pictures = films.read(engine, found.job_id, chosen, films.REPORT)
    return [dataclasses.replace(pictures[n], truth=truth[n]) for n in items if n in pictures]


def _mistakes(found: Judged | None, pictures: Sequence[films.Picture], positive: str) -> Content:
    if found is None:
        return html.note("No labelled films are known one by one.")
    if not pictures:
        return html.note("No labelled film is called wrongly.")
    return [
        html.note(
            "Labelled films that are called wrongly, the surest mistakes first. Some may be "
            "mistakes of the label."
        ),
        films.grid(pictures, positive),
    ]


def shift(of: Mapping[str, Any] | None) -> Content:
    """What the shift report of a model file's card says, where it has one."""
    found = (of or {}).get("shift")
    if not isinstance(found, Mapping) or not found.get("dressings"):
        notes = found.get("notes") if isinstance(found, Mapping) else None
        return [
            html.note(
                "It was not measured what the model does where films look acquired otherwise."
            ),
            *(html.note(str(note)) for note in notes or ()),
        ]
    values = [("as they are", found["plain"], "a")]
    values += [(str(one["name"]), one["auroc"], "b") for one in found["dressings"]]
    least = min(float(v["low"]) for _, v, _ in values)
    rows: list[list[Content]] = [["as they are", "", "", *_bounds(found["plain"]), ""]]
    for one in found["dressings"]:
        rows.append(
            [
                str(one["name"]), str(one["kind"]), one["films"], *_bounds(one["auroc"]),
                f"{100 * one['flips']['value']:.1f} %" if one.get("flips") else "",
            ]
        )  # fmt: skip
    return [
        html.note(
            "Held-out films are dressed to look as if they were acquired as films of the other "
            "class; a model that knows the disease, not the look, does not mind."
        ),
        el(
            "div",
            charts.intervals(
                "AUROC where films look acquired otherwise",
                f"Of {found['films']:,} held-out films; the lowest is "
                f"{min(float(v['value']) for _, v, _ in values):.3f}.",
                [
                    Interval(label=label, value=float(v["value"]), low=float(v["low"]),
                             high=float(v["high"]), style=style)
                    for label, v, style in values
                ],
                Axis(label="AUROC, with its 95 % interval", low=max(0.0, least - 0.05), high=1,
                     form="{:.2f}"),
                columns=["dressing", "kind", "films", "AUROC", "low", "high", "decisions changed"],
                rows=rows,
                names={"a": "as they are", "b": "dressed"},
            ),
            class_="charts",
        ),
        *(html.note(str(note)) for note in found.get("notes") or ()),
    ]  # fmt: skip


def _bounds(value: Mapping[str, float]) -> list[str]:
    return [f"{float(value[name]):.4f}" for name in ("value", "low", "high")]


def _lineage(
    engine: sa.Engine, row: sa.RowMapping, detail: dict[str, list[sa.RowMapping]]
) -> Content:
    chain: list[Content] = []
    parent, seen = row["parent_id"], {int(row["id"])}
    while parent is not None and parent not in seen and len(seen) < 50:
        seen.add(parent)
        one = models.get(engine, parent)
        chain.append(
            el(
                "li",
                f"model {parent} ",
                html.name(one["name"]),
                f", {output.when(one['created_at'])}",
            )
        )
        parent = one["parent_id"]
    measured = drift.of_model(engine, int(row["id"]))
    return [
        html.facts(
            [
                ("Made by", f"job {row['job_id']}" if row["job_id"] else row["origin"]),
                ("Trained on", f"dataset {row['dataset_id']}" if row["dataset_id"] else None),
                ("Began from", el("ul", chain, class_="plain") if chain else "no model here"),
            ]
        ),
        html.table(
            "Files",
            ["precision", "bytes", "SHA-256"],
            [[f["precision"], f["size_bytes"], f["sha256"]] for f in detail["files"]],
        ),
        html.table(
            "History",
            ["when", "who", "event", "why"],
            [
                [output.when(e["at"]), e["who"], e["event"], e["detail"]]
                for e in detail["events"][-50:]
            ],
        ),
        html.table(
            "Drift of its latest jobs",
            ["job", "films", "PSI", "its limit", "warned"],
            [
                [m["job_id"], m["n"], f"{m['psi']:.3f}", f"{m['psi_limit']:.3f}",
                 "yes" if m["warned"] else "no"]
                for m in measured
            ],
        )
        if measured
        else None,
    ]  # fmt: skip
