"""Dressed: films that a model did not learn, beside themselves as films of another unit look.

They are read again from where training found them, or from labelled films that a person named, and
scored here and now. Where that cannot be, a sentence says why.
"""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from PIL import Image

from db.queue import training
from db.registry import models
from scheduler import session
from scheduler.pages import films as film_pages
from scheduler.pages import html
from scheduler.pages.html import Content, Html, el
from scheduler.show import output
from scheduler.submitting import precision
from trainer.acquisition import search
from trainer.card import Card
from trainer.data import manifest
from trainer.data.decoding import Wanted
from trainer.data.labelled import TRAIN, VAL
from trainer.errors import FilmError, TrainerError
from trainer.film import rules
from trainer.shift import samples, units
from trainer.shift.measure import COUNTER, UNIT, Score
from trainer.shift.samples import Pair, Sample
from worker.errors import WorkerError
from worker.machine import privacy
from worker.schedules import fleet

#: Processes that decode films.
DECODERS = 2

#: Begins each sentence that says why there is none.
NONE = "No dressed film is shown"

NOT_ASKED = f"{NONE}, as no films were asked for (`--films 0`)."

#: What helps where the training films cannot be had.
INSTEAD = "`pneumoq report MODEL FILE.html --data DATA` dresses labelled films that are at hand"


@dataclass(frozen=True, kw_only=True)
class Dressed:
    """Films under some dressings, or why there are none."""

    films: units.Films | None = None
    units: Sequence[units.Unit] = ()
    samples: Sequence[Sample] = ()
    #: A sentence; where there are samples, about them.
    said: str = ""


@dataclass(frozen=True, kw_only=True)
class _Film:
    """A line of a manifest."""

    path: str
    label: str
    patient: str
    sha256: str
    split: str


def of_films(films: units.Films, score: Score, *, seed: int, most: int, said: str) -> Dressed:
    """The samples of films at hand; `said` is where they are from."""
    if not most:
        return Dressed(said=NOT_ASKED)
    if len(np.unique(films.truth[films.held_out])) < 2:
        return Dressed(said=f"{NONE}: there are no films of both classes that it did not learn.")
    # As in training: in the films that were learned, where there are any.
    learned = int(np.count_nonzero(~films.held_out)) or len(films)
    some = search.look(films.planes, films.rows[:learned])
    found = units.find(films, some, seed=seed)
    drawn = samples.draw(films, found, score, seed=seed, most=min(2, most))
    return Dressed(films=films, units=found, samples=drawn, said=said)


def of_training(
    engine: sa.Engine, row: sa.RowMapping, most: int, report: Callable[[str], None]
) -> Dressed:
    """Samples of what the model's own training held out; `report` is told what takes a while."""
    if not most:
        return Dressed(said=NOT_ASKED)
    kept = None if row["dataset_id"] is None else training.manifest(engine, row["dataset_id"])
    if kept is None:
        return Dressed(said=f"{NONE}: which films it was trained on is not known here; {INSTEAD}.")
    if row["film_rule"] not in rules.RULES:
        return Dressed(said=f"{NONE}: this release does not know its film rule.")
    root, text = kept
    if not os.path.isdir(root):  # noqa: PTH112  # pathlib's raises below a folder of others
        return Dressed(
            said=f"{NONE}: the folder of its training films, {output.printable(root)}, cannot be "
            f"reached from here; {INSTEAD}."
        )
    from worker.scoring import serving
    from worker.training import shifted

    card = Card.from_json(json.dumps(row["card"]))
    seed = int((row["card"].get("shift") or {}).get("seed") or 0)
    report(
        "Dressing films: its training films are read again, which may take a minute; --films 0 "
        "leaves it out."
    )
    trained = row
    while trained["job_id"] is None and trained["parent_id"] is not None:
        trained = models.get(engine, trained["parent_id"])  # calibrated: the names are its job's
    try:
        films, wanted = _at_hand(trained, card, Path(root), text, seed)
    except WorkerError as error:
        return Dressed(said=f"{NONE}: its training films cannot be decoded here ({error}).")
    if not len(films):
        return Dressed(
            said=f"{NONE}: none of its {wanted:,} training films can be read again as it was; "
            f"{INSTEAD}."
        )
    said = "Films that it held out in training, read again for this page."
    if len(films) < wanted:
        said += (
            f" {wanted - len(films):,} of {wanted:,} films are gone or changed, so that groups may "
            "be others than above."
        )
    try:
        pinned = precision.pin(engine, row["id"], "auto", fleet.Machines()).precision
        with serving.opened(session.settings(), engine, row["id"], pinned) as network:
            return of_films(films, shifted.scorer(network), seed=seed, most=most, said=said)
    except (WorkerError, TrainerError) as error:
        return Dressed(said=f"{NONE}: this machine cannot run the model ({error}).")


