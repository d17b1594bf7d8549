"""The commands of `pneumoq jobs` that look: ls, show, watch, errors, events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
import sqlalchemy as sa

from db.base import database
from db.base.schema import JOB_STATES, evaluations
from db.nightly import runs
from db.queue import jobs, training
from db.registry import drift
from scheduler import engines, session
from scheduler.show import follow, output, summary
from scheduler.submitting import submit

JOB = session.JOB

LIST_COLUMNS = ("job", "kind", "state", "progress", "errors", "model", "submitted", "by", "reason")


@click.command("ls")
@click.option(
    "--limit", type=session.ROWS, default=20, show_default=True,
    help="Newest jobs to list.",
)  # fmt: skip
@click.option("--all", "everything", is_flag=True, help="List all jobs, however many.")
@click.option("--open", "only_open", is_flag=True, help="Only jobs that have not ended.")
@click.option("--kind", type=click.Choice(["score", "train"]), help="Only jobs of this kind.")
@click.option(
    "--state", "states", multiple=True, type=click.Choice(JOB_STATES), metavar="STATE",
    help=f"Only jobs in this state; may be repeated. STATE is one of: {', '.join(JOB_STATES)}.",
)  # fmt: skip
@click.option("--by", help="Only jobs whose submitter (user@host) has this text in it.")
@output.json_option
def ls(
    limit: int,
    everything: bool,
    only_open: bool,
    kind: str | None,
    states: tuple[str, ...],
    by: str | None,
    as_json: bool,
) -> None:
    """List jobs, newest first.

    \b
    Examples:
      pneumoq jobs ls --open --kind train
      pneumoq jobs ls --state failed --state cancelled --by maria@
    """
    engine = session.database()
    rows = jobs.recent(
        engine,
        limit=2**62 if everything else limit,
        only_open=only_open,
        kind=kind,
        states=states,
        by=by,
    )
    if as_json:
        output.emit(rows, as_json=True)
        return
    output.emit(
        [_listed(engine, row) for row in rows],
        as_json=False,
        columns=LIST_COLUMNS,
        nothing="no such jobs"
        if only_open or kind or states or by
        else "no jobs yet; `pneumoq score --help` makes one",
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


@click.command("show")
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
    shown |= {name: row[name] for name in ("key", "spec", "passed_over", "dataset_id")}
    shown |= {name: row[name] for name in ("attempts", "worker_id", "lease_until")}
    ended = row["finished_at"] is not None
    shown["waits"] = None if ended else engines.waits(engine, row["engine"])
    sources = [
        {name: value for name, value in source.items() if name != "paths"}
        for source in jobs.source_rows(engine, job)
    ]
    with database.reading(engine) as connection:
        run = runs.of_job(connection, job)
    if run is not None:
        shown["schedule"] = f"{run.name}, run of {output.when(run.scheduled_for)}"
        shown["outcome"] = run.outcome or run.state
    if row["kind"] == "train":
        more: dict[str, Any] = {"epochs": training.epoch_rows(engine, job)}
    else:
        more = _of_scoring(engine, row)
    if as_json:
        output.emit({**shown, "sources": sources, "epochs": [], **more}, as_json=True)
        return
    spec = shown.pop("spec")
    shown["waits"] = (shown["waits"] or "").removeprefix("waits ")
    if (shown["key"] or "").startswith(submit.ONCE):
        del shown["key"]  # nobody gave it
    if row["kind"] == "train":
        for name in ("items", "done", "predictions", "positives", "unusual", "looks", "refused",
                     "errors", "shards", "shards_done"):  # fmt: skip
            del shown[name]
    else:
        shown["from_store"] = more["from_store"]
        if spec.get("max_errors") is not None:
            broken = _share(int(shown["errors"]), row["planned_items"])
            shown["error_budget"] = f"{spec['max_errors']} ({broken} so far)"
        for name in ("refused", "errors"):
            shown[name] = _counts(more[f"{name}_by_code"], int(shown[name]))
        shown["drift"] = _drift(more["drift"])
    times = [name for name in shown if name.endswith("_at") or name == "lease_until"]
    shown |= {name: output.when(shown[name]) for name in times}
    output.facts(shown)
    if spec:
        _heading("Options")
        output.facts({name: "none" if v is None else v for name, v in spec.items()})
    if sources:
        _heading("Sources")
        output.table(sources, ["source_no", "kind", "uri"])
    if more.get("evaluation"):
        _heading("By the labels that were brought in")
        evaluation = more["evaluation"]
        output.facts({"films": evaluation["n_films"], **evaluation["metrics"]})
    if more.get("epochs"):
        _heading("Epochs")
        output.table(
            more["epochs"],
            ["epoch", "train_loss", "val_loss", "val_accuracy", "val_auroc", "learning_rate",
             "films_per_s", "seconds", "best"],
        )  # fmt: skip


def _of_scoring(engine: sa.Engine, row: sa.RowMapping) -> dict[str, Any]:
    """What is shown of a scoring job beside its progress; None what a purge has removed."""
    job, kept = int(row["id"]), row["purged_at"] is None
    with database.reading(engine) as connection:
        found: dict[str, Any] = {
            f"{name}_by_code": _by_code(connection, view, job) if kept else None
            for name, view in (("refused", "v_refusals"), ("errors", "v_item_errors"))
        }
        found["evaluation"] = (
            connection.execute(
                sa.select(evaluations)
                .where(evaluations.c.job_id == job)
                .order_by(evaluations.c.id.desc())
            )
            .mappings()
            .first()
        )
    found["drift"] = drift.of_job(engine, job)
    # All predictions are looked at for it: of a million, for longer than somebody should wait who
    # looks again and again.
    ended = row["finished_at"] is not None
    found["from_store"] = summary.from_store(engine, job) if ended and kept else None
    return found


def _drift(measured: Mapping[str, Any] | None) -> str | None:
    """What was measured, in a sentence that says first whether it is a warning."""
    if measured is None:
        return None
    return f"{'warning: ' if measured['warned'] else 'none seen: '}{measured['detail']}"


def _by_code(connection: sa.Connection, view: str, job: int) -> list[sa.RowMapping]:
    statement = sa.text(
        f"SELECT code, count(*) AS n FROM {view} WHERE job_id = :job "  # noqa: S608  # constants
        "GROUP BY code ORDER BY n DESC, code"
    )
    return list(connection.execute(statement, {"job": job}).mappings())


def _share(broken: int, items: int) -> str:
    return f"{broken:,} of {items:,} items" + (f", {broken / items:.2%}" if items else "")


def _heading(title: str) -> None:
    click.echo(f"\n{click.style(title, bold=True)}")


@click.command("watch")
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
    ctx.exit(follow.follow(session.database(), job, as_json=as_json))


@click.command("errors")
@click.argument("job", type=JOB)
@click.option(
    "--limit", type=click.IntRange(0, session.ROWS.max), default=50, show_default=True,
    help="Items to list, in the order of the source.",
)  # fmt: skip
@click.option(
    "--refused", is_flag=True, help="List the items that were refused, in place of the broken."
)
@output.json_option
def errors(job: int, limit: int, refused: bool, as_json: bool) -> None:
    """List a scoring job's broken items; count them, and what was refused, by kind.

    An error is a broken item. A refusal is an intact one that is no film to be scored.

    \b
    Examples:
      pneumoq jobs errors 5 --limit 10
      pneumoq jobs errors 5 --refused
    """
    engine = session.database()
    jobs.check_kept(job, jobs.get(engine, job)["purged_at"])
    view, name = ("v_refusals", "refusals") if refused else ("v_item_errors", "errors")
    with database.reading(engine) as connection:
        broken_by_code = _by_code(connection, "v_item_errors", job)
        refused_by_code = _by_code(connection, "v_refusals", job)
        listed = list(
            connection.execute(
                sa.text(
                    f"SELECT item_no, name, source, code, detail, found_at FROM {view} "  # noqa: S608  # constants
                    "WHERE job_id = :job ORDER BY item_no LIMIT :limit"
                ),
                {"job": job, "limit": limit},
            ).mappings()
        )
    if as_json:
        found = {"job_id": job, name: listed, "errors_by_code": broken_by_code}
        output.emit({**found, "refusals_by_code": refused_by_code}, as_json=True)
        return
    if listed:
        output.table(listed, ["item_no", "name", "code", "detail"])
        click.echo()
    click.echo(f"errors:  {_counts(broken_by_code)}")
    click.echo(f"refused: {_counts(refused_by_code)}")
    shown_of = refused_by_code if refused else broken_by_code
    total = sum(row["n"] for row in shown_of)
    if total > len(listed):
        option = " --refused" if refused else ""
        click.echo(f"All of them: pneumoq jobs errors {job}{option} --limit {total}")
    if refused_by_code and not refused:
        click.echo(f"Refused items: pneumoq jobs errors {job} --refused")


def _counts(by_code: list[sa.RowMapping] | None, purged: int = 0) -> str:
    """Items by code; `purged` is how many they were where the codes are not known any more."""
    if by_code is None and purged:
        return f"{purged:,} (not known any more of what kind)"
    if not by_code:
        return "none"
    total = sum(row["n"] for row in by_code)
    kinds = ", ".join(f"{row['n']:,} {row['code']}" for row in by_code)
    return f"{total:,} ({kinds})"


@click.command("events")
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


COMMANDS = (ls, show, watch, errors, events)
