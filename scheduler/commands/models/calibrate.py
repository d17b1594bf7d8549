"""`pneumoq models calibrate`: a model's operating point, chosen anew on a site's own films."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import sqlalchemy as sa

from db.base import database
from db.base.errors import Conflict
from db.nightly import nights
from db.queue import jobs
from db.registry import aliases, engines, events, models
from scheduler import errors, numbers, session
from scheduler.commands.models import evaluate
from scheduler.show import output
from scheduler.submitting import submit

if TYPE_CHECKING:
    from db.queue import labels
    from trainer.card import Card
    from trainer.judging.crossfit import CrossFitted
    from trainer.judging.gate import Anchor
    from trainer.judging.verdict import Side, Verdict
    from worker.training.recalibrating import Films

#: Figures that are shown, before and after.
SHOWN = ("sensitivity", "specificity", "ppv", "npv", "accuracy", "auroc", "ece")

#: How the evaluations of both versions on the films are called.
SPLIT = "calibration films"

_SHARE = numbers.Real(0, 1)


@click.command("calibrate", short_help="Choose a model's operating point on your own films.")
@click.argument("model")
@click.option(
    "--data", type=click.Path(path_type=Path, exists=True),
    help="Labelled films that choose: a folder of one folder per class, or a manifest.",
)  # fmt: skip
@click.option(
    "--job",
    type=session.JOB,
    help="A scoring job of this model whose labels were imported, instead of --data.",
)
@click.option(
    "--target", "--operating-point", "rule", metavar="RULE",
    help="youden, sensitivity=0.95, specificity=0.95 or cost=5, as of `train`. Default: what the "
    "model's own was chosen by.",
)  # fmt: skip
@click.option("--name", callback=submit.short, help="Name of the new version.")
@click.option("--patient-pattern", help="Regular expression that finds the patient, as of `train`.")
@click.option(
    "--promote", is_flag=True, help="Make it the champion where the gate lets it through."
)
@click.option(
    "--margin-auroc", type=_SHARE, default=0.01, show_default=True,
    help="The gate: by how much it may be worse than the champion on AUROC.",
)  # fmt: skip
@click.option(
    "--margin-sensitivity", type=_SHARE, default=0.02, show_default=True,
    help="… on sensitivity, each at its own operating point.",
)  # fmt: skip
@click.option(
    "--margin-specificity", type=_SHARE, default=0.05, show_default=True,
    help="… on specificity.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@output.json_option
@click.pass_context
def command(
    ctx: click.Context, /, model: str, data: Path | None, job: int | None, rule: str | None,
    name: str | None, patient_pattern: str | None, promote: bool, dry_run: bool, as_json: bool,
    **margins: float,
) -> None:  # fmt: skip
    """Choose a model's temperature and operating point anew, on labelled films of this site.

    The new version has the same weights to the byte. It is a model of its own, which says what it
    was calibrated from and on; the old one stays as it is. Figures are of films that chose nothing:
    of each fifth of the patients the other four decide. At least 50 films of each class are needed,
    of 20 patients, and more for a target near 1.

    --data scores the films here; those that the model has learned do not count. --job takes the
    scores that a finished job has kept, and labels brought in by `labels import`: no film is read.

    The new version goes through the gate of nightly models, against the champion on the same films.
    A higher sensitivity costs specificity: say with --margin-specificity how much, or promote it
    yourself. `models rollback` goes back.

    \b
    Examples:
      pneumoq models calibrate champion --data /data/ours --target sensitivity=0.95 --dry-run
      pneumoq models calibrate champion --data /data/ours --target sensitivity=0.95
      pneumoq models calibrate champion --job 7 --promote --margin-specificity 0.15
    """
    if (data is None) == (job is None):
        raise click.UsageError("give --data FOLDER, or --job N of a job with labels")
    if dry_run and promote:
        raise click.UsageError("--dry-run changes nothing; leave out --promote")
    ctx.exit(
        _Calibration(model, rule, data=data, job=job, pattern=patient_pattern).run(
            name=name, promote=promote, dry_run=dry_run, margins=margins, as_json=as_json
        )
    )


class _Calibration:
    """One call of the command."""

    def __init__(
        self, model: str, rule: str | None, *, data: Path | None, job: int | None,
        pattern: str | None,
    ) -> None:  # fmt: skip
        from scheduler.commands import train
        from trainer.card import Card

        self._settings, self._engine = session.settings(), session.database()
        self._row = aliases.resolve(self._engine, model)
        self._card = Card.from_json(json.dumps(self._row["card"]))
        self._rule = rule or _own_rule(self._card)
        train.check_operating_point(self._rule)
        self._data, self._job, self._pattern = data, job, pattern
        with database.reading(self._engine) as connection:
            self._champion = aliases.model_of(connection, aliases.CHAMPION)

    def run(
        self, *, name: str | None, promote: bool, dry_run: bool, margins: Mapping[str, float],
        as_json: bool,
    ) -> int:  # fmt: skip
        """Calibrate, judge, register and print; the exit status."""
        from scheduler.commands import train
        from trainer.judging import figures
        from trainer.judging.verdict import Margins, Side
        from worker.training import recalibrating

        if name is not None:
            train.check_name(self._engine, name)
        against = self._against(promote)
        films = self._films()
        new = recalibrating.choose(films, self._card, self._rule)
        truth = films.labels == self._card.positive_index
        own = Side(score=films.scores[:, self._card.positive_index], threshold=self._card.threshold)
        champion = own if against == self._row["id"] else self._side_of(against, films)
        verdict = recalibrating.judged(
            truth, films.patients, new.side(), champion,
            Margins(**{name.removeprefix("margin_"): value for name, value in margins.items()}),
            self._anchor_beside(against, films, own, promote),
        )  # fmt: skip
        card = recalibrating.recalibrated_card(
            self._card, films, new, self._rule, _origin(self._engine, self._row)
        )
        before = figures.summary(own.score, truth, own.threshold, films.patients, known=films.known)
        report: dict[str, Any] = {
            "model_id": None, "name": None, "calibrated_from": self._row["id"],
            "calibrated_on": films.on, "films": len(truth), "positives": int(truth.sum()),
            "patients": len(set(films.patients)), "patients_are": films.known,
            "positive": card.positive, "rule": self._rule,
            "temperature": {"before": self._card.temperature, "after": card.temperature},
            "threshold": {"before": self._card.threshold, "after": card.threshold},
            "bias": new.chosen.bias.tolist(),
            "metrics": {"before": before, "after": card.metrics},
            "scored_in": self._precision(), "notes": list(films.notes),
            "unreadable": dict(films.unreadable), "unreadable_files": films.named[: evaluate.NAMED],
            "gate": {
                "against": against, "accepted": verdict.accepted, "reason": verdict.text,
                "figures": verdict.figures,
            },
            "promoted": False,
        }  # fmt: skip
        if not dry_run:
            name = name or _free_name(self._engine, self._row)
            number, precisions = self._register(name, card, films, new, before, verdict, against)
            report |= {"model_id": number, "name": name, "precisions": precisions}
            if promote and verdict.accepted:
                self._promote(number, against, verdict)
                report["promoted"] = True
        output.emit(report, as_json=True) if as_json else _print(report)
        if promote and not report["promoted"]:
            return errors.JOB_FAILED
        return errors.ITEM_ERRORS if films.unreadable else errors.DONE

    def _against(self, promote: bool) -> int:
        """The model that the new version is compared with: the champion, where that can be."""
        own = int(self._row["id"])
        if self._champion is None or self._champion == own:
            return own
        if self._job is None:
            return int(self._champion)
        if promote:
            raise errors.Failure(
                f"job {self._job} has no scores of the champion, model {self._champion}, which the "
                "new version is to be compared with; give --data, or leave out --promote"
            )
        return own

    def _films(self) -> Films:
        from trainer.data.labelled import NAMING
        from trainer.data.whose import Whose
        from worker.machine import privacy
        from worker.training import recalibrating

        def key() -> bytes:
            return privacy.load(self._settings).key_of_manifests()

        said = Whose(naming=NAMING, pattern=self._pattern, key=key)
        if self._data is None:
            assert self._job is not None
            from db.queue import labels

            rows = _rows(self._engine, self._job, int(self._row["id"]))
            return recalibrating.of_job(labels.split(self._job), self._card, rows, said)
        learned = {film.sha256 for film in nights.learned(self._engine, [int(self._row["id"])], -1)}
        on, films, notes = recalibrating.found(self._data, self._card, said, learned)
        return self._scored(int(self._row["id"]), on, films, notes)

    def _scored(self, model_id: int, on: str, films: Sequence[Any], notes: Sequence[str]) -> Films:
        from worker.decoding import labelled
        from worker.decoding.labelled import Limits
        from worker.scoring import serving
        from worker.training import recalibrating

        with serving.opened(self._settings, self._engine, model_id, "fp32") as network:
            decoder = labelled.processes(Limits.of(self._settings))
            return recalibrating.of_source(network, on, films, notes, decoder)

    def _anchor_beside(self, against: int, films: Films, own: Side, promote: bool) -> Anchor | None:
        """The anchor, where new versions are compared with the champion and that is not it."""
        from trainer.judging.gate import Anchor

        if against != self._champion:
            return None
        with database.reading(self._engine) as connection:
            number, why = aliases.anchor(connection), aliases.why_anchor(connection)
        if number is None or number == against:
            return None
        if number == self._row["id"]:
            return Anchor(side=own, model=number, why=why)
        if self._job is not None:
            if promote:
                raise errors.Failure(
                    f"job {self._job} has no scores of the anchor, model {number}, {why}, which "
                    "the new version is to be compared with; give --data, or leave out --promote"
                )
            return None
        return Anchor(side=self._side_of(number, films, "anchor"), model=number, why=why)

    def _side_of(self, number: int, films: Films, what: str = "champion") -> Side:
        """What the champion or the anchor says of the films; Failure where that cannot be."""
        from trainer.judging.verdict import Side

        row = models.get(self._engine, number)
        known = [label["name"] for label in models.detail(self._engine, number)["labels"]]
        _check_same(self._card, self._row["id"], row, known, f"the {what}, model {number},")
        theirs = self._scored(number, films.on, films.judged, ())
        if len(theirs.labels) != len(films.labels):
            raise errors.Failure("some films could not be read a second time; try again")
        return Side(
            score=theirs.scores[:, known.index(self._card.positive)],
            threshold=float(row["threshold"]),
        )

    def _precision(self) -> str:
        return "fp32" if self._job is None else str(jobs.get(self._engine, self._job)["precision"])

    def _register(
        self, name: str, card: Card, films: Films, new: CrossFitted,
        before: Mapping[str, float], verdict: Verdict, against: int,
    ) -> tuple[int, list[str]]:  # fmt: skip
        """Write and register the new version; its number, and a sentence per faster precision."""
        from trainer.judging.figures import GIVEN
        from worker.decoding import labelled
        from worker.decoding.labelled import Limits
        from worker.engine import store
        from worker.training import recalibrating

        settings, engine, own = self._settings, self._engine, int(self._row["id"])
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
                files, usable, films, self._card, new, batch=settings.batch,
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
        with tempfile.TemporaryDirectory(prefix="pneumoq-") as work:
            made = recalibrating.write(
                {one: path for one, path in files.items() if one in passed}, Path(work), card, new
            )
            said = json.loads(card.to_json())
            fresh = models.NewModel.of(
                said,
                name=name,
                origin=self._row["origin"],
                files=made,
                dataset_id=self._row["dataset_id"],
                parent_id=own,
                calibrated_on=films.on,
                calibration_films=truth_films,
                calibration_patients=len(set(films.patients)),
                engines=rows,
                reference=recalibrating.reference(films, new),
            )

            def register(connection: sa.Connection) -> int:
                number = models.register(connection, fresh, who)
                for model_id, measured in ((number, card.metrics), (own, before)):
                    kept = {k: v for k, v in measured.items() if k != "films"}
                    kept["basis"] = card.basis if number == model_id else GIVEN
                    models.record_evaluation(
                        connection, model_id, SPLIT, {**kept, "n_films": truth_films},
                        job_id=self._job,
                    )  # fmt: skip
                passes = "passes" if verdict.accepted else "does not pass"
                events.log(
                    connection, number, who, "calibrated",
                    f"from model {own} on {truth_films} films of "
                    f"{len(set(films.patients))} patients; it {passes} the gate against model "
                    f"{against}: {verdict.text}",
                )  # fmt: skip
                return number

            return database.write(engine, register), notes

    def _promote(self, number: int, against: int, verdict: Verdict) -> None:
        who = session.who()

        def move(connection: sa.Connection) -> None:
            champion = aliases.model_of(connection, aliases.CHAMPION, lock=True)
            if champion not in (None, against):
                raise Conflict(
                    f"the champion was changed to model {champion} meanwhile, and model {number} "
                    f"was compared with model {against}; calibrate again, or `pneumoq models "
                    f"promote {number}`"
                )
            aliases.move(
                connection, aliases.CHAMPION, number, who,
                f"calibrated from model {self._row['id']}: {verdict.text}", anchor=False,
            )  # fmt: skip

        database.write(self._engine, move)


def _rows(engine: sa.Engine, job_id: int, model_id: int) -> list[labels.Scored]:
    """The labelled predictions of a job of this model."""
    from db.queue import labels

    job = jobs.get(engine, job_id)
    if job["kind"] == "score" and job["model_id"] != model_id:
        raise errors.Failure(
            f"job {job_id} was scored by model {job['model_id']}, not by model "
            f"{model_id}; score its films with --model {model_id}, and import "
            "the labels for that job"
        )
    return labels.scored(engine, job_id)


def _free_name(engine: sa.Engine, row: sa.RowMapping) -> str:
    """The model's name with `-calibrated` behind it, and a number where that is taken."""
    stem = re.sub(r"-calibrated(-\d+)?$", "", row["name"])[: submit.LONGEST_NAME - 20]
    taken = {row["name"] for row in models.listing(engine)}
    names = (f"{stem}-calibrated{f'-{n}' if n > 1 else ''}" for n in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken)


def _origin(engine: sa.Engine, row: sa.RowMapping) -> dict[str, Any]:
    """What the new version's card says of the model that it is of."""
    sha256 = models.file_of(engine, row["id"])["sha256"]
    return {"model": row["id"], "name": row["name"], "sha256": sha256}


def _check_same(
    card: Card, number: int, row: sa.RowMapping, known: Sequence[str], other: str
) -> None:
    """Raise Failure where the other model answers another question than the calibrated one."""
    if row["positive"] != card.positive:
        raise errors.Failure(
            f"{other} tells {row['positive']} from the rest, and model {number} {card.positive}; "
            "they cannot be compared"
        )
    if set(known) != set(card.labels):
        raise errors.Failure(
            f"{other} has other classes than model {number}; they cannot be compared"
        )


def _own_rule(card: Card) -> str:
    """What the model's operating point was chosen by; Youden's where it does not say."""
    first = card.threshold_rule.partition(" ")[0]
    return first if re.fullmatch(r"(sensitivity|specificity|cost)=[\d.]+", first) else "youden"


def _print(report: Mapping[str, Any]) -> None:
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
