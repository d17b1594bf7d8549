"""`pneumoq jobs`: what was asked of the workers, how far it is, and what went wrong."""

from __future__ import annotations

from typing import Any

import click
import sqlalchemy as sa

from db import database, jobs, training
from scheduler import output, session

#: A job's number; no larger one can be stored.
JOB = click.IntRange(1, 2**63 - 1)

LIST_COLUMNS = ("job", "kind", "state", "progress", "errors", "model", "submitted", "by", "reason")


@click.group("jobs")
def command() -> None:
    """List, follow and cancel jobs; see their errors.

    \b
    Examples:
      pneumoq jobs ls --open
      pneumoq jobs watch 5
      pneumoq jobs errors 5
    """


@command.command("ls")
@click.option(
    "--limit", type=click.IntRange(1, 2**31), default=20, show_default=True,
    help="Newest jobs to list.",
)  # fmt: skip
@click.option("--all", "everything", is_flag=True, help="List all jobs, however many.")
@click.option("--open", "only_open", is_flag=True, help="Only jobs that have not ended.")
@click.option("--kind", type=click.Choice(["score", "train"]), help="Only jobs of this kind.")
@output.json_option
def ls(limit: int, everything: bool, only_open: bool, kind: str | None, as_json: bool) -> None:
    """List jobs, newest first.

    \b
    Example:
      pneumoq jobs ls --open --kind train
    """
    engine = session.database()
    rows = jobs.recent(engine, limit=2**62 if everything else limit, only_open=only_open, kind=kind)
    if as_json:
        output.emit(rows, as_json=True)
        return
    output.emit(
        [_listed(engine, row) for row in rows],
        as_json=False,
        columns=LIST_COLUMNS,
        nothing="no open jobs" if only_open else "no jobs yet; `pneumoq score --help` makes one",
    )


def _listed(engine: sa.Engine, row: sa.RowMapping) -> dict[str, Any]:
    if row["kind"] == "train":
        done = len(training.epoch_rows(engine, row["job_id"]))
        progress = f"{done} {'epoch' if done == 1 else 'epochs'}"
    else:
        progress = f"{row['done']:,}/{row['items']:,} films"
    return {
        "job": row["job_id"],
        "kind": row["kind"],
        "state": row["state"],
        "progress": progress,
        "errors": int(row["errors"]) if row["kind"] == "score" else None,
        "model": row["model_id"],
        "submitted": output.when(row["created_at"]),
        "by": row["submitted_by"],
        "reason": row["reason"],
    }


@command.command("show")
@click.argument("job", type=JOB)
@output.json_option
def show(job: int, as_json: bool) -> None:
    """Show all that is known of a job: options, sources, counts, epochs.

    \b
    Example:
      pneumoq jobs show 5
    """
    engine = session.database()
    row = jobs.get(engine, job)
    shown: dict[str, Any] = dict(jobs.progress(engine, job))
    shown |= {name: row[name] for name in ("spec", "passed_over", "dataset_id", "parent_job_id")}
    shown |= {name: row[name] for name in ("attempts", "worker_id", "lease_until")}
    sources = jobs.source_rows(engine, job)
    epochs = training.epoch_rows(engine, job) if row["kind"] == "train" else []
    if as_json:
        output.emit({**shown, "sources": sources, "epochs": epochs}, as_json=True)
        return
    spec = shown.pop("spec")
    if row["kind"] == "train":
        for name in ("items", "done", "predictions", "positives", "unusual", "refused", "errors",
                     "shards", "shards_done"):  # fmt: skip
            del shown[name]
    times = [name for name in shown if name.endswith("_at") or name == "lease_until"]
    shown |= {name: output.when(shown[name]) for name in times}
    output.facts(shown)
    if spec:
        _heading("Options")
        output.facts({name: "none" if v is None else v for name, v in spec.items()})
    if sources:
        _heading("Sources")
        output.table(sources, ["source_no", "kind", "uri"])
    if epochs:
        _heading("Epochs")
        output.table(
            epochs,
            ["epoch", "train_loss", "val_loss", "val_accuracy", "val_auroc", "learning_rate",
             "films_per_s", "seconds", "best"],
        )  # fmt: skip


