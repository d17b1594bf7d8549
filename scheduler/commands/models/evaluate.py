"""`pneumoq models evaluate`: how good a model is on labelled films, here and now."""

from __future__ import annotations

import collections
import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from db.base import database
from db.registry import aliases, models
from scheduler import engines, errors, session
from scheduler.commands.models import made_with
from scheduler.show import output
from scheduler.submitting import precision

if TYPE_CHECKING:
    from worker.training.evaluation import Scored

#: The metrics that have an interval, in the order in which they are shown.
SHOWN = ("accuracy", "auroc", "auprc", "sensitivity", "specificity", "ppv", "npv")

#: Unreadable files that are named; the CSV has all.
NAMED = 10

COLUMNS = ("path", "truth", "called", "probability", "unusual", "code", "reason")


@click.command("evaluate")
@click.argument("model")
@click.argument("data", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--split", type=click.Choice(["test", "val", "train", "all"]),
    help="Films of this split only. Default: test, and of a folder without splits all.",
)  # fmt: skip
@precision.option
@engines.here
@click.option(
    "--csv", "table", type=click.Path(path_type=Path, dir_okay=False),
    help="Write one line per film to this file.",
)  # fmt: skip
@click.option(
    "--shift/--no-shift", "dress", default=True, show_default=True,
    help="Dress films as others look, and measure what is left: docs/concepts/robustness.md.",
)  # fmt: skip
@output.json_option
@click.pass_context
def command(
    ctx: click.Context, model: str, data: Path, split: str | None, asked: str,
    asked_engine: str | None, table: Path | None, dress: bool, as_json: bool,
) -> None:  # fmt: skip
    """Measure a model on labelled films, at its own threshold.

    DATA has one folder per class, or train/, val/ and test/ with one folder per class in each; or
    it is a manifest (.csv). The result is kept and shown by `models show`. Exit status 3 where
    files could not be read; they are counted and named, and not in the figures.

    \b
    Example:
      pneumoq models evaluate champion /data/chest_xray --csv films.csv
    """
    ctx.exit(
        run(
            model,
            data,
            split=split,
            asked=asked,
            asked_engine=asked_engine,
            table=table,
            dress=dress,
            as_json=as_json,
        )
    )


def run(
    model: str,
    data: Path,
    *,
    split: str | None = None,
    asked: str = "auto",
    asked_engine: str | None = None,
    table: Path | None = None,
    dress: bool = True,
    as_json: bool = False,
) -> int:
    """Measure, keep and print; returns the exit status."""
    settings = engines.settings_of(session.settings(), asked_engine)
    engine = session.database()
    row = aliases.resolve(engine, model)
    import numpy as np

    from trainer.card import Card
    from trainer.data import whose
    from trainer.data.labelled import TEST
    from trainer.judging import figures
    from worker.decoding import labelled
    from worker.decoding.labelled import Limits
    from worker.scoring import serving
    from worker.training import evaluation, shifted

    pinned = precision.pin(engine, row["id"], asked, engines.this_machine(settings)).precision
    card = Card.from_json(json.dumps(row["card"]))
    split, entries = evaluation.choose(data, card, split)
    with ExitStack() as stack:
        network = stack.enter_context(serving.opened(settings, engine, row["id"], pinned))
        kept_films = shifted.Kept(entries if dress else (), card.size)
        films: Iterable[Scored] = evaluation.score(
            network, entries, labelled.processes(Limits.of(settings)), kept_films.add
        )
        if table is not None:
            films = stack.enter_context(_Table(table)).written(films)
        tally = _Tally(films)
        shift = kept_films.report(network)
    score = np.array(tally.scores)
    truth = np.array([name == card.positive for name in tally.truths], bool)
    owned = whose.of(entries)
    found = figures.summary(
        score, truth, card.threshold, [owned[n].patient for n in tally.places],
        known=whose.state([owned[n] for n in tally.places]),
    )  # fmt: skip
    seen = made_with.among(engine, settings, row, entries)
    # A calibration chooses on a folder's test split too.
    chose = bool(seen or card.provenance.get("calibrated"))
    basis = figures.TESTED if split == TEST and not chose else figures.GIVEN
    kept = {k: v for k, v in found.items() if k != "films"} | {
        "n_films": len(score),
        "basis": basis,
        "same_films": evaluation.same_films(zip(tally.contents, tally.truths, strict=True)),
        "threshold": card.threshold,
        "unusual": tally.unusual,
        "unreadable": sum(tally.unreadable.values()),
        "shift": shift,
    }
    name = f"{split} of {data.absolute().name}"
    if len(score):
        database.write(engine, lambda c: models.record_evaluation(c, row["id"], name, kept))
    report = {
        "model_id": row["id"], "model": row["name"], "precision": pinned, "data": str(data),
        "split": split, "basis": basis, "positive": card.positive, "metrics": found,
        "threshold": card.threshold,
        "prevalence": float(truth.mean()) if len(truth) else None, "unusual": tally.unusual,
        "confusion": {
            is_: {called: tally.pairs[is_, called] for called in card.labels}
            for is_ in card.labels
        },
        "unreadable": dict(tally.unreadable), "unreadable_files": tally.named, "shift": shift,
        "made_with": seen,
    }  # fmt: skip
    output.emit(report, as_json=True) if as_json else _print(report, len(score))
    return errors.ITEM_ERRORS if tally.unreadable else errors.DONE


