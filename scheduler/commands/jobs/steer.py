"""The commands of `pneumoq jobs` that change jobs: cancel, pause, resume, retry, purge."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import click
import sqlalchemy as sa
from click.core import ParameterSource

from db.base import database
from db.queue import jobs
from db.work import control
from scheduler import engines, errors, session
from scheduler.show import output
from scheduler.submitting import submit

JOB = session.JOB

#: What an age may be counted in, in days.
UNITS = {"h": 1 / 24, "d": 1, "w": 7}

reason_option = click.option("--reason", help="Why; kept in the job's history.")


@click.command("cancel")
@click.argument("job", type=JOB)
@reason_option
@output.json_option
def cancel(job: int, reason: str | None, as_json: bool) -> None:
    """End a job now. What its workers have committed stays.

    Workers notice within a few seconds and turn to the next job.

    \b
    Example:
      pneumoq jobs cancel 5 --reason "wrong folder"
    """
    outcome = "is cancelled; what was committed stays"
    _change(control.cancel, job, reason, outcome, as_json=as_json)


@click.command("pause")
@click.argument("job", type=JOB)
@reason_option
@output.json_option
def pause(job: int, reason: str | None, as_json: bool) -> None:
    """Stop working on a job until it is resumed. What its workers have committed stays.

    Workers notice within a few seconds and turn to the next job.

    \b
    Example:
      pneumoq jobs pause 5 --reason "the ward needs the machine"
    """
    outcome = f"is paused: `pneumoq jobs resume {job}` goes on with it"
    _change(control.pause, job, reason, outcome, as_json=as_json)


@click.command("resume")
@click.argument("job", type=JOB)
@reason_option
@output.json_option
def resume(job: int, reason: str | None, as_json: bool) -> None:
    """Go on with a paused job where it was.

    \b
    Example:
      pneumoq jobs resume 5
    """
    _change(control.resume, job, reason, "goes on", as_json=as_json)
    engine = session.database()
    submit.notify(
        session.settings(), "train" if jobs.get(engine, job)["kind"] == "train" else "score"
    )


def _change(
    change: Callable[[sa.Connection, int, str, str | None], None],
    job: int,
    reason: str | None,
    outcome: str,
    *,
    as_json: bool,
) -> None:
    engine, who = session.database(), session.who()
    database.write(engine, lambda connection: change(connection, job, who, reason))
    if as_json:
        output.emit(dict(jobs.progress(engine, job)), as_json=True)
    else:
        click.echo(f"job {job} {outcome}")


@click.command("retry")
@click.argument("job", type=JOB)
@click.option(
    "--failed-only", is_flag=True,
    help="Only the items that are in error or have no outcome.",
)  # fmt: skip
@click.option(
    "--max-errors", callback=submit.budget, metavar="5%|N",
    help="Another error budget than that job had.",
)  # fmt: skip
@engines.option("Score with another engine than that job asked for; auto is any.")
@click.option(
    "--for", "share", callback=submit.share, metavar="KEY",
    help="Whose share of the workers it takes. Default: that job's.",
)  # fmt: skip
@submit.options
@click.pass_context
def retry(
    ctx: click.Context,
    job: int,
    failed_only: bool,
    max_errors: str | None,
    asked_engine: str | None,
    share: str | None,
    wait: bool,
    local: bool,
    later: bool,
    priority: int,
    key: str | None,
    as_json: bool,
) -> None:
    """Do a job again that has ended, as a new job with the same sources, model and options.

    Final states are final: the old job keeps its state and its rows, and the new one names it as
    its parent. What was scored is answered from the database, unless that job was forced. With
    --failed-only the error budget is not taken over.

    \b
    Examples:
      pneumoq jobs retry 5 --failed-only --wait
      pneumoq jobs retry 5 --max-errors 20%
    """
    settings, engine, who = session.settings(), session.database(), session.who()
    earlier = jobs.get(engine, job)
    kind, wanted = earlier["kind"], earlier["engine"]
    if asked_engine is not None:
        if kind != "score":
            raise errors.Failure(f"job {job} is no scoring job: leave --engine out")
        wanted = engines.stored(asked_engine)
    changes: dict[str, Any] = {"key": key or submit.once(), "engine": wanted}
    if share is not None:
        changes["share"] = share
    if max_errors is not None or failed_only:
        # What failed once often fails again: a budget for all items would end this job at once.
        changes["max_errors"] = max_errors
    if ctx.get_parameter_source("priority") is not ParameterSource.DEFAULT:
        changes["priority"] = priority

    same = {
        "parent_job_id": job,
        "spec": control.spec_again(earlier["spec"], failed_only=failed_only, **changes),
        "engine": wanted,
    }

    def make(connection: sa.Connection) -> int:
        return control.retry(connection, job, who, failed_only=failed_only, **changes)

    ctx.exit(
        submit.submit(
            engines.settings_of(settings, wanted), engine, kind, make,
            wanted=wanted, same=same, key=key, wait=wait, local=local, later=later, as_json=as_json,
        )
    )  # fmt: skip


def _age(_: click.Context, __: click.Parameter, value: str) -> timedelta:
    found = re.fullmatch(r"(\d{1,5})([hdw])", value)
    if found is None:
        raise click.BadParameter(f"{value!r} is no age; write it like 90d, 12h or 8w")
    return timedelta(days=int(found[1]) * UNITS[found[2]])


@click.command("purge")
@click.option(
    "--older-than", "age", required=True, callback=_age, metavar="AGE",
    help="Age since the job ended: 90d, 12h or 8w.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only say which jobs it would be.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@output.json_option
def purge(age: timedelta, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Remove the outcomes of old scoring jobs that have ended; the jobs and their sums stay.

    Predictions, refusals, errors, maps and labels of those jobs are gone for good, and films are
    not answered from them any more. Their names go too, on other machines within an hour. Export
    first what is to be kept.

    \b
    Examples:
      pneumoq jobs purge --older-than 90d --dry-run
      pneumoq jobs purge --older-than 90d --yes
    """
    from db.work import purge as purging
    from worker.service import retention

    engine = session.database()
    found = purging.candidates(engine, age)
    ids = [row["id"] for row in found]
    if as_json and (dry_run or not found):
        output.emit({"jobs": ids, "purged": False}, as_json=True)
        return
    if not found:
        click.echo("no scoring job ended that long ago", err=True)
        return
    if not as_json:
        output.table(
            [
                {"job": row["id"], "items": row["planned_items"], "ended": row["finished_at"]}
                for row in found
            ],
            ["job", "items", "ended"],
        )
    if dry_run:
        click.echo("Nothing was removed; leave --dry-run out to do it.")
        return
    if not yes:
        if not sys.stdin.isatty():
            raise errors.Failure("this removes rows for good: add --yes to mean it")
        click.confirm(f"Remove the outcomes of {len(found)} jobs for good?", abort=True, err=True)
    gone = purging.purge(engine, age, session.who())
    retention.forget_names(session.settings(), engine)
    if as_json:
        output.emit({"jobs": ids, "purged": True, "items": gone.items}, as_json=True)
    else:
        jobs_ = "job is" if gone.jobs == 1 else "jobs are"
        click.echo(f"{gone.jobs} {jobs_} purged of {gone.items:,} items")


COMMANDS = (cancel, pause, resume, retry, purge)
