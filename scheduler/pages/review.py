"""The page on which a person labels films of a scoring job.

Which films: those whose label is worth most, and a control drawn by chance from all films, without
which nobody could tell how the job does on the rest. They are shuffled, and the model's answer is
hidden until it is asked for: a reader who knows it tends to agree. The page's own script is
review.js; what it saves is told there.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from db.queue import jobs, picks
from db.registry import models
from scheduler import errors
from scheduler.pages import films, html
from scheduler.pages.html import Section, el
from scheduler.pages.job import made_by
from scheduler.show import output

#: Why a film is there → in words.
WHY = {
    "nearest": "uncertain",
    "unusual": "unusual",
    "look": "acquired like films of one class",
    "disagreeing": "of which models disagree",
    "control": "drawn by chance",
}

#: Key → what it does, beside one key per class.
KEYS = (
    ("1 … 9", "give the film the class of that number, and go to the next without one"),
    ("0", "leave the film without a class (not sure), and go on"),
    ("← →", "the film before, the next one"),
    ("U", "undo"),
    ("N", "write a note; Escape leaves it"),
    ("O", "evidence on and off"),
    ("M", "the model's answer, and why the film is here, on and off"),
    ("+ − R", "larger, smaller, as it was; Shift and arrows move a larger film"),
    ("[ ] , .", "narrower and wider window; darker and brighter"),
    ("S", "save the labels as a CSV"),
)


@dataclass(frozen=True, kw_only=True)
class Made:
    """A page, and the films that are in it."""

    page: str
    #: Job and item of each.
    films: list[tuple[int, int]]
    #: Why → films; a film counts once, for its first reason.
    kinds: dict[str, int]
    #: The job of the other model, where there is one.
    against: int | None
    #: Films that could not be shown.
    missing: int


def make(
    engine: sa.Engine, job_id: int, *, most: int, control: int, against: int | None, csv_name: str
) -> Made:
    """A page with up to `most` films of each kind and so many of a control.

    Raises Failure where there are none.
    """
    other = against or picks.rival(engine, job_id)
    # The control comes first: it must be drawn from all films, whatever else they are.
    chosen = {"control": picks.films(engine, job_id, "control", control) if control else []}
    taken = [pick.item_no for pick in chosen["control"]]
    for why in ("disagreeing", "look", "nearest", "unusual"):
        if not most or (why == "disagreeing" and other is None):
            continue
        chosen[why] = picks.films(
            engine, job_id, why, most, unlabelled=True, other=other, without=taken
        )
        taken += [pick.item_no for pick in chosen[why]]
    if not taken:
        raise errors.Failure(
            f"job {job_id} has no prediction without a true label: nothing is left to be labelled"
        )
    pictures = films.read(
        engine, job_id, [pick for group in chosen.values() for pick in group], films.REVIEW
    )
    model = models.get(engine, jobs.get(engine, job_id)["model_id"])
    reasons = {pick.item_no: why for why, group in chosen.items() for pick in group}
    order = sorted(pictures)
    # The same films are in the same order again, so that a page can be made anew.
    random.Random(job_id).shuffle(order)
    listed = [_film(pictures[n], reasons[n], model["positive"]) for n in order]
    kinds = {why: len(group) for why, group in chosen.items() if group}
    digest = hashlib.sha256(repr((job_id, [film["sha256"] for film in listed])).encode())
    classes = picks.classes(engine, job_id)
    data = {
        "key": f"pneumoq-review-{job_id}-{digest.hexdigest()[:24]}",
        "job": job_id,
        "classes": classes,
        "csv": csv_name,
        "films": listed,
    }
    return Made(
        page=html.page(
            f"Review of job {job_id}: {len(order)} films",
            _lead(job_id, kinds, other),
            [_work(classes), _keys(classes)],
            made=made_by(f"pneumoq review {job_id}"),
            data=data,
            script="review.js",
        ),
        films=[(job_id, n) for n in order],
        kinds=kinds,
        against=other if kinds.get("disagreeing") else None,
        missing=sum(bool(picture.reason) for picture in pictures.values()),
    )


def _film(picture: films.Picture, why: str, positive: str) -> dict[str, Any]:
    pick = picture.pick
    return {
        "item": pick.item_no,
        "name": output.printable(pick.name),
        "sha256": picture.sha256,
        "why": why,
        "said": f"{WHY[why].capitalize()}; {films.why(picture, positive)}",
        "label": pick.label,
        "probability": pick.probability,
        "jpeg": html.picture(picture.jpeg, "jpeg") if picture.jpeg else "",
        "cam": html.picture(picture.cam, "png") if picture.cam else "",
        "mapped": picture.mapped,
        "box": picture.box,
        "size": [picture.width, picture.height],
        "reason": picture.reason,
    }


def _lead(job_id: int, kinds: dict[str, int], other: int | None) -> list[html.Content]:
    told = ", ".join(f"{n} {WHY[why]}" for why, n in kinds.items())
    sentences = [
        f"{told}, in no order. Give each film its true class; the model's answer is hidden until "
        "you ask for it (M).",
    ]
    if kinds.get("control"):
        others = (
            "; the others were chosen because the model is weak on them, and do not"
            if len(kinds) > 1
            else ""
        )
        sentences.append(
            f"The {kinds['control']} films drawn by chance stand for all films of the job{others}."
        )
    if kinds.get("disagreeing"):
        sentences.append(f"Models disagree where job {other} calls a film otherwise.")
    return [el("p", html.prose(" ".join(sentences)))]


def _button(action: str, text: str, key: str) -> html.Html:
    return el("button", text, " ", el("kbd", key), type="button", data_do=action,
              aria_keyshortcuts=key)  # fmt: skip


def _work(classes: list[str]) -> Section:
    """What the script fills: the film, and what can be done with it."""
    given = [
        el(
            "button", name, " ", el("kbd", n + 1) if n < 9 else None, type="button",
            data_class=n, aria_pressed="false",
        )
        for n, name in enumerate(classes)
    ]  # fmt: skip
    sliders = [
        el(
            "p",
            el("label", label, for_=name),
            el("input", type="range", id=name, min=low, max=high, value=value),
        )
        for name, label, low, high, value in (
            ("centre", "Window: centre", 0, 255, 128),
            ("width", "Window: width", 8, 255, 255),
        )
    ]
    return Section(
        "work",
        "Label the films",
        [
            el("noscript", html.note("This page needs its script to be allowed.", kind="warn")),
            el("p", "", id="status", role="status"),
            el("progress", "", id="progress", max=1, value=0, aria_label="Films labelled"),
            el(
                "div",
                el(
                    "div",
                    el(
                        "div",
                        el("div", "", class_="frame", id="frame"),
                        class_="square stage", id="stage",
                    ),
                    el("p", "", id="name"),
                    el("p", "", id="said", class_="note"),
                ),
                el(
                    "div",
                    el("div", given, class_="classes", role="group", aria_label="Class"),
                    el(
                        "div",
                        _button("unsure", "Not sure", "0"),
                        _button("undo", "Undo", "U"),
                        _button("before", "Before", "←"),
                        _button("next", "Next", "→"),
                        class_="keys", role="group", aria_label="Films",
                    ),
                    el(
                        "div",
                        _button("cam", "Evidence", "O"),
                        _button("model", "Answer of the model", "M"),
                        _button("larger", "Larger", "+"),
                        _button("smaller", "Smaller", "-"),
                        _button("reset", "As it was", "R"),
                        class_="keys", role="group", aria_label="View",
                    ),
                    sliders,
                    el(
                        "p",
                        el("label", "Note ", el("kbd", "N"), for_="note"),
                        el("textarea", "", id="note", rows=3),
                    ),
                    el("p", _button("save", "Save the labels (CSV)", "S")),
                    el("p", el("input", type="checkbox", id="keys-on", checked=True), " ",
                       el("label", "Keys without Alt or Ctrl work", for_="keys-on")),
                    class_="panel",
                ),
                class_="split review",
            ),
            el("h3", "All films", id="list-title"),
            el("ol", "", id="list", class_="numbers", aria_labelledby="list-title"),
            html.Html(
                '<svg class="aside" aria-hidden="true" width="0" height="0">'
                '<filter id="window" color-interpolation-filters="sRGB"><feComponentTransfer>'
                '<feFuncR type="linear"/><feFuncG type="linear"/><feFuncB type="linear"/>'
                "</feComponentTransfer></filter></svg>"
            ),
        ],
    )  # fmt: skip


def _keys(classes: list[str]) -> Section:
    rows: list[list[html.Content]] = [
        [el("kbd", str(n + 1)), name] for n, name in enumerate(classes[:9])
    ]
    rows += [[el("kbd", key), meaning] for key, meaning in KEYS[1:]]
    return Section(
        "keys",
        "Keys, and what becomes of the labels",
        [
            html.table("Keys", ["key", "what it does"], rows),
            el("p", "Labels and notes are kept in this browser as you go, so the page can be "
               "closed and opened again. Save them at the end: the CSV has one row per film."),
            html.note("`pneumoq labels import` brings the CSV in, `pneumoq train --labels` trains "
                      "on it, and `pneumoq labels compare` tells how far two readers agree."),
        ],
    )  # fmt: skip