def _at_hand(
    row: sa.RowMapping, card: Card, root: Path, text: str, seed: int
) -> tuple[units.Films, int]:
    """The films that the shift report was made of, as far as they are there, and of how many."""
    from worker.decoding import labelled
    from worker.decoding.labelled import Limits

    settings = session.settings()
    decoder = labelled.processes(Limits.of(settings, DECODERS))
    names = privacy.names_of_manifest(settings.home, row["job_id"] or 0)
    lines = [_Film(**{k: line[k] for k in manifest.COLUMNS}) for line in _rows(text)]
    known = [film for film in lines if film.label in card.labels]
    of = {split: [film for film in known if film.split == split] for split in (TRAIN, VAL)}
    learned = units.contents(of[TRAIN])
    kept = units.held_out([film.patient for film in of[VAL]], seed)
    every = (*learned, *(of[VAL][place] for place in kept))
    # On disk: thousands of large films are more than a small machine's memory.
    with tempfile.TemporaryFile() as file:
        shape = (max(1, len(every)), card.size, card.size)
        planes = np.memmap(file, np.uint8, "w+", shape=shape)
    there = np.zeros(len(every), np.bool_)
    wanted = (Wanted(file=root / names.get(f.path, f.path), sha256=f.sha256) for f in every)
    with closing(decoder(wanted, size=card.size, rule=card.film_rule)) as through:
        for found in through:
            if found is not None and not isinstance(found.outcome, FilmError):
                planes[found.number] = found.outcome
                there[found.number] = True
    rows = np.flatnonzero(there)
    label = {name: number for number, name in enumerate(card.labels)}
    films = units.Films(
        planes=planes,
        rows=rows,
        labels=np.array([label[every[n].label] for n in rows], dtype=np.int64),
        patients=[every[n].patient for n in rows],
        held_out=rows >= len(learned),
        names=card.labels,
        positive=card.positive_index,
    )
    return films, len(every)


def _rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def markup(found: Dressed, of: Mapping[str, Any] | None, threshold: float) -> Content:
    """The films side by side; `of` is the shift report of the card, whose groups have numbers."""
    if not found.samples:
        return html.note(found.said)
    assert found.films is not None
    two = any(len(sample.pairs) > 1 for sample in found.samples)
    content: list[Content] = [
        el("h3", "Dressed films side by side"),
        html.note(
            f"{found.said} Of up to {samples.TRIED} films of each class the one is shown whose "
            f"probability changes most{', and the one in the middle by its change' if two else ''}"
            ". They are examples: the measure is the figures above."
        ),
    ]
    for sample in found.samples:
        title = _title(found, sample, of)
        content += [
            el("h4", title),
            el(
                "ol",
                [
                    el("li", _pair(found.films, pair, title, threshold, sample.tried, n))
                    for n, pair in enumerate(sample.pairs)
                ],
                class_="films pairs",
            ),
        ]
    return content


def _title(found: Dressed, sample: Sample, of: Mapping[str, Any] | None) -> str:
    assert found.films is not None
    films = found.films
    if sample.kind == COUNTER:
        return "Acquired as films of the other class (counter-shift full)"
    if sample.kind != UNIT or sample.unit is None:
        return f"With the {sample.name.replace('spectrum', 'spectra')} films"
    unit = found.units[sample.unit - 1]
    label = films.names[unit.label]
    groups = (of or {}).get("groups") or ()
    same = sample.unit <= len(groups) and (
        groups[sample.unit - 1]["what"], groups[sample.unit - 1]["label"]
    ) == (unit.what, label)  # fmt: skip
    name = f"group {sample.unit}" if same else "a group"
    return output.printable(f"Dressed as {name}: {label} films with {unit.what}")


def _pair(films: units.Films, pair: Pair, title: str, threshold: float, tried: int, n: int) -> Html:
    truth = films.names[int(films.labels[pair.film])]
    changes = (pair.before >= threshold) != (pair.after >= threshold)
    which = f"changes most of {tried}" if n == 0 else f"in the middle of {tried}"
    sides = [("as it is", pair.plane, pair.before), ("dressed", pair.dressed, pair.after)]
    return el(
        "figure",
        el(
            "div",
            [
                el(
                    "div",
                    el("img", src=html.picture(_encoded(plane), "jpeg"),
                       alt=f"A {truth} film, {said}: {title}" if said == "dressed" else
                       f"A {truth} film as it is"),
                    el("span", f"{said}: P ", el("b", f"{100 * value:.1f} %"), class_="side"),
                )
                for said, plane, value in sides
            ],
            class_="pair",
        ),
        el(
            "figcaption",
            f"{truth} by label, {which}. "
            + ("The decision changes." if changes else "The decision stays."),
        ),
        class_="film",
    )  # fmt: skip


def _encoded(plane: NDArray[np.uint8]) -> bytes:
    """A film uint8 [S, S] as the model gets it, a gray JPEG."""
    image = Image.fromarray(np.ascontiguousarray(plane))
    image.thumbnail((film_pages.REPORT, film_pages.REPORT), Image.Resampling.LANCZOS)
    return film_pages.encoded(image, "JPEG", quality=film_pages.QUALITY, optimize=True)
