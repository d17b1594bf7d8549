"""`pneumoq models reference`: what the scores of a model's jobs are held against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from db.base import database
from db.registry import aliases, drift
from scheduler import session
from scheduler.errors import Failure
from scheduler.show import output

#: Characters of the longest bar.
BAR = 40

JOB_COLUMNS = (
    "job", "against", "films", "psi", "psi_limit", "ks", "unusual", "warned", "measured",
)  # fmt: skip


@click.command("reference")
@click.argument("model")
@click.option(
    "--job", type=session.JOB, help="Make this scoring job the measure of later ones."
)  # fmt: skip
@click.option("--validation", is_flag=True, help="Go back to the validation films.")
@output.json_option
def command(model: str, job: int | None, validation: bool, as_json: bool) -> None:
    """Show, or choose, what the scores of a model's jobs are held against.

    A new model's measure is how its scores were spread over its validation films. When a scoring
    job ends, its own are compared with that, and a difference which neither chance nor habit
    explains is told: by the job, by `jobs show`, in v_drift and to the hooks. Nothing is changed by
    it. An archive that differs from the training films in a known way, with fewer sick people in
    it, say, has a job that is as it should be: --job makes that the measure.

    \b
    Examples:
      pneumoq models reference champion
      pneumoq models reference champion --job 7
    """
    if job is not None and validation:
        raise Failure("--job and --validation cannot both be the measure; give one of them")
    engine = session.database()
    row = aliases.resolve(engine, model)
    number, who = int(row["id"]), session.who()
    if job is not None:
        chosen = job
        measure = database.write(engine, lambda c: drift.use_job(c, number, chosen, who))
    elif validation:
        measure = database.write(engine, lambda c: drift.use_validation(c, number, who))
    else:
        _show(row, as_json)
        return
    if as_json:
        output.emit({"model_id": number, "name": row["name"], **measure}, as_json=True)
    else:
        click.echo(
            f"jobs of model {number} ({row['name']}) are held against "
            f"{described(measure, row['calibrated_on'])} from now on"
        )


def described(measure: Mapping[str, Any] | None, calibrated_on: str | None) -> str | None:
    """A measure in a few words; None where there is none.

    `calibrated_on` is what its model was calibrated on, if on anything.
    """
    if measure is None:
        return None
    unusual = "" if measure["unusual"] is None else f", {measure['unusual']:,} of them unusual"
    own = "calibration films" if calibrated_on else "validation films"
    films = own if measure["of"] == "validation" else f"films of {measure['of']}"
    return f"{measure['n']:,} {films}{unusual}"


def _show(row: Mapping[Any, Any], as_json: bool) -> None:
    engine, number = session.database(), int(row["id"])
    measure = drift.measured_by(row["reference"])
    measured = drift.of_model(engine, number)
    if as_json:
        output.emit(
            {"model_id": number, "name": row["name"], **(measure or {}), "jobs": measured},
            as_json=True,
        )
        return
    if measure is None:
        click.echo(
            f"model {number} ({row['name']}) has nothing that its jobs are held against; "
            f"`pneumoq models reference {number} --job N` makes a scoring job its measure"
        )
    else:
        click.echo(
            f"jobs of model {number} ({row['name']}) are held against "
            f"{described(measure, row['calibrated_on'])}:"
        )
        for line in _bars(measure["histogram"]):
            click.echo(line)
    if measured:
        click.echo(f"\n{click.style('Latest jobs', bold=True)}")
        output.table([_job(one) for one in measured], JOB_COLUMNS)


def _bars(histogram: list[int]) -> list[str]:
    """The histogram of P(positive), a line for each bucket."""
    most, width = max(histogram), len(f"{max(histogram):,}")
    step = 1 / len(histogram)
    return [
        f"  {n * step:.2f} to {(n + 1) * step:.2f}  {films:>{width},}  "
        f"{'#' * -(-films * BAR // most)}".rstrip()
        for n, films in enumerate(histogram)
    ]


def _job(row: Mapping[Any, Any]) -> dict[str, Any]:
    """A row of the drift table with JOB_COLUMNS."""
    return {
        "job": row["job_id"],
        "against": row["reference"],
        "films": row["n"],
        "psi": round(row["psi"], 3),
        "psi_limit": round(row["psi_limit"], 3),
        "ks": round(row["ks"], 3),
        "unusual": row["unusual"],
        "warned": "warned" if row["warned"] else "",
        "measured": output.when(row["measured_at"]),
    }
