"""Calibrated: the new version that a calibration makes, registered, promoted and shown."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import sqlalchemy as sa

from db.base import database
from db.base.errors import Conflict
from db.registry import aliases, engines, events, models
from scheduler import session
from scheduler.commands.models import evaluate
from scheduler.show import output
from scheduler.submitting import submit

if TYPE_CHECKING:
    from trainer.card import Card
    from trainer.judging.crossfit import CrossFitted
    from trainer.judging.verdict import Verdict
    from worker.config import Settings
    from worker.training.site_films import Films

#: Figures that are shown, before and after.
SHOWN = ("sensitivity", "specificity", "ppv", "npv", "accuracy", "auroc", "ece")

#: How the evaluations of both versions on the films are called.
SPLIT = "calibration films"


@dataclass(frozen=True, kw_only=True)
class Version:
    """What a calibration made of a model, before it is registered."""

    #: The model as it was, and its card.
    row: sa.RowMapping
    was: Card
    #: The new version's card.
    card: Card
    films: Films
    new: CrossFitted
    #: Figures of the model as it was on these films.
    before: Mapping[str, float]
    verdict: Verdict
    #: The model that it was compared with.
    against: int
    #: The job whose scores were taken, if any.
    job: int | None

    def register(self, settings: Settings, engine: sa.Engine, name: str) -> tuple[int, list[str]]:
        """Write and register the new version; its number, and a sentence per faster precision."""
        from trainer.judging.figures import GIVEN
        from worker.decoding import labelled
        from worker.decoding.labelled import Limits
        from worker.engine import store
        from worker.training import evaluation, recalibrating

        films, own = self.films, int(self.row["id"])
        have = {file["precision"] for file in models.detail(engine, own)["files"]}
        usable = engines.usable_precisions(engine, own, "either") - {"fp32"}
        if not films.judged:
            # No film is at hand to see whether they decide alike at the new operating point.
            have = {"fp32"}
        files = {one: store.fetch(engine, settings.home, own, one) for one in sorted(have)}
        rows: list[dict[str, Any]] = []
        notes: list[str] = []
        if films.judged:
            rows, notes = recalibrating.faster(
                files, usable, films, self.was, self.new, batch=settings.batch,
                threads=settings.engine_threads, decoder=labelled.processes(Limits.of(settings)),
            )  # fmt: skip
        elif usable:
            notes.append(
                "it has no faster precisions yet, as no film was read to measure them on: "
                "`pneumoq models quantise` makes them"
            )
        passed = {"fp32", *(row["precision"] for row in rows if row["passed"])}
        who = session.who()
        truth_films = len(films.labels)
        same = evaluation.same_films((bytes.fromhex(f.sha256)[:16], f.name) for f in films.judged)
        with tempfile.TemporaryDirectory(prefix="pneumoq-") as work:
            made = recalibrating.write(
                {one: path for one, path in files.items() if one in passed},
                Path(work),
                self.card,
                self.new,
            )
            said = json.loads(self.card.to_json())
            fresh = models.NewModel.of(
                said,
                name=name,
                origin=self.row["origin"],
                files=made,
                dataset_id=self.row["dataset_id"],
                parent_id=own,
                calibrated_on=films.on,
                calibration_films=truth_films,
                calibration_patients=len(set(films.patients)),
                engines=rows,
                reference=recalibrating.reference(films, self.new),
            )

            def register(connection: sa.Connection) -> int:
                number = models.register(connection, fresh, who)
                for model_id, measured in ((number, self.card.metrics), (own, self.before)):
                    kept: dict[str, Any] = {k: v for k, v in measured.items() if k != "films"}
                    kept["basis"] = self.card.basis if number == model_id else GIVEN
                    if films.judged:
                        kept["same_films"] = same
                    models.record_evaluation(
                        connection, model_id, SPLIT, {**kept, "n_films": truth_films},
                        job_id=self.job,
                    )  # fmt: skip
                passes = "passes" if self.verdict.accepted else "does not pass"
                events.log(
                    connection, number, who, "calibrated",
                    f"from model {own} on {truth_films} films of "
                    f"{len(set(films.patients))} patients; it {passes} the gate against model "
                    f"{self.against}: {self.verdict.text}",
                )  # fmt: skip
                return number

            return database.write(engine, register), notes

    def promote(self, engine: sa.Engine, number: int) -> None:
        """Make it the champion. Conflict where that is another model now than it was judged by."""
        who = session.who()

        def move(connection: sa.Connection) -> None:
            champion = aliases.model_of(connection, aliases.CHAMPION, lock=True)
            if champion not in (None, self.against):
                raise Conflict(
                    f"the champion was changed to model {champion} meanwhile, and model {number} "
                    f"was compared with model {self.against}; calibrate again, or `pneumoq models "
                    f"promote {number}`"
                )
            aliases.move(
                connection,
                aliases.CHAMPION,
                number,
                who,
                f"calibrated from model {self.row['id']}: {self.verdict.text}",
            )

        database.write(engine, move)


def free_name(engine: sa.Engine, row: sa.RowMapping) -> str:
    """The model's name with `-calibrated` behind it, and a number where that is taken."""
    stem = re.sub(r"-calibrated(-\d+)?$", "", row["name"])[: submit.LONGEST_NAME - 20]
    taken = {row["name"] for row in models.listing(engine)}
    names = (f"{stem}-calibrated{f'-{n}' if n > 1 else ''}" for n in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken)