def _heading(title: str) -> None:
    click.echo(f"\n{click.style(title, bold=True)}")


@command.command("watch")
@click.argument("job", type=JOB)
@output.json_option
@click.pass_context
def watch(ctx: click.Context, job: int, as_json: bool) -> None:
    """Follow a job until it ends; Ctrl-C leaves it running.

    Progress goes to standard error, the summary to standard output. The exit status is 0 for a
    completed job, 1 for a failed or cancelled one, 3 for one that has item errors.

    \b
    Example:
      pneumoq jobs watch 5 && echo all films are scored
    """
    from scheduler import follow

    ctx.exit(follow.follow(session.database(), job, as_json=as_json))


@command.command("errors")
@click.argument("job", type=JOB)
@click.option(
    "--limit", type=click.IntRange(0, 2**31), default=50, show_default=True,
    help="Items to list, in the order of the source.",
)  # fmt: skip
@output.json_option
def errors(job: int, limit: int, as_json: bool) -> None:
    """List a scoring job's broken items; count them, and what was refused, by kind.

    An error is a broken item. A refusal is an intact one that is no film to be scored; those are
    only counted here.

    \b
    Example:
      pneumoq jobs errors 5 --limit 10
    """
    engine = session.database()
    jobs.get(engine, job)
    with database.reading(engine) as connection:

        def rows(statement: str, **values: int) -> list[sa.RowMapping]:
            return list(connection.execute(sa.text(statement), {"job": job} | values).mappings())

        by_code = rows(
            "SELECT code, count(*) AS n FROM v_item_errors WHERE job_id = :job "
            "GROUP BY code ORDER BY n DESC, code"
        )
        refused = rows(
            "SELECT code, count(*) AS n FROM v_refusals WHERE job_id = :job "
            "GROUP BY code ORDER BY n DESC, code"
        )
        listed = rows(
            "SELECT item_no, name, source, code, detail, found_at FROM v_item_errors "
            "WHERE job_id = :job ORDER BY item_no LIMIT :limit",
            limit=limit,
        )
    if as_json:
        found = {"job_id": job, "errors": listed, "errors_by_code": by_code}
        output.emit({**found, "refusals_by_code": refused}, as_json=True)
        return
    if listed:
        output.table(listed, ["item_no", "name", "code", "detail"])
        click.echo()
    click.echo(f"errors:  {_counts(by_code)}")
    click.echo(f"refused: {_counts(refused)}")
    if sum(row["n"] for row in by_code) > len(listed):
        click.echo(f"All of them: pneumoq jobs errors {job} --limit {2**31}")
    if refused:
        click.echo(
            'Refused items: pneumoq query "SELECT name, code, detail FROM v_refusals '  # noqa: S608
            f'WHERE job_id = {job}"'
        )


def _counts(by_code: list[sa.RowMapping]) -> str:
    if not by_code:
        return "none"
    total = sum(row["n"] for row in by_code)
    kinds = ", ".join(f"{row['n']:,} {row['code']}" for row in by_code)
    return f"{total:,} ({kinds})"


@command.command("events")
@click.argument("job", type=JOB)
@output.json_option
def events(job: int, as_json: bool) -> None:
    """Print a job's history, oldest first: who did what, when and why.

    \b
    Example:
      pneumoq jobs events 5
    """
    rows = jobs.events(session.database(), job)
    output.emit(rows, as_json=as_json, columns=["at", "who", "event", "detail"])


@command.command("cancel")
@click.argument("job", type=JOB)
@click.option("--reason", help="Why; kept in the job's history.")
@output.json_option
def cancel(job: int, reason: str | None, as_json: bool) -> None:
    """End a job now. What its workers have committed stays.

    Workers notice within a few seconds and turn to the next job.

    \b
    Example:
      pneumoq jobs cancel 5 --reason "wrong folder"
    """
    engine = session.database()
    who = session.who()
    database.write(engine, lambda connection: jobs.cancel(connection, job, who, reason))
    if as_json:
        output.emit(dict(jobs.progress(engine, job)), as_json=True)
    else:
        click.echo(f"job {job} is cancelled; what was committed stays")
