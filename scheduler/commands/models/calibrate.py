"""`pneumoq models calibrate`: a model's operating point, chosen anew on a site's own films."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import sqlalchemy as sa

from db.base import database
from db.nightly import nights
from db.queue import jobs
from db.registry import aliases, models
from scheduler import errors, session
from scheduler.commands.models import calibrated, evaluate
from scheduler.show import output
from scheduler.submitting import judging, submit

if TYPE_CHECKING:
    from db.queue import labels
    from trainer.card import Card
    from trainer.judging.gate import Anchor
    from trainer.judging.verdict import Side
    from worker.training.site_films import Films


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
@judging.options("The gate: ")
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@output.json_option
@click.pass_context
def command(
    ctx: click.Context, /, model: str, data: Path | None, job: int | None, rule: str | None,
    name: str | None, patient_pattern: str | None, promote: bool, dry_run: bool, as_json: bool,
    **rules: Any,
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
            name=name, promote=promote, dry_run=dry_run, rules=rules, as_json=as_json
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
        #: Sentences about what the new version is not compared with.
        self._notes: list[str] = []
        with database.reading(self._engine) as connection:
            self._champion = aliases.model_of(connection, aliases.CHAMPION)

    def run(
        self, *, name: str | None, promote: bool, dry_run: bool, rules: Mapping[str, Any],
        as_json: bool,
    ) -> int:  # fmt: skip
        """Calibrate, judge, register and print; the exit status."""
        from scheduler.commands import train
        from trainer.judging import figures
        from trainer.judging.verdict import Side
        from worker.training import judging as gates
        from worker.training import recalibrating

        if name is not None:
            train.check_name(self._engine, name)
        against = self._against(promote)
        films = self._films()
        new = recalibrating.choose(films, self._card, self._rule)
        truth = films.labels == self._card.positive_index
        own = Side(score=films.scores[:, self._card.positive_index], threshold=self._card.threshold)
        champion, theirs = (
            (own, self._card.shift)
            if against == self._row["id"]
            else self._side_of(against, films, "champion")
        )
        card = recalibrating.recalibrated_card(
            self._card, films, new, self._rule, calibrated.origin(self._engine, self._row)
        )
        verdict = recalibrating.judged(
            truth, films.patients, new.side(), champion, gates.of_rules(rules),
            self._anchor_beside(against, films, own, promote), (card.shift, theirs),
        )  # fmt: skip
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
            "scored_in": self._precision(), "notes": [*films.notes, *self._notes],
            "unreadable": dict(films.unreadable), "unreadable_files": films.named[: evaluate.NAMED],
            "gate": {
                "against": against, "accepted": verdict.accepted, "reason": verdict.text,
                "figures": verdict.figures,
            },
            "promoted": False,
        }  # fmt: skip
        if not dry_run:
            name = name or calibrated.free_name(self._engine, self._row)
            version = calibrated.Version(
                row=self._row, was=self._card, card=card, films=films, new=new, before=before,
                verdict=verdict, against=against, job=self._job,
            )  # fmt: skip
            number, precisions = version.register(self._settings, self._engine, name)
            report |= {"model_id": number, "name": name, "precisions": precisions}
            if promote and verdict.accepted:
                version.promote(self._engine, number)
                report["promoted"] = True
        output.emit(report, as_json=True) if as_json else calibrated.show(report)
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
        self._not_compared(f"the champion, model {self._champion},", promote)
        return own

    def _not_compared(self, other: str, promote: bool) -> None:
        """A job has no scores of a model that the gate compares with: it does not open then."""
        if promote:
            raise errors.Failure(
                f"job {self._job} has no scores of {other} which the new version is to be compared "
                "with; give --data, or leave out --promote"
            )
        self._notes.append(
            f"not compared with {other} as job {self._job} has no scores of it: with --data it is, "
            "and before you promote the new version it should be"
        )

    def _films(self) -> Films:
        from trainer.data.labelled import NAMING
        from trainer.data.learned import Learned
        from trainer.data.names import Names
        from trainer.data.whose import Whose
        from worker.machine import privacy
        from worker.training import site_films

        def key() -> bytes:
            return privacy.load(self._settings).key_of_manifests()

        said = Whose(naming=NAMING, pattern=self._pattern, key=key)
        if self._data is None:
            assert self._job is not None
            from db.queue import measured

            rows = _rows(self._engine, self._job, int(self._row["id"]))
            return site_films.of_job(measured.split(self._job), self._card, rows, said)
        was = nights.learned(self._engine, [int(self._row["id"])], -1)
        on, films, notes = site_films.found(
            self._data, self._card, said, Learned.of(was, names=Names(key=key()))
        )  # fmt: skip
        return self._scored(int(self._row["id"]), on, films, notes)

    def _scored(self, model_id: int, on: str, films: Sequence[Any], notes: Sequence[str]) -> Films:
        from worker.decoding import labelled
        from worker.decoding.labelled import Limits
        from worker.scoring import serving
        from worker.training import site_films

        with serving.opened(self._settings, self._engine, model_id, "fp32") as network:
            decoder = labelled.processes(Limits.of(self._settings))
            return site_films.of_source(network, on, films, notes, decoder)

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
            return Anchor(side=own, model=number, why=why, shift=self._card.shift)
        if self._job is not None:
            self._not_compared(f"the anchor, model {number}, {why},", promote)
            return None
        side, shift = self._side_of(number, films, "anchor")
        return Anchor(side=side, model=number, why=why, shift=shift)

    def _side_of(
        self, number: int, films: Films, what: str
    ) -> tuple[Side, Mapping[str, Any] | None]:
        """What the champion or the anchor says of the films, and its shift report.

        Failure where that cannot be.
        """
        from trainer.judging.verdict import Side

        row = models.get(self._engine, number)
        known = [label["name"] for label in models.detail(self._engine, number)["labels"]]
        _check_same(self._card, self._row["id"], row, known, f"the {what}, model {number},")
        theirs = self._scored(number, films.on, films.judged, ())
        if len(theirs.labels) != len(films.labels):
            raise errors.Failure("some films could not be read a second time; try again")
        side = Side(
            score=theirs.scores[:, known.index(self._card.positive)],
            threshold=float(row["threshold"]),
        )
        return side, (row["card"] or {}).get("shift")

    def _precision(self) -> str:
        return "fp32" if self._job is None else str(jobs.get(self._engine, self._job)["precision"])


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