def origin(engine: sa.Engine, row: sa.RowMapping) -> dict[str, Any]:
    """What the new version's card says of the model that it is of."""
    sha256 = models.file_of(engine, row["id"])["sha256"]
    return {"model": row["id"], "name": row["name"], "sha256": sha256}


def show(report: Mapping[str, Any]) -> None:
    """Print what a calibration came to."""
    from trainer.judging import figures

    positive = report["positive"]
    before, after = report["metrics"]["before"], report["metrics"]["after"]
    click.echo(
        f"model {report['calibrated_from']} on {report['films']} films of {report['patients']} "
        f"patients ({output.printable(report['calibrated_on'])}), {report['positives']} of them "
        f"{positive}; operating point by {report['rule']}, scored in {report['scored_in']}\n"
    )
    rows: list[Sequence[Any]] = [
        (name, f"{report[name]['before']:.4f}", f"{report[name]['after']:.4f}")
        for name in ("threshold", "temperature")
    ]
    left, right = evaluate.readable(before), evaluate.readable(after)
    rows += [(name, left.get(name), right.get(name)) for name in SHOWN if name in right]
    output.grid(["", "as it is", "calibrated, on films that chose nothing"], rows)
    click.echo("95 % intervals in brackets")
    if said := figures.goal(report["rule"], after):
        click.echo(said)
    if report["patients_are"] == "unknown":
        click.echo("patients: unknown; figures may be too good, and intervals too narrow", err=True)
    for note in (*report["notes"], *report.get("precisions", ())):
        click.echo(output.printable(note), err=True)
    if report["unreadable"]:
        n = sum(report["unreadable"].values())
        click.echo(f"Not among them, as they could not be read: {n} files", err=True)
        for name in report["unreadable_files"]:
            click.echo(f"  {output.printable(name)}", err=True)
    gate = report["gate"]
    passes = "passes" if gate["accepted"] else "does not pass"
    click.echo(f"\nIt {passes} the gate against model {gate['against']}: {gate['reason']}")
    number = report["model_id"]
    if number is None:
        click.echo("Nothing was changed: --dry-run")
    elif report["promoted"]:
        click.echo(
            f"model {number} ({output.printable(report['name'])}) is now the champion; "
            "`pneumoq models rollback` goes back"
        )
    else:
        click.echo(
            f"model {number} ({output.printable(report['name'])}) is a candidate: `pneumoq models "
            f"promote {number}` makes it the champion"
        )