class _Tally:
    """What is kept of films as they go by: two numbers and what they are each."""

    def __init__(self, films: Iterable[Scored]) -> None:
        self.scores: list[float] = []
        #: Which of all films these are of.
        self.places: list[int] = []
        self.truths: list[str] = []
        self.contents: list[bytes] = []
        self.unusual = 0
        self.pairs: collections.Counter[tuple[str, str]] = collections.Counter()
        self.unreadable: collections.Counter[str] = collections.Counter()
        self.named: list[str] = []
        for place, film in enumerate(films):
            if film.probability is None:
                self.unreadable[film.code] += 1
                if len(self.named) < NAMED:
                    self.named.append(f"{film.file}: {film.reason}")
                continue
            self.scores.append(film.probability)
            self.places.append(place)
            self.truths.append(film.truth)
            self.contents.append(film.content)
            self.unusual += film.unusual
            self.pairs[film.truth, film.called] += 1


class _Table:
    """A CSV of films, as they go by."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = path.open("w", newline="", encoding="utf-8", errors="surrogateescape")
        except OSError as error:
            raise errors.Failure(f"{path} cannot be written: {error.strerror}") from error

    def __enter__(self) -> _Table:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def written(self, films: Iterable[Scored]) -> Iterator[Scored]:
        rows = csv.writer(self._file)
        rows.writerow(COLUMNS)
        for f in films:
            rows.writerow(
                (f.file, f.truth, f.called, output.exact(f.probability), int(f.unusual),
                 f.code, f.reason)
            )  # fmt: skip
            yield f


def readable(found: Mapping[str, Any]) -> dict[str, str]:
    """Metrics for a person, each with its 95 % interval where it has one."""
    lines = {}
    for name in SHOWN:
        if found.get(name) is not None:
            lines[name] = f"{found[name]:.4f}"
            if f"{name}_low" in found:
                lines[name] += f"  ({found[f'{name}_low']:.4f} to {found[f'{name}_high']:.4f})"
    if found.get("ece") is not None:
        lines["ece"] = f"{found['ece']:.4f}"
    if found.get("patients_unknown"):
        lines["patients"] = "unknown: figures may be too good, and the intervals are too narrow"
    if found.get("films") is not None:
        lines["films"] = f"{found['films']:.0f}"
    return lines


def print_shift(report: Mapping[str, Any]) -> None:
    """What is left where films are dressed as others look, as a small table."""
    from trainer.shift import words

    click.echo("Dressed as others look (docs/concepts/robustness.md):")
    output.grid(list(words.HEAD), [list(row) for row in words.rows(report)])
    for note in words.notes(report):
        click.echo(note)


def _print(report: Mapping[str, Any], scored: int) -> None:
    positive, found = report["positive"], report["metrics"]
    click.echo(
        f"model {report['model_id']} ({output.printable(report['model'])}) in "
        f"{report['precision']} on {scored} films, {report['split']} of "
        f"{output.printable(report['data'])}"
    )
    if scored:
        click.echo(
            f"{positive} at or above {report['threshold']:.4f}; {100 * report['prevalence']:.1f} % "
            "of the films are; 95 % intervals in brackets\n"
        )
        facts = readable({k: v for k, v in found.items() if k != "films"})
        output.facts(facts | {"basis": report["basis"]})
        if warning := made_with.sentence(report["made_with"]):
            click.echo(f"{warning}: the figures are too good", err=True)
        click.echo()
        labels = list(report["confusion"])
        output.grid(
            ["truth", *(f"called {name}" for name in labels)],
            [[name, *report["confusion"][name].values()] for name in labels],
        )
        if report["unusual"]:
            click.echo(f"\n{report['unusual']} unlike the films that it was trained on")
        if report["shift"]:
            click.echo()
            print_shift(report["shift"])
    if report["unreadable"]:
        n = sum(report["unreadable"].values())
        codes = ", ".join(f"{n} × {code}" for code, n in report["unreadable"].items())
        click.echo(
            f"Not in the figures, as they could not be read: {n} of {scored + n} files ({codes})",
            err=True,
        )
        for name in report["unreadable_files"]:
            click.echo(f"  {output.printable(name)}", err=True)
        if n > NAMED:
            click.echo(f"  and {n - NAMED} more; --csv names all", err=True)
